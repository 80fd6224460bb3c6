"""Compressed file → predictions with numpy and the entropy coder alone, for devices that have no torch.

    from pyro_compress.artifact.runtimes.numpy_runtime import load

    network = load("network.pyrc")
    logits = network(images)  # (batch, *input shape) → (batch, *output shape), float32

A convolution is a matrix product with the windows of its input (im2col), a transposed one the sum of the windows that a
matrix product gives, a pooling an elementwise maximum or sum
over the places in its window.  Everything is float32, as in torch; sums are taken in another order, so outputs
agree to rounding.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from pyro_compress import shipped
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes import numpy_sequences as sequences
from pyro_compress.artifact.runtimes.inputs import check_shape
from pyro_compress.errors import ArtifactError
from pyro_compress.network import further_layers as further
from pyro_compress.network import layers as kinds
from pyro_compress.network import sequence_layers as seq
from pyro_compress.network.activations import FUNCTIONS
from pyro_compress.network.architecture import walk
from pyro_compress.network.stored import StoredNetwork

Array = np.ndarray
Shape = tuple[int, ...]
Step = Callable[[Array], Array]

# Examples go through in pieces whose widest layer works on about this many numbers: bounded memory, warm caches.
PIECE_NUMBERS = 2**20


def load(path: str | Path) -> Step:
    """The network of a compressed file, or of a shipped one by name, as a function of arrays; see `forward`.

    Raises:
        ArtifactError: the file is missing, or not a complete and intact compressed network.
    """
    try:
        return forward(decode(shipped.path_of(path).read_bytes()))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def forward(network: StoredNetwork) -> Step:
    """The forward pass of a stored network: (batch, *input shape) → (batch, *output shape), float32.

    The function that is returned takes any array of numbers and raises an ArtifactError if its shape does not fit.
    Its result does not depend on how many examples it is given at once, up to float rounding.
    """
    layers, shapes = network.architecture.layers, network.architecture.shapes()
    steps = [_step(layer, network, *pair) for layer, *pair in zip(layers, shapes[:-1], shapes[1:], strict=True)]
    widest = max([prod(shapes[0]), *map(_working_numbers, layers, shapes[:-1], shapes[1:])])
    piece = max(1, PIECE_NUMBERS // max(1, widest))

    def through(x: Array) -> Array:
        remaining = iter(steps)

        def after(layer: kinds.Layer, value: Array, referred: Array | None) -> Array:
            step = next(remaining)
            return step(value) if referred is None else _combined(layer, value, referred)

        for value in walk(layers, x, after):
            x = value
        return x

    def run(x: Array) -> Array:
        x = np.asarray(x, np.float32)
        check_shape(x.shape, shapes[0])
        parts = [through(x[start : start + piece]) for start in range(0, max(1, len(x)), piece)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return run


def _combined(layer: kinds.Layer, value: Array, referred: Array) -> Array:
    match layer:
        case kinds.Add():
            return value + referred
        case further.Multiply():
            return value * referred
        case further.Concatenate():
            return np.concatenate([referred, value], axis=1)
    return referred


def _working_numbers(layer: kinds.Layer, before: Shape, after: Shape) -> int:
    """Numbers per example in a layer's output, or for a convolution in the windows that it multiplies or adds."""
    if isinstance(layer, kinds.ConvTranspose2d):
        return layer.out_channels * (prod(layer.kernel_size) * prod(before[1:]) + prod(_uncut(layer, before)))
    if isinstance(layer, kinds.Conv2d) and not _is_pointwise(layer):
        return max(layer.in_channels * prod(layer.kernel_size), layer.out_channels) * prod(after[1:])
    if isinstance(layer, seq.Attention):
        return max(prod(before), seq.scores(layer, before))
    return prod(after)


