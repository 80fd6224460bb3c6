"""The rule by which candidates are accepted: exact at ties, never bolder with fewer data, and its bound holds."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.models.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from pyro_compress.pipeline.acceptance import changed, clearly_worse, rise_of, upper_points, within
from pyro_compress.pipeline.validation import Judge


def errors(wrong: int, count: int, first: int = 0) -> np.ndarray:
    """So many errors of one from a place on, as float64 like those of `predict`."""
    found = np.zeros(count)
    found[first : first + wrong] = 1
    return found


def accepts(newly_wrong: int, newly_right: int, count: int, tolerance: float) -> bool:
    rise, _ = rise_of(errors(newly_wrong, count, newly_right), errors(newly_right, count), targets=1)
    return within(rise, tolerance)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 9000), st.integers(0, 200))
def test_it_is_the_comparison_of_integers(wrong: int, right: int, count: int, hundredths: int) -> None:
    exact = Fraction(wrong - right, count) * 100 <= Fraction(hundredths, 100)
    assert accepts(wrong, right, count, hundredths / 100) == exact


@given(st.integers(0, 9), st.integers(0, 9), st.integers(20, 500), st.integers(2, 12), st.integers(0, 300))
def test_what_fewer_data_allow_more_data_allow(wrong: int, right: int, count: int, times: int, hundredths: int) -> None:
    if accepts(wrong, right, count, hundredths / 100):
        assert accepts(times * wrong, times * right, times * count, hundredths / 100)


def test_one_new_error_counts_as_one_however_it_is_written() -> None:
    assert not accepts(1, 0, 187, 0.2)  # 0.53 points, and its standard error is as large
    assert not accepts(2, 1, 187, 0.2)
    assert accepts(1, 1, 187, 0.0)
    for count, tolerance in ((500, 0.2), (1000, 0.1), (3000, 0.1), (5000, 0.02)):
        allowed = round(tolerance * count / 100)
        assert accepts(allowed, 0, count, tolerance) and not accepts(allowed + 1, 0, count, tolerance)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(70, 400))
def test_worse_than_its_standard_error_is_decided_in_integers(wrong: int, right: int, count: int) -> None:
    after, before = errors(wrong, count, right), errors(right, count)
    assert clearly_worse(after, before, targets=1) == (wrong > right and (wrong - right) ** 2 > wrong + right)
    rise, standard_error = rise_of(after, before, targets=1)
    if (wrong - right) ** 2 != wrong + right:  # a tie, where floats would decide
        assert clearly_worse(after, before, targets=1) == (rise > 0 and rise > standard_error)


def test_shares_of_several_targets_are_counted() -> None:
    # float32 thirds, as `Bernoulli.error` gives them: one target of 3 × 40 is newly wrong
    before = np.full(40, np.float32(1) / np.float32(3), np.float32).astype(float)
    after = before.copy()
    after[7] = np.float32(2) / np.float32(3)
    rise, _ = rise_of(after, before, targets=3)
    assert rise == 100 / 120 and changed(after, before, 3) == (1, 0) and changed(before, after, 3) == (0, 1)


@pytest.mark.parametrize(("wrong", "right", "count"), [(0.01, 0.006, 2000), (0.002, 0.0, 300), (0.03, 0.03, 500)])
def test_the_bound_is_above_the_true_rise_nine_times_in_ten(wrong: float, right: float, count: int) -> None:
    random = np.random.default_rng(0)
    drawn = random.multinomial(count, [wrong, right, 1 - wrong - right], 4000)
    above = np.mean([upper_points(int(b - c), int(b + c), count) > 100 * (wrong - right) for b, c, _ in drawn])
    assert above > 0.88 and (above < 0.97 or count * wrong < 1)  # where next to nothing changes it cannot be sharp


def test_positions_of_one_example_are_not_independent() -> None:
    # 200 examples of 50 positions that change together: all of an example's, or none
    random = np.random.default_rng(0)
    examples, positions, share = 200, 50, 0.02
    bounds, naive = [], []
    for _ in range(2000):
        difference = (random.random(examples) < share).astype(float)
        bounds.append(upper_points(difference.sum(), (difference**2).sum(), examples) > 100 * share)
        changes = positions * difference.sum()
        naive.append(upper_points(changes, changes, positions * examples) > 100 * share)
    assert np.mean(bounds) > 0.88 > 0.8 > np.mean(naive)


def test_evidence_of_positions_is_of_examples() -> None:
    x, y = torch.zeros(4, 1, 6), torch.zeros(4, 6, dtype=torch.int64)
    judge = Judge(nn.Conv1d(1, 2, 1), as_data((x, y), validation=(x + 1, y), classes=2), Categorical())
    errors, reference = np.array([3.0, 0.0, 1.0, 0.0]) / 6, np.array([0.0, 0.0, 2.0, 0.0]) / 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "errors", lambda decision: errors)
        found = judge.evidence(None, reference)  # type: ignore[arg-type]
    assert found["rise_points"] == 100 * 2 / 24 and (found["newly_wrong"], found["newly_right"]) == (3, 1)
    assert found["upper_points_90"] == pytest.approx(upper_points(2 / 6, 10 / 36, 4))
    spread = 100 * np.std([0.5, 0, -1 / 6, 0], ddof=1) / 2
    assert judge.rise_of(errors, reference)[1] == pytest.approx(spread)


class Line(nn.Module):
    def __init__(self, outputs: int, factor: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, outputs, bias=False)
        self.layer.weight.data = factor * torch.linspace(-1, 1, 4 * outputs).reshape(outputs, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e4])
def test_squared_errors_are_measured_by_the_targets(unit: float) -> None:
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    y = unit * Line(2, 1.0)(x).detach()
    judge = Judge(Line(2, 1.0), as_data((x + 1, y), validation=(x, y)), Gaussian(noise=1.0))
    best, worse = (judge.errors_of(Line(2, unit * factor)) for factor in (1.0, 0.9))
    rise, standard_error = judge.rise_of(worse, best)
    # 0.1² of the variance is left unexplained
    assert rise == pytest.approx(1.0, rel=0.02) and 0 < standard_error < 0.1
    assert judge.targets is None


@pytest.mark.parametrize(
    ("likelihood", "targets"), [(Categorical(), 1), (Bernoulli(), 3), (Gaussian(noise=1.0), None), (Poisson(), None)]
)
def test_which_errors_are_counted(likelihood: Any, targets: int | None) -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1) if isinstance(likelihood, Categorical) else (x[:, :3] > 0).float()
    judge = Judge(Line(3, 1.0), as_data((x + 1, y), validation=(x, y)), likelihood)
    assert judge.targets == targets
