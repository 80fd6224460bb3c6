"""The rank of a noisy matrix by variational Bayes, in closed form.

Y = B Aᵀ + noise of variance σ², Y of shape (L, M) with L ≤ M, and of every component h a normal prior on its columns,
a_h ~ N(0, c_a² I), b_h ~ N(0, c_b² I), whose variances are learned with σ² (empirical Bayes).  Under independent normal
posteriors of A and B the global optimum keeps a component with singular value γ_h exactly if

    γ_h > σ √(M x̲),   x̲ = (1 + τ̲)(1 + α/τ̲),   α = L/M,   Φ(τ̲) + Φ(τ̲/α) = 0,   Φ(z) = ln(1 + z)/z − ½

and shrinks it to γ̂ = γ/2 · (1 − (L+M)σ²/γ² + √((1 − (L+M)σ²/γ²)² − 4LMσ⁴/γ⁴)).  The noise variance is where

    Ω(σ²) = Σ_h [x_h − ln x_h + [x_h > x̲] ψ₁(x_h)],   x_h = γ_h² / (M σ²),
    ψ₁(x) = ln(τ + 1) + α ln(τ/α + 1) − τ,   τ(x) = ½ (x − (1 + α) + √((x − (1 + α))² − 4α))

is least (Nakajima, Sugiyama, Babacan & Tomioka 2013, JMLR 14, theorems 2 and 3 and corollary 1).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

# Ω has several local minima; each of so many places between its bounds, evenly on a log scale, is looked at first
_PLACES = 400


@dataclass(frozen=True)
class Factorization:
    """What empirical variational Bayes makes of a matrix.

    Attributes:
        rank: components that it keeps.
        values: float64, (rank,): their singular values, shrunk.
        noise_variance: σ².
        threshold: σ √(M x̲), the smallest singular value that is kept.
    """

    rank: int
    values: np.ndarray
    noise_variance: float
    threshold: float


def evbmf(singular_values: np.ndarray, shape: tuple[int, int], noise_variance: float | None = None) -> Factorization:
    """Rank, values and noise of a matrix.

    Args:
        singular_values: all of them, (min(shape),).
        shape: of the matrix, either way up.
        noise_variance: σ², learned if it is not given.
    """
    rows, columns = min(shape), max(shape)
    squares = np.sort(np.asarray(singular_values, np.float64) ** 2)[::-1]
    bound = smallest_kept(rows / columns)
    if noise_variance is None:
        noise_variance = _noise_variance(squares, rows, columns, bound)
    threshold = math.sqrt(noise_variance * columns * bound)
    kept = squares[np.sqrt(squares) > threshold]
    with np.errstate(divide="ignore"):
        share = 1 - (rows + columns) * noise_variance / kept
        inside = np.maximum(share**2 - 4 * rows * columns * noise_variance**2 / kept**2, 0)
    values = np.sqrt(kept) / 2 * (share + np.sqrt(inside))
    return Factorization(len(kept), values, noise_variance, threshold)


def smallest_kept(alpha: float) -> float:
    """x̲ of matrices with L/M = α: above (1 + √α)², up to where noise alone reaches in large matrices."""

    def free_energy(tau: float) -> float:
        return _phi(tau) + _phi(tau / alpha)

    tau = float(brentq(free_energy, 1e-6 * math.sqrt(alpha), 10.0))
    return (1 + tau) * (1 + alpha / tau)


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _noise_variance(squares: np.ndarray, rows: int, columns: int, bound: float) -> float:
    """Where Ω is least, between the bounds of the paper's theorem 3."""
    total = float(squares.sum())
    if total == 0:
        return 0.0
    most = math.ceil(rows / (1 + rows / columns)) - 1
    rest: np.ndarray = squares[most:]
    above = total / (rows * columns)
    below = max(float(rest[0]) / (columns * bound), float(rest.mean()) / columns)
    # of a matrix of low rank without noise it is the precision of its numbers
    below = min(max(below, float(np.finfo(np.float32).eps) ** 2 * above), above)

    def objective(log_variance: float) -> float:
        return _omega(
            np.maximum(squares, np.finfo(np.float64).tiny) / (columns * math.exp(log_variance)), rows, columns, bound
        )

    places = np.linspace(math.log(below), math.log(above), _PLACES)
    best = int(np.argmin([objective(place) for place in places]))
    around = float(places[max(best - 1, 0)]), float(places[min(best + 1, _PLACES - 1)])
    if around[0] == around[1]:
        return math.exp(around[0])
    found = minimize_scalar(objective, bounds=around, method="bounded")
    return math.exp(min((float(places[best]), float(found.x)), key=objective))


def _omega(x: np.ndarray, rows: int, columns: int, bound: float) -> float:
    alpha = rows / columns
    kept = x[x > bound]
    tau = (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return float((x - np.log(x)).sum() + gain.sum())