def _step(layer: kinds.Layer, network: StoredNetwork, before: Shape, after: Shape) -> Step:
    def tensor(role: str) -> Array:
        return network.tensors[f"{layer.name}.{role}"].dense()  # type: ignore[union-attr]

    match layer:
        case kinds.Linear():
            weight, bias = tensor("weight").T, tensor("bias") if layer.bias else np.zeros(1, np.float32)
            return lambda x: x @ weight + bias
        case kinds.Conv2d():
            bias = tensor("bias") if layer.bias else np.zeros(1, np.float32)
            return _convolution(layer, tensor("weight"), bias[:, None, None], before, after)
        case kinds.ConvTranspose2d():
            bias = tensor("bias") if layer.bias else np.zeros(1, np.float32)
            return _transposed_convolution(layer, tensor("weight"), bias[:, None, None], before, after)
        case kinds.ChannelAffine():
            each = (-1, *(1 for _ in before[1:]))
            scale, shift = tensor("scale").reshape(each), tensor("shift").reshape(each)
            return lambda x: x * scale + shift
        case kinds.MaxPool2d():
            places = _places(layer.kernel_size, layer.stride, (1, 1), after)
            return lambda x: _over_window(np.maximum, _padded(x, layer.padding, -np.inf), places)
        case kinds.AvgPool2d():
            places, share = (
                _places(layer.kernel_size, layer.stride, (1, 1), after),
                np.float32(1 / prod(layer.kernel_size)),
            )
            return lambda x: _over_window(np.add, _padded(x, layer.padding), places) * share
        case kinds.AdaptiveAvgPool2d():
            rows, columns = (averages(*extents) for extents in zip(before[1:], after[1:], strict=True))
            return lambda x: rows @ x @ columns.T
        case kinds.Upsample():
            down, right = layer.factor
            return lambda x: x.repeat(down, axis=2).repeat(right, axis=3)
        case kinds.Flatten():
            return lambda x: x.reshape(len(x), prod(before))
        case kinds.Unflatten():
            return lambda x: x.reshape(len(x), *after)
        case kinds.Select():
            indices = np.array(layer.indices, np.intp)
            return lambda x: x[:, indices]
        case kinds.Activation():
            return _activation(layer)
        case kinds.PReLU():
            slopes = tensor("slope").reshape(-1, *(1 for _ in before[1:]))
            return lambda x: np.where(x > 0, x, slopes * x)
        case kinds.Add() | kinds.Recall() | further.Concatenate() | further.Multiply():
            return lambda x: x
        case further.View():
            return lambda x: x.reshape(len(x), *after)
        case further.Pad():
            sides = ((0, 0), (0, 0), *zip(layer.before, layer.after, strict=True))
            return lambda x: np.pad(x, sides, _PADDINGS[layer.mode])
        case further.Standardize():
            return _standardized(layer)
        case further.Squeeze():
            return lambda x: x.reshape(len(x))
        case further.Softmax():
            return _softmax(layer)
        case further.Resize():
            rows, columns = (
                further.interpolation(*extents, layer.mode) for extents in zip(before[1:], after[1:], strict=True)
            )
            return lambda x: rows @ x @ columns.T
        case further.AdaptiveMaxPool2d():
            return _adaptive_maximum(before, after)
        case seq.Rearrange():
            return sequences.rearrange(layer)
        case seq.Crop():
            return sequences.crop(layer)
        case seq.Attention():
            return sequences.attention(layer, before, after)
        case seq.PositionBias():
            bias = tensor("value").T.reshape(after)
            return lambda x: x + bias
        case seq.ConstantPositions():
            return sequences.constant_positions(layer, tensor("value"))
        case seq.Recurrent():
            return sequences.recurrent(layer, tensor("weight"), tensor("bias") if layer.bias else np.float32(0))
        case seq.Embedding():
            return sequences.embedding(layer, tensor("weight"))
    raise ArtifactError(f"this program cannot run {kinds.describe(layer)}: update it")


def _is_pointwise(layer: kinds.Conv2d) -> bool:
    return (layer.kernel_size, layer.stride, layer.padding) == ((1, 1), (1, 1), (0, 0))


def _convolution(layer: kinds.Conv2d, weight: Array, shift: Array, before: Shape, after: Shape) -> Step:
    """y[:, o] = shift[o] + Σ over channels c of o's group and places (i, j) of weight[o, c, i, j] · x[:, c] there."""
    if layer.groups == layer.in_channels == layer.out_channels:
        places = _places(layer.kernel_size, layer.stride, layer.dilation, after)
        taps = weight.reshape(layer.out_channels, len(places), 1, 1)

        def each_channel(x: Array) -> Array:
            x, total = _padded(x, layer.padding), shift
            for number, (rows, columns) in enumerate(places):
                total = total + x[:, :, rows, columns] * taps[:, number]
            return total

        return each_channel

    outputs, window = layer.out_channels // layer.groups, layer.in_channels // layer.groups * prod(layer.kernel_size)
    matrix = weight.reshape(layer.groups, outputs, window)

    def as_product(x: Array) -> Array:
        windows = _windows(_padded(x, layer.padding), layer, after)
        product = matrix @ windows.reshape(len(x), layer.groups, window, prod(after[1:]))
        product = product.reshape(len(x), *after)
        product += shift
        return product

    return as_product


def _transposed_convolution(
    layer: kinds.ConvTranspose2d, weight: Array, shift: Array, before: Shape, after: Shape
) -> Step:
    """Every place adds its channels times the kernel to the outputs from stride · place on; see FORMAT.md, part 4."""
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    matrix = weight.reshape(layer.groups, inputs, outputs * prod(layer.kernel_size)).swapaxes(1, 2)
    places, extents = _places(layer.kernel_size, layer.stride, layer.dilation, before), _uncut(layer, before)
    rows, columns = (slice(cut, cut + size) for cut, size in zip(layer.padding, after[1:], strict=True))

    def spread(x: Array) -> Array:
        windows = matrix @ x.reshape(len(x), layer.groups, inputs, prod(before[1:]))
        windows = windows.reshape(len(x), layer.out_channels, len(places), *before[1:])
        total = np.zeros((len(x), layer.out_channels, *extents), np.float32)
        for number, (down, right) in enumerate(places):
            total[:, :, down, right] += windows[:, :, number]
        return np.asarray(total[:, :, rows, columns] + shift)

    return spread


