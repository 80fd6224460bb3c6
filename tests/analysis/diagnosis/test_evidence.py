"""Estimators of the evidence of y ~ N(θ, 1), θ ~ N(0, s²), from exact draws of prior and posterior."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from pyro_compress.analysis.diagnosis.evidence import bridge, harmonic_mean, importance_weighted
from pyro_compress.errors import InferenceError

Array = NDArray[np.float64]
Y, SCALE = 1.7, 3.0
TRUTH = float(norm(0, np.hypot(SCALE, 1)).logpdf(Y))
REPEATS = 120


def moments(scale: float = SCALE) -> tuple[float, float]:
    """Mean and sd of the posterior."""
    variance = 1 / (1 + scale**-2)
    return variance * Y, variance**0.5


def log_joint(theta: Array) -> Array:
    return np.asarray(norm(0, SCALE).logpdf(theta) + norm(theta, 1).logpdf(Y))


def ratio(theta: Array, mean: float, sd: float) -> Array:
    return log_joint(theta) - norm(mean, sd).logpdf(theta)


def chains(generator: np.random.Generator, correlation: float, draws: int) -> Array:
    """(4, draws) of the posterior, autoregressive."""
    mean, sd = moments()
    found = generator.normal(size=(4, draws))
    for step in range(1, draws):
        found[:, step] = correlation * found[:, step - 1] + (1 - correlation**2) ** 0.5 * found[:, step]
    return mean + sd * found


def assert_scores(scores: Array) -> None:
    """Of `REPEATS` standard scores: mean 0, mean square 1, within 4 of their own errors and 10 % for short chains."""
    assert abs(scores.mean()) < 4 / REPEATS**0.5 + 0.1
    assert abs(np.square(scores).mean() - 1) < 4 * (2 / REPEATS) ** 0.5 + 0.1


def test_importance_sampling_is_as_far_off_as_its_standard_error_says() -> None:
    generator = np.random.default_rng(1)
    found = [importance_weighted(ratio(generator.normal(1, 2, 500), 1, 2)) for _ in range(REPEATS)]
    assert_scores(np.array([(value - TRUTH) / error for value, error, _ in found]))
    # (E w)² / E w² by quadrature
    theta = np.linspace(-12, 14, 4001)
    weight, density = np.exp(ratio(theta, 1, 2)), norm(1, 2).pdf(theta)
    share = np.trapezoid(weight * density, theta) ** 2 / np.trapezoid(weight**2 * density, theta)
    assert np.mean([effective for *_, effective in found]) == pytest.approx(500 * share, rel=0.02)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_bridge_sampling_is_as_far_off_as_its_standard_error_says(correlation: float) -> None:
    generator = np.random.default_rng(2)
    scores, counts = [], []
    for _ in range(REPEATS):
        drawn, proposed = chains(generator, correlation, 150), generator.normal(0.5, 1.5, 600)
        value, error, effective = bridge(ratio(drawn, 0.5, 1.5), ratio(proposed, 0.5, 1.5))
        scores.append((value - TRUTH) / error)
        counts.append(effective)
    assert_scores(np.array(scores))
    # the log ratio is a linear function of θ, whose draws are worth (1 − ρ) / (1 + ρ) each, and a square: ρ² for ρ
    least, most = (600 * (1 - rho) / (1 + rho) for rho in (correlation, correlation**2))
    assert 0.85 * least < np.mean(counts) < 1.15 * most


def test_bridge_sampling_does_not_mind_tails_that_break_importance_sampling() -> None:
    generator = np.random.default_rng(3)
    mean, sd = moments()
    # weights of a normal whose sd is below 1/√2 of the posterior's have no variance
    drawn, proposed = generator.normal(mean, sd, (4, 500)), generator.normal(mean, sd / 2, 2000)
    value, error, _ = bridge(ratio(drawn, mean, sd / 2), ratio(proposed, mean, sd / 2))
    assert error < 0.05 and abs(value - TRUTH) < 4 * error


def test_bridge_sampling_keeps_to_large_ratios_and_says_where_nothing_overlaps() -> None:
    generator = np.random.default_rng(4)
    drawn, proposed = chains(generator, 0.0, 150), generator.normal(0.5, 1.5, 600)
    first, second = ratio(drawn, 0.5, 1.5), ratio(proposed, 0.5, 1.5)
    value, error, _ = bridge(first, second)
    assert bridge(first - 5e4, second - 5e4)[:2] == pytest.approx((value - 5e4, error))
    with pytest.raises(InferenceError, match='do not overlap: use method="annealed"'):
        bridge(first, np.full(600, -np.inf))


def test_the_harmonic_mean_holds_under_a_narrow_prior_and_not_under_a_wide_one() -> None:
    generator = np.random.default_rng(5)
    scores = {}
    for scale in (0.5, 100.0):
        mean, sd = moments(scale)
        theta = generator.normal(mean, sd, (4, 2500))
        value, error, _ = harmonic_mean(np.asarray(norm(theta, 1).logpdf(Y)))
        scores[scale] = (value - norm(0, np.hypot(scale, 1)).logpdf(Y)) / error
    # 1 / p(y | θ) has a variance where the prior's sd is below 1
    assert abs(scores[0.5]) < 4
    assert scores[100.0] > 10


def test_weights_that_are_none_are_refused() -> None:
    with pytest.raises(InferenceError, match="none of 3 draws has any weight"):
        importance_weighted(np.full(3, -np.inf))
    with pytest.raises(InferenceError, match="infinite weight"):
        importance_weighted(np.array([0.0, np.inf]))
    assert importance_weighted(np.array([0.0, -np.inf]))[0] == pytest.approx(-np.log(2))
