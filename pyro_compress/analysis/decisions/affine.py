"""Integers of 8, 4 or any other number of bits: the scale and the zero point of every tensor or channel.

    w ≈ Δ (p − z),   p = 0 … 2^b − 1,   Δ = (r₁ − r₀) / (2^b − 1),   z = round(−r₀ / Δ)

with a range r₀ ≤ 0 ≤ r₁, so that zero, and with it every pruned weight, is a value.  `min_max` takes the range of the
weights that are kept.  `least_squares` takes the part (a r₀, b r₁) of it, a and b multiples of 1/32, with the least
Σ (w − Q(w))²: with few bits finer steps pay for the few largest weights that are clipped.

Sources: Jacob et al. (2018); the range of least squared error, Banner et al. (2019) and Choukroun et al. (2019).
"""

from collections.abc import Callable

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.network.quantizers import MOST_BITS, STEP_EXPONENTS, Affine, PerChannel, Uniform

MIN_MAX, LEAST_SQUARES = RANGES = ("min_max", "least_squares")
PARTS = np.arange(32, 3, -1) / 32
ROUNDS = 2


def affine_quantization(
    decision: Decision, bits: int = 8, *, per_channel: bool = False, range_by: str = MIN_MAX
) -> Decision:
    """The decision with the kept weights of every layer as integers of `bits` bits with a zero point.

    Args:
        decision: which weights are kept, e.g. `prune(posterior)`, and their values; biases stay.
        bits: b, 2 to 16.
        per_channel: a scale and a zero point for each output unit or filter.
        range_by: 'min_max' or 'least_squares'.

    Raises:
        DecisionError: b is out of range, or there is no such rule.
    """
    if not 2 <= bits <= MOST_BITS:
        raise DecisionError(f"affine quantisation takes 2 to {MOST_BITS} bits, found {bits}")
    if range_by not in RANGES:
        raise DecisionError(unknown_name("rule for the range", range_by, RANGES))
    rounded = {
        name: _on_integers(site, bits, per_channel, range_by)
        for name, site in decision.sites.items()
        if site.value.ndim > 1
    }
    return decision.with_sites(rounded)


def _on_integers(site: SiteDecision, bits: int, per_channel: bool, range_by: str) -> SiteDecision:
    values = (site.value * site.kept()).reshape(len(site.value) if per_channel else 1, -1)
    least, largest = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    if range_by == LEAST_SQUARES:
        least, largest = _least_squares(values, least, largest, bits)
    steps, zero_points = scale_and_zero_point(least, largest, bits)
    held = tuple(steps.tolist())
    grid = PerChannel(held) if per_channel else Uniform(held[0])
    quantizer = Affine(grid, bits, tuple(zero_points.astype(np.int64).tolist()))
    # the bits of what it was rounded to before say nothing of this one
    floats = np.where(site.kept(), FLOAT_BITS, 0).astype(np.uint8)
    return SiteDecision(site.value, site.variance, floats, None, site.mean, site.aim).on(quantizer)


def scale_and_zero_point(least: np.ndarray, largest: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(Δ, z) of ranges (n,), float32 and whole float64 numbers; (1, 0) of one that no grid can hold, of zeros alone."""
    exact = (largest.astype(np.float64) - least.astype(np.float64)) / (2**bits - 1)
    nothing = exact < 2.0 ** STEP_EXPONENTS[0]
    exact = np.where(nothing, 1.0, exact)
    return exact.astype(np.float32), np.where(nothing, 0.0, np.rint(-least / exact))


def _least_squares(
    values: np.ndarray, least: np.ndarray, largest: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ranges (n,) of least squared error of values (n, numbers): both ends at once, then one after the other."""

    def error(below: np.ndarray, above: np.ndarray) -> np.ndarray:
        step, zero = (each[:, None] for each in scale_and_zero_point(least * below, largest * above, bits))
        index = np.clip(np.rint(values / step), -zero, 2**bits - 1 - zero)
        return np.asarray(np.square(values - index * step).sum(1, dtype=np.float64))

    below = above = _best(lambda part: error(part, part), len(values))
    for _ in range(ROUNDS):
        below = _best(lambda part: error(part, above), len(values))  # noqa: B023
        above = _best(lambda part: error(below, part), len(values))  # noqa: B023
    return least * below.astype(np.float32), largest * above.astype(np.float32)


def _best(error: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """(n,): the part of least error, for each of n; the largest of equals."""
    errors = np.stack([error(np.full(count, part)) for part in PARTS])
    return np.asarray(PARTS[errors.argmin(0)])
