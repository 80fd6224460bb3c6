"""Entries of a network's outputs that are the same for every example, found from the input to the output.

An entry (a dense unit, or a channel) is constant if every weight that reaches it from a non-constant entry is zero.  It
then emits f(b + Σ W·c) for every example, with c the constants it receives.  A product with the constant 0 is 0, and
attention to values that are one constant at all places is that constant.
"""

import math

import numpy as np

from pyro_compress.network.activations import FUNCTIONS
from pyro_compress.network.architecture import Architecture, walk
from pyro_compress.network.further_layers import Concatenate, Multiply, Pad, Softmax, Standardize
from pyro_compress.network.layers import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm,
    FixedAffine,
    Flatten,
    Layer,
    PReLU,
    Select,
    Table,
    Unflatten,
    Weighted,
    groups_of,
    outputs_of,
)
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.sequence_layers import (
    CANDIDATE,
    Attention,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)


def constants_of(architecture: Architecture, numbers: Numbers) -> list[np.ndarray]:
    shapes = iter(architecture.shapes())

    def after(layer: Layer, constant: np.ndarray, earlier: np.ndarray | None) -> np.ndarray:
        shape = next(shapes)
        if earlier is not None:
            return _combined(layer, constant, earlier)
        return _constant_after(layer, constant, shape, numbers)

    return list(walk(architecture.layers, np.full(architecture.input_shape[0], np.nan), after))


def _combined(layer: Layer, constant: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    match layer:
        case Add():
            return constant + earlier
        case Multiply():
            return np.where((constant == 0) | (earlier == 0), 0.0, constant * earlier)
        case Concatenate():
            return np.concatenate([earlier, constant])
    return earlier


def _constant_after(layer: Layer, constant: np.ndarray, shape: tuple[int, ...], numbers: Numbers) -> np.ndarray:
    if isinstance(layer, Weighted):
        outputs, groups = outputs_of(layer), groups_of(layer)
        group = np.arange(outputs) * groups // outputs
        foldable = numbers.foldable(layer, constant)
        varies = (numbers.links(layer) & ~foldable.reshape(groups, -1)[group]).any(axis=1)
        given = np.where(foldable, constant, 0).reshape(groups, -1)[group]
        return np.where(varies, np.nan, numbers.bias(layer) + (numbers.gains(layer) * given).sum(axis=1))
    if isinstance(layer, BatchNorm):
        scale, shift = numbers.affine(layer)
        return np.where(scale == 0, shift, scale * constant + shift)
    if isinstance(layer, FixedAffine):
        return np.where(np.array(layer.scale) == 0, layer.shift, np.array(layer.scale) * constant + layer.shift)
    if isinstance(layer, Activation):
        known = np.isfinite(constant)
        result = constant.copy()
        result[known] = FUNCTIONS[layer.kind](constant[known], layer.slope)
        return result
    if isinstance(layer, PReLU):
        return np.where(constant > 0, constant, numbers.slope(layer) * constant)
    if isinstance(layer, AvgPool2d) and any(layer.padding):
        return np.where(constant == 0, 0.0, np.nan)
    if isinstance(layer, Pad) and layer.mode == "zeros":
        return np.where(constant == 0, 0.0, np.nan)
    if isinstance(layer, Standardize):
        each = constant.reshape(layer.groups, -1)
        centred = each - each.mean(axis=1, keepdims=True) if layer.centred else each
        return np.asarray(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + layer.eps)).ravel()
    if isinstance(layer, Softmax):
        # what varies is in every sum, and NaN
        below = constant - constant.max()
        total = np.exp(below).sum()
        return np.asarray(below - np.log(total) if layer.log else np.exp(below) / total)
    if isinstance(layer, Attention):
        return constant[-layer.values :]
    if isinstance(layer, Recurrent):
        return np.where(stays_zero(layer, constant, numbers), 0.0, np.nan)
    if isinstance(layer, Rearrange):
        return np.full(layer.size[0], np.nan)
    if isinstance(layer, Table):
        rows = numbers.table(layer)
        own = np.where((rows == rows[:1]).all(axis=0), rows[0], np.nan)
        match layer:
            case Embedding():
                return own
            case PositionBias():
                return constant + own
        return np.where(constant == own, own, np.nan)
    if isinstance(layer, Select):
        return constant[list(layer.indices)]
    if isinstance(layer, Flatten):
        return np.repeat(constant, math.prod(shape[1:]))
    if isinstance(layer, Unflatten):
        each = constant.reshape(-1, math.prod(layer.size))
        return np.where((each == each[:, :1]).all(axis=1), each[:, 0], np.nan)
    return constant


def stays_zero(layer: Recurrent, constant: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Which hidden units are 0 at all places."""
    weight, bias = numbers.recurrent(layer)
    candidate = CANDIDATE[layer.kind]
    given = constant.reshape(layer.gates, layer.hidden)[candidate]
    zero = (given == 0) & (bias[candidate] == 0)
    # all that could be, until those that others move are out
    while bool((moved := zero & ((weight[candidate] != 0) & ~zero).any(axis=1)).any()):
        zero &= ~moved
    return np.asarray(zero)
