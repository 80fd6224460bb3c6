"""How far draws are from known moments, in Monte Carlo standard errors and in absolute terms."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz
import numpy as np
from torch import Tensor

Sites = Mapping[str, np.ndarray]  # (chain, draw, *shape) by name
Moments = tuple[np.ndarray, np.ndarray]  # mean (k,) and covariance (k, k)


@dataclass(frozen=True)
class Target:
    """A model and what is known of its posterior.

    Attributes:
        model: a `BayesianNetwork` or any Pyro model.
        data: its arguments, or None.
        quantities: (chain, draw, k), float64, from the draws of all sites.
        mean, covariance: of the quantities, (k,) and (k, k).
        reference: where they come from.
        narrowest: a variance in unconstrained space that steps must fit in, about the smallest of the posterior.
        batch: examples per minibatch where the model has any.
        reference_count: effective draws that the reference rests on.
        best_normal: mean and covariance of the quantities under the best 'mean-field', 'full-rank' or 'low-rank' normal
            in unconstrained space, where they are known.
    """

    model: Any
    data: tuple[Tensor, ...] | None
    quantities: Callable[[Sites], np.ndarray]
    mean: np.ndarray
    covariance: np.ndarray
    reference: str
    narrowest: float
    batch: int = 1
    reference_count: float = math.inf
    best_normal: Callable[[str], Moments] | None = None

    @property
    def size(self) -> int:
        """N as step sizes count it: 1 without data."""
        return 1 if self.data is None else len(self.data[0])


@dataclass(frozen=True)
class Errors:
    """The largest errors in mean, sd and correlation, in that order.

    Attributes:
        effective: smallest number of effective draws of any quantity.
        standard_errors: |estimate − truth| over its Monte Carlo standard error.
        absolute: |estimate − truth|: of means in posterior sds, of sds as a share, of correlations as they are.
    """

    effective: float
    standard_errors: tuple[float, float, float]
    absolute: tuple[float, float, float]


def moments(values: np.ndarray) -> Moments:
    """Of equally weighted draws (chain, draw, k)."""
    flat = values.reshape(-1, values.shape[-1])
    return flat.mean(0), np.atleast_2d(np.cov(flat, rowvar=False))


def errors(target: Target, sites: Sites, weights: np.ndarray, independent: bool) -> Errors:
    """How far the moments of draws are from the target's.

    An estimate of a mean of ψ has the variance Var[g] / S, g = S w (ψ − Σ w ψ), with S the effective number of draws
    of g by ArviZ, or all of them where they are independent; without weights g is ψ.  Standard deviations and
    correlations are linearised: with t = (x − μ)/σ their ψ are (t² − 1)/2 and t_i t_j − ρ (t_i² + t_j²)/2.

    Args:
        target: what is true.
        sites: (chain, draw, *shape) by name.
        weights: (chain, draw), summing to one.
        independent: whether the draws are.
    """
    values, sd = target.quantities(sites), np.sqrt(np.diag(target.covariance))
    standard = (values - target.mean) / sd
    pairs = np.triu_indices(len(sd), 1)
    first, second = standard[..., pairs[0]], standard[..., pairs[1]]
    true = (target.covariance / np.outer(sd, sd))[pairs]
    mean = np.einsum("cd,cdk->k", weights, standard)
    centred = standard - mean
    found = np.einsum("cd,cdi,cdj->ij", weights, centred, centred)
    spread = np.sqrt(np.diag(found))
    off = (mean, spread - 1, (found / np.outer(spread, spread))[pairs] - true)
    influence = (standard, (np.square(standard) - 1) / 2, first * second - true * (first**2 + second**2) / 2)
    effective, scores = math.inf, []
    for difference, psi in zip(off, influence, strict=True):
        error, count = _standard_errors(psi, weights, independent, target.reference_count)
        effective = min(effective, float(count.min()))
        scores.append(float((np.abs(difference) / error).max()))
    largest = [float(np.abs(part).max()) for part in off]
    return Errors(effective, (scores[0], scores[1], scores[2]), (largest[0], largest[1], largest[2]))


def _standard_errors(
    psi: np.ndarray, weights: np.ndarray, independent: bool, reference: float
) -> tuple[np.ndarray, np.ndarray]:
    """(standard error with the reference's, effective draws) of the mean of each column of ψ, (chain, draw, k)."""
    centred = psi - np.einsum("cd,cdk->k", weights, psi)
    variance = np.einsum("cd,cdk->k", weights, np.square(centred))
    g = weights.size * weights[..., None] * centred
    count = np.array([weights.size if independent else arviz.ess(g[..., k], method="mean") for k in range(g.shape[-1])])
    square = g.var((0, 1)) / count
    return np.sqrt(square + variance / reference), variance / square
