"""Scores of survival: closed forms without censoring, a published concordance, and curves that are right or wrong."""

import math
import sys
from collections.abc import Callable

import pytest
import torch

from pyro_compress.data.survival import read_rossi
from pyro_compress.errors import DataError
from pyro_compress.report.survival import calibration_error, survival_scores
from tests.data.test_survival import COEFFICIENTS


def exponential(count: int, *, censored: bool, slope: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log rates, and times with hazard exp(rate · slope), censored uniformly on (0, 3)."""
    generator = torch.Generator().manual_seed(4)
    rate = torch.randn(count, generator=generator, dtype=torch.float64)
    time = -torch.rand(count, generator=generator, dtype=torch.float64).log() * (-slope * rate).exp()
    limit = 3 * torch.rand(count, generator=generator, dtype=torch.float64)
    if not censored:
        limit = torch.full_like(limit, torch.inf)
    return rate, torch.stack([torch.minimum(time, limit), (time <= limit).double()], 1)


def curves(rate: torch.Tensor, factor: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda times: (-factor * rate.exp()[:, None] * times).exp()


def test_the_published_concordance_of_rossi() -> None:
    table = read_rossi()
    risk = torch.from_numpy(table.x) @ torch.tensor(COEFFICIENTS, dtype=torch.float64)
    found = survival_scores(risk, curves(risk - 2), torch.from_numpy(table.y), resamples=20)
    assert found["concordance"] == pytest.approx(0.640, abs=5e-4)
    low, high = found["concordance_interval_95"]
    assert 0.55 < low < found["concordance"] < high < 0.73


def test_without_censoring_scores_are_plain_means() -> None:
    rate, target = exponential(60, censored=False)
    found = survival_scores(rate, curves(rate), target, resamples=2)
    time = target[:, 0]
    ordered = (time[:, None] < time[None]) & ~torch.eye(60, dtype=torch.bool)
    assert found["concordance"] == pytest.approx(float((rate[:, None] > rate[None])[ordered].double().mean()))
    first, last = torch.quantile(time, torch.tensor([0.05, 0.95], dtype=torch.float64))
    grid = torch.linspace(float(first), float(last), 100, dtype=torch.float64)
    brier = ((time[:, None] > grid).double() - (-rate.exp()[:, None] * grid).exp()).square().mean(0)
    expected = float(torch.trapezoid(brier, grid) / (last - first))
    assert found["integrated_brier_score"] == pytest.approx(expected, rel=1e-5)


def test_true_curves_score_better_than_wrong_ones_though_both_order_alike() -> None:
    rate, target = exponential(1500, censored=True)
    true, wrong = (survival_scores(rate, curves(rate, f), target, resamples=2) for f in (1.0, 2.0))
    assert true["concordance"] == wrong["concordance"]
    assert true["integrated_brier_score"] < wrong["integrated_brier_score"] - 0.01
    assert true["calibration_error"] < 0.04 < 0.1 < wrong["calibration_error"]


def test_calibration_is_the_distance_to_the_groups_shares() -> None:
    predicted = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6], dtype=torch.float64)
    time = torch.tensor([1.0, 1.5, 3.0, 1.7, 1.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    event = torch.ones(8, dtype=torch.bool)
    # a quarter and three quarters are alive at 2
    found = calibration_error(predicted, event, time, 2.0, groups=2)
    assert found == pytest.approx((0.05 + 0.15) / 2, abs=1e-6)


def test_few_events_leave_groups_and_resamples_without_one() -> None:
    rate = torch.linspace(-2, 2, 60, dtype=torch.float64)
    time = torch.arange(60, 0, -1, dtype=torch.float64)
    target = torch.stack([time, (time < 3).double()], 1)
    found = survival_scores(rate, curves(rate - 5), target)
    assert found["concordance"] == 1.0 and found["concordance_interval_95"] == [1.0, 1.0]
    # by Kaplan and Meier the group of the two events has 11/12 left at 1.5, all others have 1
    assert found["calibration_time"] == 1.5
    predicted = curves(rate - 5)(torch.tensor([1.5], dtype=torch.float64))[:, 0].reshape(5, 12).mean(1)
    left = torch.tensor([1.0, 1.0, 1.0, 1.0, 11 / 12], dtype=torch.float64)
    assert found["calibration_error"] == pytest.approx(float((predicted - left).abs().mean()), rel=1e-5)
    three = survival_scores(rate[-3:], curves(rate[-3:]), target[-3:])
    assert all(math.isfinite(value) for name, value in three.items() if name != "concordance_interval_95")


def test_events_at_one_time_have_no_scores() -> None:
    rate, target = torch.zeros(9), torch.ones(9, 2)
    with pytest.raises(DataError, match="events at different times, and of 9 the middle 90 % are all at 1: give"):
        survival_scores(rate, curves(rate), target)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, target = exponential(20, censored=False)
    target[1:, 1] = 0
    with pytest.raises(DataError, match="at least two events, found 1 in 20 examples"):
        survival_scores(rate, curves(rate), target)
    monkeypatch.setitem(sys.modules, "torchsurv.metrics.brier_score", None)
    with pytest.raises(DataError, match=r"needs the package torchsurv: pip install 'pyro-compress\[survival\]'"):
        survival_scores(rate, curves(rate), target)
