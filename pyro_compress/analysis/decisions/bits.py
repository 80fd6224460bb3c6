"""How many bits each layer's weights need, from the posterior's variance, under two named rules."""

import math
from collections.abc import Mapping

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.network.quantizers import PerChannel, Quantizer, Uniform, bits_on
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

GRIDS = ("power_of_two", "uniform", "per_channel")
FINEST_STEP, COARSEST_STEP = 2.0**-20, 2.0**4
BIAS_BITS = 8
# of a point estimate, as a share of its mean square
POINT_VARIANCE = 2.0**-10


def fixed_point_step(variance: float, c: float, *, power_of_two: bool = True) -> float:
    """The coarsest Δ with Δ²/12 ≤ c · variance, of all numbers or of the powers of two.

    Δ²/12 is the variance of rounding to a grid of step Δ; c says what share of the posterior's own it may be.
    """
    if variance <= 0:
        return FINEST_STEP
    octaves = 0.5 * math.log2(12.0 * c * variance)
    return min(max(2.0 ** (math.floor(octaves) if power_of_two else octaves), FINEST_STEP), COARSEST_STEP)


def bit_widths(
    posterior: Posterior, *, c: float = 1 / 16, within: Decision | None = None, grid: str = "power_of_two"
) -> Decision:
    """Fixed-point bit widths per layer (the rule `fixed_point`).

    Each layer's step obeys Δ²/12 ≤ c · v with v the mean posterior variance of the weights that are KEPT: dead
    weights have the prior's variance and would rule a mean over the whole layer.  A point-estimated bias takes
    the step of its layer's weight: their rounding errors enter the same sum.  One of a module of several matrices
    (recurrent ones, packed attention) has 8 bits on a step of its own: it may enter at every position again.
    A weight tensor that is a point estimate has no variance; there v is 2⁻¹⁰ times the mean square of the weights that
    are kept, so that c = 1/16 gives steps of at most 0.03 root mean squares and c = 1,024 of 3.5.  What a method says
    may be stored (`ParameterPosterior.quantizer`) stands, and frozen weights stay float32.

    Args:
        posterior: moments.
        c: share of the variance v that rounding may add; at 1 the sum of many small errors shows in the
            predictions, so the default is the value that the search most often ends at.
        within: which weights count as kept; the prior's default cut if not given.
        grid: `power_of_two`; `uniform`, the coarsest step that the rule allows; or `per_channel`, such a step for each
            output unit or filter (input channel of a transposed convolution) by the variance of its own weights.  The
            last two cost 4 bytes per step in the file.

    Raises:
        DecisionError: c is not positive, or there is no such grid.
    """
    if c <= 0:
        raise DecisionError(f"c must be positive, found {c}")
    if grid not in GRIDS:
        raise DecisionError(unknown_name("grid", grid, GRIDS))
    grids: dict[str, Quantizer] = {}
    for name, site in posterior.parameters.items():
        if site.quantizer is None and not site.is_frozen and site.mean.ndim > 1:
            kept = within.sites[name].kept() if within is not None else site.kept()
            grids[name] = _grid(site, kept, c, grid)
    sites = {}
    for name, site in posterior.parameters.items():
        quantizer = site.quantizer or grids.get(name, grids.get(name.rpartition(".")[0] + ".weight"))
        if quantizer is None and not site.is_frozen and weight_beside(name) in grids:
            quantizer = bias_grid(site.to_store)
        if isinstance(quantizer, PerChannel) and len(quantizer.steps) != len(site.mean):
            # a transposed convolution's steps are those of its inputs
            quantizer = None
        sites[name] = on_grid(site, quantizer, within.sites[name].kept() if within is not None else None)
    made_by = {"bit_rule": "fixed_point", "c": c} | ({"grid": grid} if grid != GRIDS[0] else {})
    return Decision(sites, dict(posterior.buffers), made_by)


def weight_beside(bias: str) -> str:
    """The weight whose sums a bias goes into: `fc.weight` for `fc.bias`, `lstm.weight_ih_l0` for `lstm.bias_ih_l0`."""
    module, dot, kind = bias.rpartition(".")
    return f"{module}{dot}{kind.replace('bias', 'weight', 1)}" if "bias" in kind else ""


def _grid(site: ParameterPosterior, kept: np.ndarray, c: float, grid: str) -> Quantizer:
    """The grid of one layer; a channel of which nothing is kept has the step of the layer."""
    variance = POINT_VARIANCE * np.square(site.to_store.astype(np.float64)) if site.is_point else site.variance
    layer = fixed_point_step(_variance(variance, kept), c, power_of_two=grid == "power_of_two")
    if grid != "per_channel":
        return Uniform(layer)
    channels = zip(variance, kept, strict=True)
    return PerChannel(
        tuple(
            fixed_point_step(_variance(each, held), c, power_of_two=False) if held.any() else layer
            for each, held in channels
        )
    )


def _variance(variance: np.ndarray, kept: np.ndarray) -> float:
    return float(variance[kept].mean()) if kept.any() else 0.0


def on_grid(site: ParameterPosterior, quantizer: Quantizer | None, kept: np.ndarray | None = None) -> SiteDecision:
    """One site on a grid, with as many bits as its largest kept value needs; without one, float32."""
    bits = FLOAT_BITS
    if quantizer is not None:
        held = site.to_store if kept is None else site.to_store * kept
        bits = bits_on(quantizer, quantizer.index(held))
    each = np.full(site.mean.shape, bits, np.uint8)
    if site.off is not None:
        each[site.off] = 0
    return SiteDecision.of(site, each, quantizer)


def with_biases_on_grids(decision: Decision, beside: Mapping[str, str] | None = None) -> Decision:
    """Biases of layers whose weights have a quantizer as integers of 8 bits, on a power-of-two step of their own.

    For quantizers of the weights that are no grid for a bias too: a codebook, or one of four bits.

    Args:
        decision: whose biases without a quantizer get one.
        beside: by bias the weight of its module, where that goes by another module's name.
    """
    found = {}
    for name, site in decision.sites.items():
        weight = decision.sites.get((beside or {}).get(name, weight_beside(name)))
        largest = float(np.abs(site.value * site.kept()).max(initial=0))
        on_grid_too = weight is not None and weight.value.ndim > 1 and weight.quantizer is not None
        if on_grid_too and site.quantizer is None and largest > 0:
            found[name] = site.on(bias_grid(site.value * site.kept()))
    return decision.with_sites(found)


def bias_grid(values: np.ndarray) -> Uniform:
    """The smallest power of two as step with which these take 8 bits."""
    largest = float(np.abs(values).max(initial=0))
    exponent = math.ceil(math.log2(largest / (2 ** (BIAS_BITS - 1) - 1))) if largest else 0
    return Uniform(max(2.0**exponent, FINEST_STEP))


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
