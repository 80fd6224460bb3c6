"""Which units, filters and inputs of a pruned network still matter: two passes over its chain of layers.

Constants, forwards: an entry (a dense unit, or a channel) is constant if every weight that reaches it from a
non-constant entry is zero.  It then emits f(b + Σ W·c) for every example, with c the constants it receives.

Needs, backwards: an entry is live if a weight leads from it to a live entry of the next weighted layer, unless its
constant can be folded into that layer's bias.  Network outputs are always live.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decision import Decision
from pyro_compress.architecture import Activation, Architecture, AvgPool2d, BatchNorm, Conv2d, Flatten, Layer, Linear

Weighted = Linear | Conv2d


@dataclass(frozen=True)
class Signal:
    """What flows between two layers, per entry of axis 1.

    Attributes:
        constant: float64, the value that the entry has for every example (and pixel), NaN if it varies.
        live: the outputs depend on it in a way that no bias can take over.
        kept: live, or the one entry that stays, unread, where none is live.
    """

    constant: np.ndarray
    live: np.ndarray
    kept: np.ndarray


class Numbers:
    """What a decision stores for the layers of its network."""

    def __init__(self, decision: Decision) -> None:
        self._stored = {name: site.stored() for name, site in decision.sites.items()}
        self._buffers = {name: buffer.astype(np.float64) for name, buffer in decision.buffers.items()}

    def links(self, layer: Weighted) -> np.ndarray:
        """Boolean (outputs, inputs per group): whether any weight between the two is not zero."""
        nonzero = self._stored[f"{layer.name}.weight"] != 0
        return nonzero.any(axis=tuple(range(2, nonzero.ndim)))

    def gains(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs, inputs per group): what an output takes from an input that is 1 everywhere."""
        weight = self._stored[f"{layer.name}.weight"]
        return weight.sum(axis=tuple(range(2, weight.ndim)), dtype=np.float64)

    def bias(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs,): zeros if the layer has none."""
        return self._stored[f"{layer.name}.bias"].astype(np.float64) if layer.bias else np.zeros(outputs_of(layer))

    def affine(self, layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
        """float64 (channels,), twice: scale and shift of a batch norm at inference."""
        scale = 1 / np.sqrt(self._buffers[f"{layer.name}.running_var"] + layer.eps)
        shift = np.zeros(layer.channels)
        if layer.affine:
            scale = scale * self._stored[f"{layer.name}.weight"]
            shift = self._stored[f"{layer.name}.bias"].astype(np.float64)
        return scale, shift - self._buffers[f"{layer.name}.running_mean"] * scale


def signals(architecture: Architecture, numbers: Numbers) -> list[Signal]:
    """The signal before each layer, and after the last: len(layers) + 1 of them.

    One pass each way is enough: constants never depend on needs, and a need only on constants and later needs.
    """
    constants = _constants(architecture, numbers)
    outputs = np.ones(constants[-1].size, dtype=bool)
    found = [Signal(constants[-1], outputs, outputs)]
    for layer, constant in zip(reversed(architecture.layers), reversed(constants[:-1]), strict=True):
        found.append(_before(layer, constant, found[-1], numbers))
    return found[::-1]


def outputs_of(layer: Weighted) -> int:
    """Units of a dense layer, filters of a convolution."""
    return layer.out_features if isinstance(layer, Linear) else layer.out_channels


def groups_of(layer: Weighted) -> int:
    """Groups of a convolution, 1 for a dense layer."""
    return 1 if isinstance(layer, Linear) else layer.groups


def is_depthwise(layer: Layer) -> bool:
    """Whether each output channel reads exactly the input channel of its own number."""
    return isinstance(layer, Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _foldable(layer: Weighted, constant: np.ndarray) -> np.ndarray:
    """Which inputs are constants that the layer's bias can take over.

    Zero padding puts zeros beside a constant, so near the border W·c would be wrong unless c = 0.
    """
    padded = isinstance(layer, Conv2d) and any(layer.padding)
    return constant == 0 if padded else np.isfinite(constant)


def _constants(architecture: Architecture, numbers: Numbers) -> list[np.ndarray]:
    shapes = architecture.shapes()
    constants = [np.full(shapes[0][0], np.nan)]
    for layer, shape in zip(architecture.layers, shapes[:-1], strict=True):
        constants.append(_constant_after(layer, constants[-1], shape, numbers))
    return constants


def _constant_after(layer: Layer, constant: np.ndarray, shape: tuple[int, ...], numbers: Numbers) -> np.ndarray:
    if isinstance(layer, Linear | Conv2d):
        outputs, groups = outputs_of(layer), groups_of(layer)
        group = np.arange(outputs) * groups // outputs
        foldable = _foldable(layer, constant)
        varies = (numbers.links(layer) & ~foldable.reshape(groups, -1)[group]).any(axis=1)
        given = np.where(foldable, constant, 0).reshape(groups, -1)[group]
        return np.where(varies, np.nan, numbers.bias(layer) + (numbers.gains(layer) * given).sum(axis=1))
    if isinstance(layer, BatchNorm):
        scale, shift = numbers.affine(layer)
        return np.where(scale == 0, shift, scale * constant + shift)
    if isinstance(layer, Activation):
        known = np.isfinite(constant)
        result = constant.copy()
        result[known] = _ACTIVATIONS[layer.kind](constant[known], layer.slope)
        return result
    if isinstance(layer, AvgPool2d) and any(layer.padding):
        return np.where(constant == 0, 0.0, np.nan)
    if isinstance(layer, Flatten):
        return np.repeat(constant, math.prod(shape[1:]))
    return constant


_ACTIVATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, slope: np.where(x > 0, x, slope * np.expm1(np.minimum(x, 0))),
    "tanh": lambda x, _: np.tanh(x),
    "sigmoid": lambda x, _: np.exp(-np.logaddexp(0, -x)),
    "softplus": lambda x, _: np.logaddexp(0, x),
    "gelu": lambda x, _: x * np.array([0.5 * math.erfc(-entry / math.sqrt(2)) for entry in x]),
    "silu": lambda x, _: x * np.exp(-np.logaddexp(0, -x)),
}


def _before(layer: Layer, constant: np.ndarray, after: Signal, numbers: Numbers) -> Signal:
    if isinstance(layer, Flatten):
        live, kept = (np.any(mask.reshape(constant.size, -1), axis=1) for mask in (after.live, after.kept))
        return Signal(constant, np.asarray(live), np.asarray(kept))
    if not isinstance(layer, Linear | Conv2d) or is_depthwise(layer):
        return Signal(constant, after.live, after.kept)
    if groups_of(layer) > 1:
        everything = np.ones(constant.size, dtype=bool)
        return Signal(constant, everything, everything)
    live = numbers.links(layer)[after.live].any(axis=0) & ~_foldable(layer, constant)
    kept = live.copy()
    kept[0] |= not live.any()
    return Signal(constant, live, kept)
