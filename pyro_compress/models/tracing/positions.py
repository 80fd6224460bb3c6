"""Operations on axes: layers over the last one, means, cuts and joins along any, on results however their axes lie.

A result keeps a `Layout` where the network's axes are not the channels, and then the places, of the output that
describes it.  Numbers are moved, by a `Rearrange`, where a layer needs other channels than those that there are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from math import prod

import torch

from pyro_compress.models.tracing.activations import times
from pyro_compress.models.tracing.layouts import Layout
from pyro_compress.models.tracing.rules import Layers, RefusedError, Shape
from pyro_compress.models.tracing.sequences import LayerSequence, Result
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Concatenate, Squeeze, Standardize, View
from pyro_compress.network.layers import AdaptiveAvgPool2d, BatchNorm, Conv2d, Flatten, Linear, Select, Unflatten
from pyro_compress.network.sequence_layers import Crop, Rearrange

BATCH_AXIS = "works on the batch axis: what becomes of one example may not depend on the others"


def layout_of(sequence: LayerSequence, result: Result) -> Layout:
    """Where the axes of a result lie."""
    if result.layout is not None:
        return result.layout
    return Layout.of(result.shape, (result.shape[0], *sequence.shapes[result.number]))


def swapped(sequence: LayerSequence, result: Result) -> Result:
    """A result of three axes with the first two in the other order."""
    return result_of(sequence, result.number, layout_of(sequence, result).permuted([1, 0, 2]))


def result_of(sequence: LayerSequence, number: int, layout: Layout) -> Result:
    """A result with these axes; without a layout if they are the channels and then the places of its output."""
    shape, found = layout.shape, sequence.shapes[number]
    alike = shape[1:] == found or (len(shape) == len(found) == 3 and (shape[1], 1, shape[2]) == found)
    same = layout.in_order and layout.batch_first and alike
    return Result(number, shape, None if same and 1 < len(shape) < 5 else layout)


def at_channels(
    sequence: LayerSequence, result: Result, channels: Sequence[int], places: Sequence[Sequence[int]] | None = None
) -> tuple[int, Layout]:
    """The output, and where its axes lie, with some factors as channels: an image, or a vector if there are no others.

    Args:
        channels: factors of `layout_of`.
        places: those of the axes of an image; all that are left, as they lie, if not given.

    Raises:
        RefusedError: the batch's factor is among the channels.
    """
    layout = layout_of(sequence, result)
    if 0 in channels:
        raise RefusedError(BATCH_AXIS)
    image = sequence.shapes[result.number]
    width = prod(layout.factors[factor] for factor in channels)
    if places is None:
        rest = [factor for factor in range(1, len(layout.factors)) if factor not in channels]
        if list(channels) == list(range(1, 1 + len(channels))):
            # nothing to move
            extents = image[1:] if len(image) == 3 and image[0] == width else _as_image(layout, rest)
        else:
            rest = [factor for axis in layout.axes for factor in axis if factor in rest]
            extents = _as_image(layout, rest)
        size = (width, *extents) if rest or image == (width, 1, 1) else (width,)
    else:
        rest = list(chain.from_iterable(places))
        size = (width, *(prod(layout.factors[factor] for factor in place) for place in places))
    order = [0, *channels, *rest]
    return _moved(sequence, result.number, layout, order, size), layout.moved(order)


def _as_image(layout: Layout, factors: Sequence[int]) -> Shape:
    """Height and width for places: two axes as they are, all others in one row."""
    whole = [axis for axis in layout.axes if axis and set(axis) <= set(factors)]
    if len(whole) == 2 and [*whole[0], *whole[1]] == list(factors):
        return tuple(prod(layout.factors[factor] for factor in axis) for axis in whole)
    return (1, prod(layout.factors[factor] for factor in factors))


def _moved(sequence: LayerSequence, number: int, layout: Layout, order: Sequence[int], size: Shape) -> int:
    """The output with its factors in another order of memory, in this shape."""
    shape = sequence.shapes[number]
    if list(order) != list(range(len(order))):
        # factors that stay side by side are one axis
        joined = Layout(layout.factors, ((0,), tuple(order[1:]))).normal()
        view, turned = joined.factors[1:], tuple(factor - 1 for factor in joined.axes[1])
        return sequence.once(number, Rearrange(view, turned, size))
    if shape == size:
        return number
    if len(size) == 1:
        return sequence.once(number, Flatten())
    if shape[:1] == size[:1] and len(shape) > 1:
        return sequence.image(number) if size[1] == 1 == len(shape) - 1 else sequence.once(number, View(size[1:]))
    if len(shape) == 1 and len(size) == 3:
        return sequence.once(number, Unflatten((size[1], size[2])))
    if len(size) == 3:
        return sequence.once(sequence.once(number, Flatten()), Unflatten((size[1], size[2])))
    return sequence.once(number, Rearrange((prod(size),), (0,), size))


def settled(sequence: LayerSequence, result: Result) -> Result:
    """The result with its axes as channels and places, as torch's images, series and vectors have them.

    Raises:
        RefusedError: the batch axis is not the first, or there are more axes than those of an image.
    """
    if result.layout is None:
        return result
    layout = result.layout
    if not layout.batch_first:
        raise RefusedError(BATCH_AXIS)
    shape = result.shape[1:]
    if not 1 <= len(shape) <= 3:
        raise RefusedError(f"takes the shape {result.shape}, supported are images, series and vectors of each example")
    size = (shape[0], 1, shape[1]) if len(shape) == 2 else shape
    number = _moved(sequence, result.number, layout, [*chain.from_iterable(layout.axes)], size)
    return Result(number, result.shape)


def as_returned(sequence: LayerSequence, result: Result) -> Result:
    """The result in the very shape that the network returns."""
    layout = result.layout
    if layout is None:
        return result
    if not layout.batch_first:
        raise RefusedError(BATCH_AXIS)
    # of one number for each example first a vector
    shape = result.shape[1:] or (1,)
    number = _moved(sequence, result.number, layout, [*chain.from_iterable(layout.axes)], shape)
    if len(result.shape) == 1:
        number = sequence.once(number, Squeeze())
    return Result(number, result.shape)


def over_last_axis(sequence: LayerSequence, result: Result, name: str, inputs: int, outputs: int, bias: bool) -> Result:
    """A dense layer over the last axis: over places it is a convolution of one pixel."""
    axis = len(result.shape) - 1
    layout = layout_of(sequence, result)
    number, layout = at_channels(sequence, result, layout.axes[axis])
    if len(sequence.shapes[number]) == 1:
        number = sequence.behind(number, Linear(name, inputs, outputs, bias))
    else:
        one = (1, 1)
        number = sequence.behind(number, Conv2d(name, inputs, outputs, one, one, (0, 0), one, 1, bias))
    return result_of(sequence, number, layout.exchanged(axis, 1, len(layout.axes[axis]), outputs))


def normalised_over(
    sequence: LayerSequence,
    result: Result,
    shape: Shape,
    eps: float,
    *,
    centred: bool,
    name: str | None,
    bias: bool = True,
) -> Result:
    """Layer norm over the last axes, each place by itself; `name` that of a weight for each of their entries.

    Raises:
        RefusedError: there are weights for the entries of several axes.
    """
    layout, axes = layout_of(sequence, result), len(shape)
    if axes > 1 and name is not None:
        raise RefusedError(f"normalises {shape} with a weight for each entry, supported is the last axis")
    number, layout = at_channels(sequence, result, [*chain.from_iterable(layout.axes[-axes:])])
    by_place = len(sequence.shapes[number]) > 1
    layers: Layers = [Standardize(1, eps, centred, by_place)]
    if name is not None:
        layers.append(BatchNorm(name, shape[0], 0.0, True, bias=bias, running=False))
    return result_of(sequence, sequence.behind(number, *layers), layout)


def reduced(
    sequence: LayerSequence,
    result: Result,
    axes: Sequence[int],
    *,
    keepdim: bool,
    layer: type[AdaptiveAvgPool2d] | type[AdaptiveMaxPool2d],
    total: bool = False,
) -> Result:
    """Mean, largest number or, with `total`, sum over some axes."""
    layout = layout_of(sequence, result)
    gone = [factor for axis in axes for factor in layout.axes[axis]]
    if 0 in gone:
        raise RefusedError(BATCH_AXIS)
    left = [factor for factor in range(1, len(layout.factors)) if factor not in gone]
    number, layout = at_channels(sequence, result, left)
    if len(sequence.shapes[number]) == 1:
        number = sequence.once(number, Unflatten((1, 1)))
    count = prod(result.shape[axis] for axis in axes)
    number = sequence.behind(number, layer((1, 1)), *times(float(count) if total else 1))
    kept = tuple(() if axis in axes else factors for axis, factors in enumerate(layout.axes))
    layout = Layout(layout.factors[: 1 + len(left)], kept)
    for axis in sorted(axes, reverse=True) if not keepdim else ():
        layout = layout.without_axis(axis)
    return result_of(sequence, number, layout)


def taken(sequence: LayerSequence, result: Result, axis: int, kept: Sequence[int]) -> Result:
    """Some entries of an axis, in order.

    Raises:
        RefusedError: they are in another order, or of the batch axis.
    """
    layout = layout_of(sequence, result).normal()
    extent = result.shape[axis]
    if list(kept) == list(range(extent)):
        return result
    if any(a >= b for a, b in pairwise(kept)) or not kept:
        raise RefusedError("takes entries in another order, supported are slices from the first to the last")
    if 0 in layout.axes[axis]:
        raise RefusedError(BATCH_AXIS)
    if len(layout.axes[axis]) > 1:
        number, layout = at_channels(sequence, Result(result.number, result.shape, layout), layout.axes[axis])
        layout = layout.normal()
        result = Result(number, result.shape, layout)
    (factor,) = layout.axes[axis]
    before, after = prod(layout.factors[1:factor]), prod(layout.factors[factor + 1 :])
    channels = sequence.shapes[result.number][0]
    if channels % (before * extent) == 0:
        inside = channels // (before * extent)
        indices = torch.arange(channels).reshape(before, extent, inside)[:, list(kept)].flatten()
        number = sequence.once(result.number, Select(tuple(indices.tolist())))
    else:
        cropped = _cropped(sequence, result.number, (before, extent, after), kept)
        number = result.number if cropped is None else cropped
        if cropped is None:
            number, layout = at_channels(sequence, Result(result.number, result.shape, layout), [factor])
            number, factor = sequence.once(number, Select(tuple(kept))), 1
    return result_of(sequence, number, layout.exchanged(axis, factor, 1, len(kept)))


def _cropped(sequence: LayerSequence, number: int, extents: Shape, kept: Sequence[int]) -> int | None:
    """Places of an image from one to another, along an axis of (before, its extent, after) numbers; None if not so."""
    shape = sequence.shapes[number]
    before, extent, after = extents
    if list(kept) != list(range(kept[0], kept[-1] + 1)) or before % shape[0]:
        return None
    rows = before // shape[0]
    if after == 1:
        image, crop = (shape[0], rows, extent), Crop((0, kept[0]), (rows, len(kept)))
    elif rows == 1:
        image, crop = (shape[0], extent, after), Crop((kept[0], 0), (len(kept), after))
    else:
        return None
    layout = Layout((1, prod(shape)), ((0,), (1,)))
    return sequence.once(_moved(sequence, number, layout, [0, 1], image), crop)


def joined(sequence: LayerSequence, results: Sequence[Result], axis: int) -> Result:
    """Results one after the other along an axis."""
    numbers, layouts = [], []
    for result in results:
        layout = layout_of(sequence, result)
        others = [each for number, each in enumerate(layout.axes) if number != axis and 0 not in each]
        number, layout = at_channels(sequence, result, layout.axes[axis], [[], [*chain.from_iterable(others)]])
        numbers.append(number)
        layouts.append(layout.normal())
    whole = numbers[0]
    for number in numbers[1:]:
        whole = sequence.combined(Concatenate, whole, number)
    total = sum(result.shape[axis] for result in results)
    first = next((each for each in layouts if each.axes[axis]), layouts[0])
    count = len(first.axes[axis])
    return result_of(sequence, whole, first.exchanged(axis, 1, count, total))


def combined(
    sequence: LayerSequence,
    operation: Callable[[LayerSequence, Result, Result], int],
    left: Result,
    right: Result,
) -> Result:
    """Two results combined number by number; along an axis of extent 1, one goes with all of the other.

    Raises:
        RefusedError: their shapes do not go together.
    """
    if left.layout is None and right.layout is None:
        shape = torch.broadcast_shapes(left.shape, right.shape)
        return Result(operation(sequence, left, right), tuple(shape))
    if left.shape == right.shape:
        pattern = left if left.layout is not None else right
        first, second = (_like(sequence, result, pattern) for result in (left, right))
        number = operation(sequence, first, second)
        return result_of(sequence, number, layout_of(sequence, pattern))
    small, large = sorted((left, right), key=lambda result: prod(result.shape))
    pairs = list(zip(small.shape, large.shape, strict=False))
    if len(small.shape) != len(large.shape) or any(a != b and 1 not in (a, b) for a, b in pairs):
        raise RefusedError(f"combines the shapes {left.shape} and {right.shape}, which do not go together")
    if any(a not in (1, b) for a, b in pairs):
        # each goes with all of the other along an axis
        return combined(sequence, operation, settled(sequence, left), settled(sequence, right))
    shared = [axis for axis, (a, _) in enumerate(pairs) if axis and a > 1]
    found, layouts = [], []
    for result in (left, right):
        layout = layout_of(sequence, result)
        channels = [*chain.from_iterable(layout.axes[axis] for axis in shared)]
        number, layout = at_channels(sequence, result, channels)
        if len(sequence.shapes[number]) == 1:
            number = sequence.once(number, Unflatten((1, 1)))
        found.append(replace(result, number=number))
        layouts.append(layout)
    return result_of(sequence, operation(sequence, *found), layouts[0 if left is large else 1])


def _like(sequence: LayerSequence, result: Result, pattern: Result) -> Result:
    """A result with its axes where those of another one of the same shape lie."""
    layout, wanted = layout_of(sequence, result), layout_of(sequence, pattern)
    fine = _fine(wanted, layout)
    theirs, own = ([*chain.from_iterable(each.reshaped(fine).axes)] for each in (wanted, layout))
    order = [own[theirs.index(place)] for place in range(len(own))]
    mine = layout.reshaped(fine)
    number = _moved(sequence, result.number, mine, order, sequence.shapes[pattern.number])
    return Result(number, result.shape, wanted)


def _fine(first: Layout, second: Layout) -> Shape:
    """Extents that all axes fall apart into, such that both layouts have them as factors."""
    found: list[int] = []
    for axis, other in zip(first.axes, second.axes, strict=True):
        ends = sorted({end for layout, each in ((first, axis), (second, other)) for end in _ends(layout, each)})
        # an axis of extent 1 may have no factors at all
        steps = list(zip([1, *ends[:-1]], ends, strict=True)) if ends else []
        if any(b % a for a, b in steps):
            raise RefusedError(
                f"combines results whose axes of {ends[-1]} are made of {first.shape} and {second.shape}"
            )
        found += [b // a for a, b in steps] or [1]
    return tuple(found)


def _ends(layout: Layout, axis: Sequence[int]) -> list[int]:
    """Products of the first factors of an axis."""
    found, product = [], 1
    for factor in axis:
        product *= layout.factors[factor]
        found.append(product)
    return found