def _uncut(layer: kinds.ConvTranspose2d, before: Shape) -> Shape:
    """Height and width of what a transposed convolution makes before its padding is cut off."""
    sizes = zip(before[1:], layer.kernel_size, layer.stride, layer.dilation, layer.output_padding, strict=True)
    return tuple((size - 1) * step + dil * (k - 1) + more + 1 for size, k, step, dil, more in sizes)


def _windows(x: Array, layer: kinds.Conv2d, after: Shape) -> Array:
    """(batch, channels, *kernel, *output size): a view of what stands in each place of a window, in all windows."""
    batch, channel, row, column = x.strides
    (down, right), (below, beside) = layer.dilation, layer.stride
    strides = (batch, channel, row * down, column * right, row * below, column * beside)
    return as_strided(x, (*x.shape[:2], *layer.kernel_size, *after[1:]), strides, writeable=False)


def _places(kernel: kinds.Pair, stride: kinds.Pair, dilation: kinds.Pair, after: Shape) -> list[tuple[slice, slice]]:
    """For each place in a window, row major, the entries of the padded input that stand there in all windows."""

    def along(axis: int, place: int) -> slice:
        first = place * dilation[axis]
        return slice(first, first + stride[axis] * (after[1 + axis] - 1) + 1, stride[axis])

    return [(along(0, i), along(1, j)) for i in range(kernel[0]) for j in range(kernel[1])]


def _padded(x: Array, padding: kinds.Pair, filling: float = 0.0) -> Array:
    if padding == (0, 0):
        return x
    batch, channels, height, width = x.shape
    down, right = padding
    wide = np.full((batch, channels, height + 2 * down, width + 2 * right), filling, np.float32)
    wide[:, :, down : down + height, right : right + width] = x
    return wide


def _over_window(combine: np.ufunc, x: Array, places: list[tuple[slice, slice]]) -> Array:
    (rows, columns), *others = places
    total = x[:, :, rows, columns].copy()
    for rows, columns in others:
        combine(total, x[:, :, rows, columns], out=total)
    return total


def averages(extent: int, count: int) -> Array:
    """(count, extent): the matrix that averages over `count` nearly equal parts, as adaptive pooling makes them.

    Part i goes from i · extent // count up to (i + 1) · extent / count, rounded up; parts may overlap.
    """
    matrix = np.zeros((count, extent), np.float32)
    for part, places in enumerate(bins(extent, count)):
        matrix[part, places] = 1 / (places.stop - places.start)
    return matrix


def bins(extent: int, count: int) -> list[slice]:
    """The parts that adaptive pooling cuts an axis into, see `averages`."""
    return [slice(part * extent // count, -(-(part + 1) * extent // count)) for part in range(count)]


def _adaptive_maximum(before: Shape, after: Shape) -> Step:
    rows, columns = (bins(*extents) for extents in zip(before[1:], after[1:], strict=True))

    def pooled(x: Array) -> Array:
        lines = np.stack([x[:, :, row].max(axis=2) for row in rows], axis=2)
        return np.stack([lines[:, :, :, column].max(axis=3) for column in columns], axis=3)

    return pooled


def _standardized(layer: further.Standardize) -> Step:
    def step(x: Array) -> Array:
        entries, places = x.shape[1] // layer.groups, prod(x.shape[2:])
        groups = x.reshape(len(x), layer.groups, *((entries, places) if layer.by_place else (entries * places, 1)))
        for _ in range(further.CENTRINGS * layer.centred):
            groups = groups - groups.mean(axis=2, keepdims=True)
        variance = np.square(groups).mean(axis=2, keepdims=True)
        return np.asarray((groups / np.sqrt(variance + np.float32(layer.eps))).reshape(x.shape))

    return step


def _softmax(layer: further.Softmax) -> Step:
    def step(x: Array) -> Array:
        below = x - x.max(axis=1, keepdims=True)
        shares = np.exp(below)
        total = shares.sum(axis=1, keepdims=True)
        return np.asarray(below - np.log(total) if layer.log else shares / total)

    return step


_PADDINGS: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _activation(layer: kinds.Activation) -> Step:
    if layer.kind not in FUNCTIONS:
        raise ArtifactError(f"this program does not know the activation '{layer.kind}': update it")
    # those of the table need a pass more, or go through one number after the other
    quick: dict[str, Step] = {
        "sigmoid": _sigmoid,
        "gelu": lambda x: x * _normal_distribution(x),
        "silu": lambda x: x * _sigmoid(x),
    }
    function, slope = FUNCTIONS[layer.kind], float(layer.slope)
    return quick.get(layer.kind, lambda x: function(x, slope))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


_TAIL = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _normal_distribution(x: Array) -> Array:
    """Φ(x) with an error below 1e-7 (Abramowitz and Stegun 1964, formula 7.1.26)."""
    t = 1 / (1 + np.float32(0.3275911 / 2**0.5) * np.abs(x))
    series = np.float32(0)
    for coefficient in reversed(_TAIL):
        series = (series + np.float32(coefficient)) * t
    tail = series * np.exp(-x * x / 2) / 2
    return np.where(x < 0, tail, 1 - tail)
