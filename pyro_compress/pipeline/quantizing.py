"""Which grids the weights that are left are rounded to: a family by name, and the candidates of it, coarsest first.

    power_of_two, uniform, per_channel   a step per layer or channel, Δ²/12 ≤ c · variance: `bits.bit_widths`
    int8, int8_per_channel, int4, …      integers with a zero point, from the range of the values: `affine`
    codebook                             shared values, by k-means weighted with 1/σ²: `weight_sharing`
    float32                              no grid

The first three say c, which validation chooses; the others do not look at the variance and have one candidate.  What a
method says may be stored stands, with biases beside it on grids of 8 bits.
"""

from collections.abc import Iterator, Mapping

from pyro_compress.analysis.decisions.affine import MIN_MAX, affine_quantization
from pyro_compress.analysis.decisions.bits import GRIDS, bit_widths, with_biases_on_grids
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.weight_sharing import STARTS, weight_sharing
from pyro_compress.errors import DecisionError
from pyro_compress.posterior.posterior import Posterior

C_LADDER = (1024.0, 256.0, 64.0, 16.0, 4.0, 1.0, 0.25, 1 / 16)
BY_VARIANCE = GRIDS
AFFINE = {"int8": 8, "int4": 4, "int8_per_channel": 8, "int4_per_channel": 4}
QUANTIZERS = (*BY_VARIANCE, *AFFINE, "codebook", "float32")
# no step of theirs can be trained
FIXED = ("power_of_two", "float32")
LEVELS = 16


def roundings(
    posterior: Posterior,
    pruned: Decision,
    quantizer: str = GRIDS[0],
    *,
    c: float | None = None,
    levels: int | Mapping[str, int] | None = None,
    level_start: str | None = None,
    range_by: str | None = None,
    seed: int = 0,
    beside: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Decision]]:
    """The pruned decision on grids, each with words for how.

    Args:
        posterior: moments.
        pruned: which weights are left.
        quantizer: one of `QUANTIZERS`.
        c, levels, level_start, range_by: see `pipeline.decision_settings.DecisionSettings`.
        seed: of a random start of k-means.
        beside: of biases, see `analysis.decisions.bits.with_biases_on_grids`.
    """
    if all(site.quantizer is not None for site in posterior.parameters.values() if site.mean.ndim > 1):
        yield "to the method's own values", with_biases_on_grids(pruned & bit_widths(posterior, within=pruned), beside)
    elif quantizer in BY_VARIANCE:
        for share in C_LADDER if c is None else (c,):
            rounded = pruned & bit_widths(posterior, c=share, within=pruned, grid=quantizer)
            yield f"with c = {share:g}", with_biases_on_grids(rounded, beside)
    elif quantizer == "codebook":
        levels, start = levels or LEVELS, level_start or STARTS[0]
        shared = weight_sharing(pruned, levels, real=True, start=start, seed=seed)
        yield (
            "to a codebook",
            _noted(_of_all_but_frozen(posterior, pruned, shared, beside), quantizer, level_start=start),
        )
    elif quantizer in AFFINE:
        per_channel, rule = quantizer.endswith("per_channel"), range_by or MIN_MAX
        rounded = affine_quantization(pruned, AFFINE[quantizer], per_channel=per_channel, range_by=rule)
        yield (
            f"to {quantizer}",
            _noted(_of_all_but_frozen(posterior, pruned, rounded, beside), quantizer, range_by=rule),
        )
    else:
        yield "to float32", _noted(pruned, quantizer)


def refuse_beside_own(posterior: Posterior, quantizer: str) -> None:
    """What a method says may be stored stands in every decision, so no other quantizer can be asked for."""
    own = [name for name, site in posterior.parameters.items() if site.quantizer is not None]
    if own and quantizer != GRIDS[0]:
        raise DecisionError(
            f"the method itself says which values {', '.join(own)} may take, so quantizer='{quantizer}' cannot: leave "
            "the quantizer out, or take another method"
        )


def _of_all_but_frozen(
    posterior: Posterior, pruned: Decision, rounded: Decision, beside: Mapping[str, str] | None
) -> Decision:
    """With biases on grids of their own, and frozen parameters as they were."""
    frozen = {name: pruned.sites[name] for name, site in posterior.parameters.items() if site.is_frozen}
    return with_biases_on_grids(rounded.with_sites(frozen), beside).with_sites(frozen)


def _noted(decision: Decision, quantizer: str, **settings: object) -> Decision:
    return decision.with_sites({}, quantizer=quantizer, **settings)
