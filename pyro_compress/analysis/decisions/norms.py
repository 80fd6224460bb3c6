"""Batch norms on grids: two integers per channel, as fine as the weights that they normalise are coarse.

In evaluation a batch norm is y_c = s_c x_c + t_c with s = γ / √(v + ε) and t = β + s (b − m), b the bias in front.
Putting s and t into a weight that stands on a grid would take it off, so they are stored beside it, on their own grids.

Rounding weights to integers q changes an output by the share r = 1 / (12 · mean q²) of its variance (steps of one,
weights that are kept, inputs of equal size).  Each of the two grids may add the share SHARE · r.  A step Δ of s changes
y_c by the variance Δ² v_c / 12, one of t by Δ² / 12, and over the training data y_c has the variance u_c = s_c² v_c.
Δ is the coarsest power of two at which the mean over channels of that share of u_c, each at most 1, is within bounds.
Every channel counts alike, as a normalisation behind it may make a weak one strong again, but those whose standard
deviation is 2⁵ times smaller than the root mean square count as that, and constant ones as the root mean square.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import bias_in_front, in_layers
from pyro_compress.analysis.decisions.structure_checks import INTEGER_LIMIT
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import BatchNorm, Layer, Weighted
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.parameter_names import parameter_shapes
from pyro_compress.network.quantizers import STEP_EXPONENTS, power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor

SHARE = 1 / 256
WEAKEST = 2.0**-5
# running variances of float32 numbers that are all the same come out near this
NOTHING = 1e-12


@dataclass(frozen=True)
class NormGrid:
    """The step exponents of one batch norm, and float64 (channels,) numbers on them.

    Attributes:
        scale_exponent, shift_exponent: the steps are 2^exponent.
        scale, shift: s and t, rounded.
    """

    scale_exponent: int
    shift_exponent: int
    scale: np.ndarray
    shift: np.ndarray


def norm_grids(architecture: Architecture, decision: Decision) -> dict[str, NormGrid]:
    """By name, for every batch norm near weights on a grid: those last in front of it, or else the next behind it."""
    decision, found = in_layers(architecture, decision), {}
    numbers = _small_numbers(decision)
    for position, layer in enumerate(architecture.layers):
        if not isinstance(layer, BatchNorm) or layer.one or layer.function:
            # one number is stored as it is
            continue
        beside = _nearest(architecture.layers, position)
        site = None if beside is None else decision.sites[f"{beside.name}.weight"]
        if site is None or site.quantizer is None or not site.integers().any():
            continue
        integers = site.stored().astype(np.float64) / site.quantizer.spacing(site.value.ndim)
        allowed = SHARE / (12 * float((integers[integers != 0] ** 2).mean()))
        scale, shift = numbers.affine(layer)
        (mean, deviation), in_front = numbers.statistics(layer), bias_in_front(architecture, position)
        variance = deviation**2 - layer.eps
        variance[variance < NOTHING] = 0
        power = scale**2 * variance
        typical = float(power.mean()) or 1.0
        power = np.where(power > 0, np.maximum(power, WEAKEST**2 * typical), typical)
        exponents = coarsest_exponent(variance / power, allowed), coarsest_exponent(1 / power, allowed)
        rounded = _rounded(scale, exponents[0])
        # the mean of each output stays where it was, whatever its scale has been rounded to
        shift = shift + (scale - rounded) * mean
        if in_front is not None:
            shift = shift + rounded * numbers.bias(in_front)
        found[layer.name] = NormGrid(*exponents, rounded, _rounded(shift, exponents[1]))
    return found


def _rounded(numbers: np.ndarray, exponent: int) -> np.ndarray:
    return np.asarray(np.ldexp(np.rint(np.ldexp(numbers, -exponent)), exponent))


def coarsest_exponent(harm: np.ndarray, allowed: float) -> int:
    """The largest e with mean_c min(1, 4^e harm_c / 12) ≤ allowed, within the exponents that a file can hold."""
    harm = harm[np.isfinite(harm) & (harm > 0)]
    if not harm.size:
        return 0
    # where every channel would be lost, and from there down
    exponent = math.ceil(0.5 * math.log2(12 / float(harm.min())))
    exponent = min(max(exponent, STEP_EXPONENTS[0]), STEP_EXPONENTS[-1])
    while exponent > STEP_EXPONENTS[0] and np.minimum(1, 4.0**exponent * harm / 12).mean() > allowed:
        exponent -= 1
    return exponent


def with_norms_on_grids(
    architecture: Architecture, decision: Decision, grids: Mapping[str, NormGrid] | None = None
) -> Decision:
    """The decision with γ and β (without them the statistics) such that every s and t is what the file will hold.

    So the search judges, in a network of the original shape, the numbers that are stored.  `grids` are those of
    `norm_grids` if not given.
    """
    grids = norm_grids(architecture, decision) if grids is None else grids
    sites: dict[str, SiteDecision] = {}
    numbers = _small_numbers(in_layers(architecture, decision))
    buffers = dict(decision.buffers)
    for position, layer in enumerate(architecture.layers):
        if not isinstance(layer, BatchNorm) or layer.name not in grids:
            continue
        grid, (mean, deviation) = grids[layer.name], numbers.statistics(layer)
        in_front = bias_in_front(architecture, position)
        bias = numbers.bias(in_front) if in_front is not None else np.zeros(1)
        if layer.affine:
            wanted = {"weight": grid.scale * deviation, "bias": grid.shift + (mean - bias) * grid.scale}
            for tensor in parameter_shapes(layer):
                name, value = architecture.parameter(tensor), wanted[tensor.removeprefix(f"{layer.name}.")]
                site = decision.sites[name]
                bits = np.where(site.kept(), FLOAT_BITS, 0).astype(np.uint8)
                value = np.where(site.kept(), value.reshape(site.value.shape), 0).astype(np.float32)
                # a grid of γ or β themselves would round them away from those of s and t
                sites[name] = site.moved_to(value, bits=bits, quantizer=None)
        elif (grid.scale > 0).all():
            buffers[f"{layer.name}.running_mean"] = (bias - grid.shift / grid.scale).astype(np.float32)
            buffers[f"{layer.name}.running_var"] = (grid.scale**-2.0 - layer.eps).astype(np.float32)
    return replace(decision.with_sites(sites), buffers=buffers)


def stored_on_grids(network: StoredNetwork, grids: Mapping[str, NormGrid]) -> StoredNetwork:
    """The reduced network with the scales and shifts of batch norms as integers, float32 where they would not fit."""
    tensors = dict(network.tensors)
    for name, grid in grids.items():
        for kind, exponent in (("scale", grid.scale_exponent), ("shift", grid.shift_exponent)):
            held = tensors[f"{name}.{kind}"].dense().astype(np.float64)
            integers = np.rint(np.ldexp(held, -exponent))
            while integers.any() and not (integers % 2).any() and exponent < STEP_EXPONENTS[-1]:
                integers, exponent = integers / 2, exponent + 1
            if np.abs(integers).max(initial=0) < INTEGER_LIMIT:
                tensors[f"{name}.{kind}"] = StoredTensor(integers.astype(np.int32), power_of_two(exponent))
    return replace(network, tensors=tensors)


def _small_numbers(decision: Decision) -> Numbers:
    """What batch norms and biases store; weights are left out, as they are many."""
    return Numbers({name: s.stored() for name, s in decision.sites.items() if s.value.ndim == 1}, decision.buffers)


def _nearest(layers: Sequence[Layer], position: int) -> Weighted | None:
    """The last weighted layer in front of a position, or else the first one behind it."""
    weighted = [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, Weighted)]
    before = [layer for place, layer in weighted if place < position]
    return before[-1] if before else weighted[0][1] if weighted else None
