"""How many bits each layer's weights need, from the posterior's variance, under two named rules."""

import math

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

FINEST_STEP, COARSEST_STEP = 2.0**-20, 2.0**4


def fixed_point_step(variance: float, c: float) -> float:
    """The coarsest power of two Δ with Δ²/12 ≤ c · variance.

    Δ²/12 is the variance of rounding to a grid of step Δ; c says what share of the posterior's own it may be.
    """
    if variance <= 0:
        return FINEST_STEP
    step = 2.0 ** math.floor(0.5 * math.log2(12.0 * c * variance))
    return min(max(step, FINEST_STEP), COARSEST_STEP)


def bits_for(integers: np.ndarray) -> int:
    """Sign, integer and fraction bits that hold every integer: 1 + ⌈log₂(max|q| + 1)⌉, at least 2."""
    largest = int(np.abs(integers).max(initial=0))
    return max(2, 1 + math.ceil(math.log2(largest + 1)))


def bit_widths(posterior: Posterior, *, c: float = 1 / 16, within: Decision | None = None) -> Decision:
    """Fixed-point bit widths per layer (the rule `fixed_point`).

    Each layer's step obeys Δ²/12 ≤ c · v with v the mean posterior variance of the weights that are KEPT: dead
    weights have the prior's variance and would rule a mean over the whole layer.  A point-estimated bias takes
    the step of its layer's weight: their rounding errors enter the same sum.

    Args:
        posterior: moments.
        c: share of the posterior variance that rounding may add; at 1 the sum of many small errors shows in the
            predictions, so the default is the value that the search most often ends at.
        within: which weights count as kept; the prior's default cut if not given.

    Raises:
        DecisionError: c is not positive.
    """
    if c <= 0:
        raise DecisionError(f"c must be positive, found {c}")
    steps: dict[str, float | None] = {}
    for name, site in posterior.parameters.items():
        if not site.is_point and site.mean.ndim > 1:
            kept = within.sites[name].kept() if within is not None else site.kept()
            steps[name] = fixed_point_step(float(site.variance[kept].mean()) if kept.any() else 0.0, c)
    sites = {}
    for name, site in posterior.parameters.items():
        step = steps.get(name, steps.get(name.rpartition(".")[0] + ".weight"))
        sites[name] = on_grid(site, step, within.sites[name].kept() if within is not None else None)
    return Decision(sites, dict(posterior.buffers), {"bit_rule": "fixed_point", "c": c})


def on_grid(site: ParameterPosterior, step: float | None, kept: np.ndarray | None = None) -> SiteDecision:
    """One site at a given step, with as many bits as its largest kept value needs."""
    bits = FLOAT_BITS
    if step is not None:
        held = site.to_store if kept is None else site.to_store * kept
        bits = bits_for(np.rint(held.astype(np.float64) / step))
    each = np.full(site.mean.shape, bits, np.uint8)
    if site.off is not None:
        each[site.off] = 0
    return SiteDecision.of(site, each, step)


def significand_bits(site: ParameterPosterior, kept: np.ndarray) -> int:
    """Significand bits of one layer as the published tables count them (Louizos et al. 2017).

    Per weight the number of t ≤ 23 with 2·Var < ½·2^{1−t}: unit round-off against the variance, as the public
    code has it.  The layer takes the ceiling of the mean over its kept weights; 0 if none is kept.
    """
    if not kept.any():
        return 0
    variance = site.variance[kept].astype(np.float64)
    round_off = 0.5 * 2.0 ** (1.0 - np.arange(1, 24))
    return math.ceil((2 * variance[:, None] < round_off[None, :]).sum(1).mean())


def published_bits(site: ParameterPosterior, kept: np.ndarray) -> int:
    """Bits per weight of one layer as the published tables count them (the rule `published`).

    `significand_bits`, one sign bit, and exponent bits = ⌈log₂(log₂ max|w| + 1) + 1⌉ (Louizos et al. 2017).
    Below max|w| = 1 that exponent is zero, negative or not a number in the public code; one bit is counted here.
    """
    if not kept.any():
        return 0
    largest = float(np.abs(site.mean[kept]).max())
    exponent = math.ceil(math.log2(math.log2(largest) + 1) + 1) if largest > 1 else 1
    return 1 + significand_bits(site, kept) + exponent
