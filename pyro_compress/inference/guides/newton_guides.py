"""The best normal guide over a fixed set of noise, by Newton's method on its mean and its scale.

    maximise over (μ, L)   1/S Σ_s log p(y, μ + L ε_s) + log |det L|

With the noise held fixed the ELBO is a function like any other: it has a maximum that can be reached and seen to be
reached, without a learning rate (Giordano, Ingram & Broderick 2024).  With γ_s = Lᵀ ∇ log p(y, u_s) its gradient is

    a = 1/S Σ γ_s  in L⁻¹ μ        and        I − P,   P = −1/S Σ γ_s ε_sᵀ,   in L,

and P is the posterior's precision in units of the guide (Stein's lemma), from gradients alone (Salimans & Knowles
2013).  A step goes to μ + L P⁻¹ a and L P^(−1/2), or as much of the way as makes the ELBO rise.  The noise is a
scrambled Sobol sequence with its negatives, whitened: where the posterior is normal, one step ends at the exact answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

MOST_GROWTH = 16.0  # of a variance per step
LEAST_CURVATURE = 0.02  # in units of the guide: the mean moves by at most 50 times its gradient
HALVINGS = 12
REFUSED = 1e10  # nats, of a point without probability

# (S, D) -> log joint (S,) and its gradient (S, D), float64
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NormalGuide:
    """N(μ, L Lᵀ) and the log joint at its points.

    Attributes:
        mean: μ, (D,).
        root: L, (D, D); diagonal for independent guides.
        elbo: nats, over the noise.
        gradient: of the log joint at μ + L ε_s, (S, D).
        gain: nats that the last step brought.
    """

    mean: Tensor
    root: Tensor
    elbo: float
    gradient: Tensor
    gain: float = math.inf


def fixed_noise(count: int, width: int, seed: int) -> Tensor:
    """(count, width) float64 whose mean is 0 and whose second moment is the identity; count even and ≥ 2 width."""
    # 0 and 1 have no normal number
    uniform = torch.quasirandom.SobolEngine(width, scramble=True, seed=seed).draw(count // 2).double()
    half = torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))
    noise = torch.cat([half, -half])
    factor = torch.linalg.cholesky(noise.T @ noise / len(noise))
    return torch.linalg.solve_triangular(factor, noise.T, upper=False).T.contiguous()


def guide_at(evaluate: Evaluate, noise: Tensor, mean: Tensor, root: Tensor) -> NormalGuide:
    """The guide with its ELBO, −∞ where the log joint is not finite at one of its points."""
    value, gradient = evaluate(mean + noise @ root.T)
    elbo = float(value.mean() + torch.linalg.slogdet(root)[1])
    usable = math.isfinite(elbo) and bool(torch.isfinite(gradient).all())
    return NormalGuide(mean, root, elbo if usable else -math.inf, gradient)


def improved(evaluate: Evaluate, noise: Tensor, guide: NormalGuide, independent: bool) -> NormalGuide:
    """One step; `gain` is 0 where none made the ELBO rise."""
    scaled = guide.gradient @ guide.root
    slope = scaled.mean(0)
    precision = -(noise.T @ scaled) / len(noise)
    values, vectors = torch.linalg.eigh((precision + precision.T) / 2)
    move = guide.root @ (vectors @ ((vectors.T @ slope) / values.abs().clamp(min=LEAST_CURVATURE)))
    share = 1.0
    for _ in range(HALVINGS):
        if independent:
            narrower = torch.diag(_within(precision.diagonal()) ** (-share / 2))
        else:
            # symmetric: turning the noise would change the ELBO at every step
            narrower = (vectors * _within(values) ** (-share / 2)) @ vectors.T
        found = guide_at(evaluate, noise, guide.mean + share * move, guide.root @ narrower)
        if found.elbo > guide.elbo:
            return replace(found, gain=found.elbo - guide.elbo)
        share /= 2
    return replace(guide, gain=0.0)


def polished(evaluate: Evaluate, noise: Tensor, guide: NormalGuide, independent: bool, most: int) -> NormalGuide:
    """Up to `most` iterations of L-BFGS on μ + L m and L T, which start at m = 0 and T = I.

    Where mean and scale pull at one another, as in hierarchies, `improved` crawls: its step takes each by itself.
    """
    width = len(guide.mean)
    below = torch.tril_indices(width, width, -1)
    constant = float(torch.linalg.slogdet(guide.root)[1])

    def parts(point: np.ndarray) -> tuple[Tensor, Tensor]:
        """m, and T: its diagonal by logarithms."""
        given = torch.from_numpy(point)
        scale = torch.diag(given[width : 2 * width].exp())
        if not independent:
            scale[below[0], below[1]] = given[2 * width :]
        return given[:width], scale

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        moved, scale = parts(point)
        value, gradient = evaluate(guide.mean + (moved + noise @ scale.T) @ guide.root.T)
        elbo = float(value.mean() + scale.diagonal().log().sum() + constant)
        if not (math.isfinite(elbo) and bool(torch.isfinite(gradient).all())):
            return abs(guide.elbo) + REFUSED, np.zeros(len(point))
        scaled = gradient @ guide.root
        slope = scaled.T @ noise / len(noise)
        found = [scaled.mean(0), slope.diagonal() * scale.diagonal() + 1]
        if not independent:
            found.append(slope[below[0], below[1]])
        return -elbo, -torch.cat(found).numpy()

    start = np.zeros(2 * width + (0 if independent else below.shape[1]))
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": most, "maxcor": 20})
    moved, scale = parts(result.x)
    found = guide_at(evaluate, noise, guide.mean + guide.root @ moved, guide.root @ scale)
    if found.elbo > guide.elbo:
        return replace(found, gain=found.elbo - guide.elbo)
    return replace(guide, gain=0.0)


def _within(values: Tensor) -> Tensor:
    return values.clamp(1 / MOST_GROWTH, MOST_GROWTH)
