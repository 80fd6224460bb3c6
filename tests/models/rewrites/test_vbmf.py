"""Ranks by variational Bayes: against planted ranks, the bound in closed form, and the iteration that it solves."""

import math

import numpy as np
import pytest

from pyro_compress.models.rewrites.vbmf import Factorization, _noise_variance, _omega, evbmf, smallest_kept


def planted(shape: tuple[int, int], rank: int, noise: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    left, right = generator.standard_normal((shape[0], rank)), generator.standard_normal((rank, shape[1]))
    return np.asarray(left @ right + noise * generator.standard_normal(shape))


def found_in(matrix: np.ndarray, noise_variance: float | None = None) -> Factorization:
    return evbmf(np.linalg.svd(matrix, compute_uv=False), matrix.shape, noise_variance)


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80), (20, 300)])
@pytest.mark.parametrize("rank", [0, 1, 7])
def test_a_planted_rank_is_found_with_its_noise(shape: tuple[int, int], rank: int) -> None:
    found = found_in(planted(shape, rank, 0.7, seed=rank))
    assert found.rank == rank
    assert found.noise_variance == pytest.approx(0.49, rel=0.1)


def test_a_matrix_without_noise_has_the_rank_that_it_has() -> None:
    assert found_in(planted((30, 50), 4, 0.0, seed=1).astype(np.float32)).rank == 4
    assert found_in(np.zeros((3, 5))).rank == 0


def test_a_weak_component_is_kept_from_the_bound_on() -> None:
    """One component of a known strength in an orthogonal frame, just below and just above σ √(M x̲)."""
    rows, columns, noise_variance = 10, 25, 0.3
    threshold = math.sqrt(noise_variance * columns * smallest_kept(rows / columns))
    for factor, rank in ((0.999, 0), (1.001, 1)):
        values = np.array([factor * threshold] + [0.1] * (rows - 1))
        found = evbmf(values, (rows, columns), noise_variance)
        assert (found.rank, found.threshold) == (rank, pytest.approx(threshold))


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
def test_the_bound_is_where_keeping_a_component_begins_to_pay(alpha: float) -> None:
    bound = smallest_kept(alpha)
    # beyond what noise alone gives in large matrices (Marchenko & Pastur); τ̲ is near 2.5129 √α, and that at α = 1
    assert bound > (1 + math.sqrt(alpha)) ** 2
    tau = 2.5129 * math.sqrt(alpha)
    assert bound == pytest.approx((1 + tau) * (1 + alpha / tau), rel=1e-4 if alpha == 1 else 0.03)
    rows = 300
    above, below = (
        _omega(np.array([bound * factor]), rows, round(rows / alpha), bound) for factor in (1 + 1e-7, 1 - 1e-7)
    )
    assert above == pytest.approx(below, abs=1e-4)


def test_values_are_where_coordinate_descent_ends() -> None:
    """Updates of the posteriors of A and B and of the prior variances one after the other, σ² given."""
    matrix, noise_variance = planted((12, 20), 2, 0.5, seed=3), 0.25
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rows, columns = matrix.shape
    rank = 2
    b, a = left[:, :rank] * np.sqrt(values[:rank]), right[:rank].T * np.sqrt(values[:rank])
    b_variance, a_variance, prior = np.full(rank, 0.1), np.full(rank, 0.1), np.ones((2, rank))
    for _ in range(3000):
        a_variance = 1 / ((np.sum(b**2, 0) + rows * b_variance) / noise_variance + 1 / prior[0])
        a = matrix.T @ b * a_variance / noise_variance
        b_variance = 1 / ((np.sum(a**2, 0) + columns * a_variance) / noise_variance + 1 / prior[1])
        b = matrix @ a * b_variance / noise_variance
        prior = np.array([np.mean(a**2, 0) + a_variance, np.mean(b**2, 0) + b_variance])
        # components stand at right angles at the optimum: so they do in these updates
        a = right[:rank].T * np.sum(right[:rank].T * a, 0)
        b = left[:, :rank] * np.sum(left[:, :rank] * b, 0)
    found = evbmf(values, matrix.shape, noise_variance)
    assert found.rank == rank
    np.testing.assert_allclose(found.values, np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), rtol=1e-6)


def test_the_noise_is_where_omega_is_least() -> None:
    matrix = planted((15, 40), 3, 0.6, seed=5)
    squares, alpha = np.linalg.svd(matrix, compute_uv=False) ** 2, 15 / 40
    bound = smallest_kept(alpha)
    found = _noise_variance(squares, 15, 40, bound)
    grid = np.geomspace(squares[-1] / 40 / 10, squares.sum() / 600, 20_000)
    least = min(grid, key=lambda variance: _omega(squares / (40 * variance), 15, 40, bound))
    assert found == pytest.approx(least, rel=2e-3)
