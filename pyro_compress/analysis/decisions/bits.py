"""How many bits each layer's weights need, from the posterior's variance, under two named rules."""

import math
from collections.abc import Mapping

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.network.quantizers import STEP_EXPONENTS, PerChannel, Quantizer, Uniform, bits_on
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

GRIDS = ("power_of_two", "uniform", "per_channel")
FINEST_STEP, COARSEST_STEP = 2.0**-20, 2.0**4
# octaves of the largest weight below which the finest step lies at least, and at most: files hold integers of 24 bits
FEWEST_OCTAVES, MOST_OCTAVES = 15, 23
BIAS_BITS = 8
# of a point estimate, as a share of its mean square
POINT_VARIANCE = 2.0**-10


def fixed_point_step(
    variance: float,
    c: float,
    *,
    power_of_two: bool = True,
    bounds: tuple[float, float] = (FINEST_STEP, COARSEST_STEP),
) -> float:
    """The coarsest Δ with Δ²/12 ≤ c · variance, of all numbers or of the powers of two, within `bounds`.

    Δ²/12 is the variance of rounding to a grid of step Δ; c says what share of the posterior's own it may be.
    """
    finest, coarsest = bounds
    if variance <= 0:
        return finest
    octaves = 0.5 * math.log2(12.0 * c * variance)
    return min(max(2.0 ** (math.floor(octaves) if power_of_two else octaves), finest), coarsest)


def step_bounds(largest: float) -> tuple[float, float]:
    """The finest and the coarsest step of weights up to `largest`.

    These are 2⁻²⁰ and 2⁴, but that the finest leaves the largest weight 15 to 23 bits beside its sign: no layer is
    rounded to zero because its weights are small, and none has integers that are too large for a file.
    """
    exponent = math.frexp(largest)[1]
    few, most = (2.0 ** max(exponent - octaves, STEP_EXPONENTS[0]) for octaves in (FEWEST_OCTAVES, MOST_OCTAVES))
    finest = max(min(FINEST_STEP, few), most) if largest else FINEST_STEP
    return finest, max(COARSEST_STEP, finest)


def bit_widths(
    posterior: Posterior, *, c: float = 1 / 16, within: Decision | None = None, grid: str = "power_of_two"
) -> Decision:
    """Fixed-point bit widths per layer (the rule `fixed_point`).

    Each layer's step obeys Δ²/12 ≤ c · v with v the mean posterior variance of the weights that are KEPT: dead
    weights have the prior's variance and would rule a mean over the whole layer; `step_bounds` bound it.  A
    point-estimated bias takes the step of its layer's weight: their rounding errors enter the same sum.  One of a
    module of several matrices (recurrent ones, packed attention), which may enter at every position again, and one that
    would take more than 24 bits has 8 bits on a step of its own, and so have a module's other vectors, such as a gain.
    Parameters of a single number stay float32.
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
        DecisionError: c is not positive, there is no such grid, or a kept weight has no finite value or variance.
    """
    if c <= 0:
        raise DecisionError(f"c must be positive, found {c}")
    if grid not in GRIDS:
        raise DecisionError(unknown_name("grid", grid, GRIDS))
    grids: dict[str, Quantizer] = {}
    for name, site in posterior.parameters.items():
        if site.quantizer is None and not site.is_frozen and site.mean.ndim > 1:
            kept = within.sites[name].kept() if within is not None else site.kept()
            _refuse_non_finite(name, site, kept)
            grids[name] = _grid(site, kept, c, grid)
    sites = {}
    for name, site in posterior.parameters.items():
        quantizer = site.quantizer or grids.get(name)
        # a single number multiplies sums, and enters none
        if quantizer is None and site.mean.ndim and not site.is_frozen:
            quantizer = _of_bias(name, site, grids)
        sites[name] = on_grid(site, quantizer, within.sites[name].kept() if within is not None else None)
    made_by = {"bit_rule": "fixed_point", "c": c} | ({"grid": grid} if grid != GRIDS[0] else {})
    return Decision(sites, dict(posterior.buffers), made_by)


def _refuse_non_finite(name: str, site: ParameterPosterior, kept: np.ndarray) -> None:
    for what, numbers in (("value", site.to_store), ("variance", site.variance)):
        wrong = kept & ~np.isfinite(numbers)
        if wrong.any():
            raise DecisionError(
                f"{name}: {wrong.sum():,} of {kept.sum():,} weights that are kept have a {what} that is not finite, "
                f"first {numbers[wrong][0]}: no step follows from that; prune them, or fit again at a lower rate"
            )


def weight_beside(bias: str) -> str:
    """The weight whose sums a bias goes into: `fc.weight` for `fc.bias`, `lstm.weight_ih_l0` for `lstm.bias_ih_l0`."""
    module, dot, kind = bias.rpartition(".")
    return f"{module}{dot}{kind.replace('bias', 'weight', 1)}" if "bias" in kind else ""


def _grid(site: ParameterPosterior, kept: np.ndarray, c: float, grid: str) -> Quantizer:
    """The grid of one layer; a channel of which nothing is kept has the step of the layer."""
    values, power_of_two = site.to_store, grid == "power_of_two"
    variance = POINT_VARIANCE * np.square(values.astype(np.float64)) if site.is_point else site.variance
    layer = _step(values, variance, kept, c, power_of_two)
    if grid != "per_channel":
        return Uniform(layer)
    channels = zip(values, variance, kept, strict=True)
    return PerChannel(tuple(_step(*each, c, power_of_two) if each[2].any() else layer for each in channels))


def _step(values: np.ndarray, variance: np.ndarray, kept: np.ndarray, c: float, power_of_two: bool) -> float:
    if not kept.any():
        return FINEST_STEP
    bounds = step_bounds(float(np.abs(values[kept]).max()))
    return fixed_point_step(float(variance[kept].mean()), c, power_of_two=power_of_two, bounds=bounds)


def _of_bias(name: str, site: ParameterPosterior, grids: Mapping[str, Quantizer]) -> Quantizer | None:
    """Of what has no grid of its own: that of the weight of its module, if there is one."""
    module, _, kind = name.rpartition(".")
    weight = grids.get(f"{module}.weight")
    if weight is not None and not kind.startswith("bias"):
        # a gain, which multiplies sums, may be far smaller than a step of the weight
        return bias_grid(site.to_store)
    if weight is None:
        return bias_grid(site.to_store) if weight_beside(name) in grids else None
    if isinstance(weight, PerChannel) and len(weight.steps) != len(site.mean):
        # a transposed convolution's steps are those of its inputs
        return None
    too_fine = np.abs(weight.index(site.to_store)).max(initial=0) > 2.0**MOST_OCTAVES
    return bias_grid(site.to_store) if too_fine else weight


def on_grid(site: ParameterPosterior, quantizer: Quantizer | None, kept: np.ndarray | None = None) -> SiteDecision:
    """One site on a grid, with as many bits as its largest kept value needs; without one, float32."""
    bits = FLOAT_BITS
    if quantizer is not None:
        held = site.to_store if kept is None else np.where(kept, site.to_store, 0)
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
