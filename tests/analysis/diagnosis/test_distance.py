"""How far a guide is from the best of its family, against normal posteriors, of which all is known."""

import numpy as np
import pytest

from pyro_compress.analysis.diagnosis.distance import distance

MEAN = np.array([1.0, -2.0, 0.5])
COVARIANCE = np.array([[1.0, 0.8, 0.1], [0.8, 1.5, -0.3], [0.1, -0.3, 0.4]])
PRECISION = np.linalg.inv(COVARIANCE)
LOC, SD = np.array([0.7, -1.0, 0.6]), np.array([0.3, 0.9, 2.0])


def draws(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a guide that is off, and the gradients of the posterior there."""
    u = LOC + SD * np.random.default_rng(0).standard_normal((count, 3))
    return u, -(u - MEAN) @ PRECISION


def test_independent_guides_are_held_against_the_precisions_diagonal() -> None:
    best = 1 / np.sqrt(np.diag(PRECISION))
    found = distance(*draws(40), LOC, SD, "mean-field")
    np.testing.assert_allclose(found.shift, (MEAN - LOC) / best)
    np.testing.assert_allclose(found.ratio, SD / best)
    np.testing.assert_allclose(found.posterior_ratio, SD / np.sqrt(np.diag(COVARIANCE)))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.shift_error, 0.0, atol=1e-9)


def test_guides_with_correlations_are_held_against_the_posterior() -> None:
    found, best = distance(*draws(40), LOC, SD, "full-rank"), np.sqrt(np.diag(COVARIANCE))
    np.testing.assert_allclose(found.shift, (MEAN - LOC) / best)
    np.testing.assert_allclose(found.ratio, SD / best)
    assert found.worst == np.argmax(np.abs(MEAN - LOC) / best)


def test_few_draws_are_looked_at_coordinate_by_coordinate() -> None:
    """Which gives the same where the posterior has no correlations."""
    u, gradient = draws(12)
    assert distance(u, gradient, LOC, SD, "mean-field").posterior_ratio is None
    diagonal = np.diag([4.0, 1.0, 0.25])
    wide = LOC + SD * np.random.default_rng(1).standard_normal((15, 3))
    found = distance(wide, -(wide - MEAN) @ diagonal, LOC, SD, "mean-field")
    np.testing.assert_allclose(found.shift, (MEAN - LOC) * np.array([2.0, 1.0, 0.5]))
    np.testing.assert_allclose(found.ratio, SD * np.array([2.0, 1.0, 0.5]))


def test_noise_of_the_gradients_is_in_the_error_of_the_shift() -> None:
    """Where the guide is right, so that the noise of the curvature does not matter."""
    generator, scores, sd = np.random.default_rng(3), [], np.sqrt(np.diag(COVARIANCE))
    for _ in range(200):
        u = MEAN + sd * generator.standard_normal((60, 3))
        gradient = -(u - MEAN) @ PRECISION + 0.3 * generator.standard_normal(u.shape)
        found = distance(u, gradient, MEAN, sd, "full-rank")
        scores.append(found.shift / found.shift_error)
    assert np.sqrt(np.mean(np.square(scores))) == pytest.approx(1.0, abs=0.15)


def test_a_log_joint_that_bends_up_has_no_best_guide() -> None:
    u, _ = draws(40)
    found = distance(u, u - MEAN, LOC, SD, "full-rank")
    assert np.isinf(found.shift).all()
