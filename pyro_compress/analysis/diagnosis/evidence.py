"""Estimates of log p(y) = log ∫ p(y, u) du from log densities at draws, each with its own standard error.

    importance    log 1/S Σ_s w_s,  w_s = p(y, u_s) / t(u_s),  u_s ~ t; or w_s of annealed importance sampling
    bridge        log r, the fixed point of
                      r = [1/S₂ Σ_j l_j / (s₁ l_j + s₂ r)] / [1/S₁ Σ_i 1 / (s₁ l_i + s₂ r)],   l = p(y, u) / q(u),
                  u_i ~ p(u | y) and u_j ~ q, s₁ + s₂ = 1 in proportion to the effective numbers of draws: of all
                  ratios of two such means the one of least error (Meng & Wong 1996)
    harmonic mean −log 1/S Σ_i 1 / p(y | u_i),  u_i ~ p(u | y) (Newton & Raftery 1994): see `harmonic_mean`

Standard errors are those of the logarithm, by the delta method.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_compress.analysis.diagnosis.arviz_versions import arviz
from pyro_compress.errors import InferenceError

ITERATIONS, CLOSE = 1000, 1e-10

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(y).

    Attributes:
        log_evidence: total nats.
        standard_error: of `log_evidence`, nats, from the draws alone: it knows nothing of a bound's gap, of modes or of
            tails that no draw has seen; NaN where nothing is drawn.
        effective: how many draws without weights, or without correlation, are worth as much; NaN where that has no
            meaning.
        draws: S, of those that are weighted or averaged; 0 where nothing is drawn.
        method: by which it was found.
        warning: what speaks against it, a sentence; None where nothing was seen.
    """

    log_evidence: float
    standard_error: float
    effective: float
    draws: int
    method: str
    warning: str | None = None


def importance_weighted(log_weight: Array) -> tuple[float, float, float]:
    """(log p(y), its standard error, (Σ w)² / Σ w²) of (S,) logarithms of independent weights; −∞ is a weight of 0.

    Raises:
        InferenceError: no draw has any weight, or one an infinite one.
    """
    top = float(log_weight.max())
    if not math.isfinite(top):
        count = f"none of {len(log_weight):,} draws has any weight" if top < 0 else "a draw has an infinite weight"
        raise InferenceError(f"evidence: {count}: check the data against the support of the likelihood")
    weight = np.exp(log_weight - top)
    mean = float(weight.mean())
    error = float(weight.std(ddof=1)) / math.sqrt(len(weight)) / mean
    return top + math.log(mean), error, float(weight.sum() ** 2 / np.square(weight).sum())


def bridge(at_posterior: Array, at_proposal: Array) -> tuple[float, float, float]:
    """(log p(y), its standard error, effective number of posterior draws).

    The error is that of Frühwirth-Schnatter (2004), with the autocorrelation of the chains.

    Args:
        at_posterior: log l at draws of the posterior, (chain, draw).
        at_proposal: log l at independent draws of q, (S₂,); −∞ where p(y, u) is 0.

    Raises:
        InferenceError: q and the posterior do not overlap, so that there is no fixed point.
    """
    # a constant in all ratios goes through
    shift = float(np.median(at_posterior))
    first, second = at_posterior - shift, at_proposal - shift
    effective = min(float(first.size), _effective(first))
    share = effective / (effective + second.size)
    log_share, log_rest = math.log(share), math.log1p(-share)

    def parts(log_ratio: float) -> tuple[Array, Array]:
        below_first = np.logaddexp(log_share + first, log_rest + log_ratio)
        below_second = np.logaddexp(log_share + second, log_rest + log_ratio)
        return second - below_second, -below_first

    log_ratio = 0.0
    for _ in range(ITERATIONS):
        upper, lower = parts(log_ratio)
        former, log_ratio = log_ratio, _log_mean(upper) - _log_mean(lower)
        if not math.isfinite(log_ratio):
            break
        if abs(log_ratio - former) < CLOSE:
            upper, lower = parts(log_ratio)
            variance = _relative_variance(upper) / second.size + _relative_variance(lower) / _effective(np.exp(lower))
            return shift + log_ratio, math.sqrt(variance), effective
    raise InferenceError(
        "evidence: the posterior's draws and the normal distribution that bridges to them do not overlap: use "
        'method="annealed"'
    )


def harmonic_mean(log_likelihood: Array) -> tuple[float, float, float]:
    """(log p(y), what its standard error seems to be, effective number of draws).

    Not to be used.  Where prior and likelihood are normal, 1 / p(y | u) has no variance under the posterior as soon as
    that is narrower than the prior by more than a factor of √2 in one direction; then draws hardly ever see what its
    mean consists of, and nearly all estimates are too high.  Nor does it ask for the prior, which the evidence hangs on
    (Neal 1994, in the discussion of Newton & Raftery).

    Args:
        log_likelihood: log p(y | u) at draws of the posterior, (chain, draw).
    """
    inverse = -log_likelihood
    effective = _effective(np.exp(inverse - inverse.max()))
    return -_log_mean(inverse), math.sqrt(_relative_variance(inverse) / effective), effective


def _log_mean(logarithms: Array) -> float:
    return float(np.logaddexp.reduce(logarithms, axis=None)) - math.log(logarithms.size)


def _relative_variance(logarithms: Array) -> float:
    values = np.exp(logarithms - logarithms.max())
    return float(values.var(ddof=1)) / float(values.mean()) ** 2


def _effective(values: Array) -> float:
    """Number of independent draws whose mean is as certain; as many as there are where nothing varies."""
    found = float(arviz().ess(values, method="mean"))
    return found if math.isfinite(found) else float(values.size)
