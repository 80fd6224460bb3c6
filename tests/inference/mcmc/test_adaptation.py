"""What the warm-up learns: step sizes by dual averaging, covariances by windows."""

import itertools
import math

import numpy as np
import pytest

from pyro_compress.errors import InferenceError
from pyro_compress.inference.mcmc.adaptation import Adaptation, DualAveraging, Welford, windows


def test_dual_averaging_finds_the_step_size_of_the_target() -> None:
    # acceptance falls with the step size as exp(−ε), so 0.7 is met at −ln 0.7
    averaging = DualAveraging(5.0, 0.7)
    random = np.random.default_rng(3)
    for _ in range(2000):
        noisy = math.exp(-math.exp(averaging.log_step)) + 0.1 * random.standard_normal()
        averaging.learn(noisy)
    assert math.exp(averaging.log_mean) == pytest.approx(-math.log(0.7), rel=0.05)


def test_the_first_step_of_dual_averaging_is_the_papers() -> None:
    averaging = DualAveraging(0.3, 0.8)
    averaging.learn(0.5)
    error = (0.8 - 0.5) / 11
    assert averaging.log_step == pytest.approx(math.log(3.0) - error / 0.05)
    assert averaging.log_mean == averaging.log_step
    averaging.learn(1.0)
    error = (1 - 1 / 12) * error + (0.8 - 1.0) / 12
    log_step = math.log(3.0) - math.sqrt(2) / 0.05 * error
    assert averaging.log_step == pytest.approx(log_step)
    assert averaging.log_mean == pytest.approx(
        2**-0.75 * log_step + (1 - 2**-0.75) * (math.log(3.0) - (0.8 - 0.5) / 11 / 0.05)
    )


@pytest.mark.parametrize("dense", [False, True])
def test_covariances_are_those_of_the_rows(dense: bool) -> None:
    rows = np.random.default_rng(1).standard_normal((40, 3)) @ np.array([[1.0, 0.5, 0], [0, 2.0, 0.3], [0, 0, 9.0]])
    moments = Welford.of(3, dense)
    for row in rows:
        moments.add(row)
    expected = 40 / 45 * np.cov(rows.T) + 1e-3 * 5 / 45 * np.eye(3)
    np.testing.assert_allclose(moments.covariance(), expected if dense else np.diag(expected), rtol=1e-9)


def test_windows_are_those_of_stan() -> None:
    assert list(windows(1000)) == [(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]
    assert list(windows(100)) == [(15, 90)]
    assert list(windows(19)) == []
    for warmup in (20, 149, 150, 151, 333, 5000):
        found = list(windows(warmup))
        assert found[0][0] > 0 and found[-1][1] < warmup
        assert all(left[1] == right[0] for left, right in itertools.pairwise(found))


def test_nothing_changes_after_the_warm_up() -> None:
    adaptation = Adaptation(2, 30, 0.1, 0.8, "diagonal")
    random = np.random.default_rng(4)
    changed = [adaptation.learn(0.9, random.standard_normal(2) * [1.0, 10.0]) for _ in range(30)]
    assert sum(changed) == 1 and adaptation.search_due
    adaptation.found(0.5)
    held = adaptation.capture()
    assert not adaptation.learn(0.1, np.full(2, 1e9))
    assert adaptation.step_size == 0.5 and adaptation.capture()["count"] == held["count"] == 30
    assert adaptation.scale[1] / adaptation.scale[0] == pytest.approx(10, rel=0.5)
    alone = Adaptation(2, 30, 0.1, 0.0, "identity")
    for _ in range(30):
        assert not alone.learn(0.1, random.standard_normal(2))
    assert alone.step_size == 0.1 and (alone.scale == 1).all()


def test_positions_that_run_away_are_refused() -> None:
    adaptation = Adaptation(2, 20, 0.1, 0.8, "diagonal")
    with (
        pytest.raises(InferenceError, match="positions have run away: is the posterior proper"),
        np.errstate(all="ignore"),
    ):
        for _ in range(20):
            adaptation.learn(0.9, np.array([1.0, math.inf]))
