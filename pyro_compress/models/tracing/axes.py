"""Operations that permute, split, join, cut and reduce axes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing.layouts import Layout
from pyro_compress.models.tracing.operations import reshape
from pyro_compress.models.tracing.positions import at_channels, layout_of, reduced, result_of, taken
from pyro_compress.models.tracing.rules import RefusedError, Shape
from pyro_compress.models.tracing.sequences import LayerSequence, Result
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Softmax
from pyro_compress.network.layers import AdaptiveAvgPool2d, MaxPool2d
from pyro_compress.network.sequence_layers import Crop


def reshaped(sequence: LayerSequence, result: Result, after: Shape) -> Result:
    """In another shape: as layers of images where those say it, else where the axes lie."""
    described = sequence.shapes[result.number]
    # channels that are cut into heads are no other image
    heads = len(described) == 3 and len(after) == 4 and after[1] < described[0] == prod(after[1:3])
    if result.layout is None and not heads:
        try:
            layers = reshape(described, result.shape, after)
        except RefusedError:
            pass
        else:
            return Result(sequence.behind(result.number, *layers), after)
    return result_of(sequence, result.number, layout_of(sequence, result).reshaped(after))


def permuted(sequence: LayerSequence, result: Result, kind: Any, rest: Any, named: Any) -> Result:
    """With axes in another order, whatever the function is called."""
    # every axis is told by its extent
    numbered = torch.empty(tuple(range(1, 1 + len(result.shape))), device="meta")
    turned = getattr(numbered, kind)(*rest, **named) if isinstance(kind, str) else kind(numbered, *rest, **named)
    order = [extent - 1 for extent in turned.shape]
    return result_of(sequence, result.number, layout_of(sequence, result).permuted(order))


def cut(sequence: LayerSequence, result: Result, index: Any) -> Result:
    """x[…]: entries of axes by slices and numbers, axes of extent 1 by None.

    Raises:
        RefusedError: an index is anything else, or takes examples from one another.
    """
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if sum(isinstance(item, list) for item in items) > 1:
        raise RefusedError(f"takes [{index}] of a result, whose lists go together: supported is one of them")
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    at = next(place for place, item in enumerate(items) if item is Ellipsis)
    known = sum(item is not None and item is not Ellipsis for item in items)
    items[at : at + 1] = [slice(None)] * (len(result.shape) - known)
    found = _strided(sequence, result, items)
    if found is not None:
        return found
    axis = 0
    for item in items:
        if item is None:
            result = with_new_axis(sequence, result, axis)
        elif isinstance(item, int):
            result = taken(sequence, result, axis, [item % result.shape[axis]])
            layout = layout_of(sequence, result)
            result = result_of(sequence, result.number, layout.without_axis(axis))
            continue
        elif isinstance(item, slice | list):
            result = taken(sequence, result, axis, torch.arange(result.shape[axis])[item].tolist())
        else:
            raise RefusedError(f"takes [{index}] of a result, supported are slices and numbers of an axis")
        axis += 1
    return result


def _strided(sequence: LayerSequence, result: Result, items: Sequence[Any]) -> Result | None:
    """Every so many rows and columns of an image, by windows of one pixel; None where something else is taken."""
    plain = result.layout is None and len(result.shape) == 4 and all(isinstance(item, slice) for item in items)
    if not plain or [*items[:2]] != [slice(None)] * 2:
        return None
    rows, columns = (range(extent)[item] for extent, item in zip(result.shape[2:], items[2:], strict=True))
    if not rows or not columns or min(rows.step, columns.step) < 1 or rows.step == columns.step == 1:
        return None
    size, number = (rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]), result.number
    if size != result.shape[2:]:
        number = sequence.once(number, Crop((rows[0], columns[0]), size))
    number = sequence.once(number, MaxPool2d((1, 1), (rows.step, columns.step), (0, 0)))
    return Result(number, (*result.shape[:2], len(rows), len(columns)))


def with_new_axis(sequence: LayerSequence, result: Result, axis: int) -> Result:
    """The same numbers with an axis of extent 1 more."""
    layout = layout_of(sequence, result)
    return result_of(sequence, result.number, Layout(layout.factors, (*layout.axes[:axis], (), *layout.axes[axis:])))


def reduction(sequence: LayerSequence, result: Result, kind: Any, rest: Any, named: Any) -> Result | None:
    """Mean, sum or largest number over some axes; None where a layer of images is it."""
    layer, total = REDUCTIONS[kind]
    dim, keepdim = _axes(*rest, **named)
    rank = len(result.shape)
    axes = sorted({axis % rank for axis in ((dim,) if isinstance(dim, int) else dim or ())})
    if not axes or (result.layout is None and rank in (3, 4) and axes[0] > 1):
        return None
    return reduced(sequence, result, axes, keepdim=keepdim, layer=layer, total=total)


def softmax(sequence: LayerSequence, result: Result, kind: Any, *rest: Any, **named: Any) -> Result:
    """Shares along one axis, or their logarithms.

    Raises:
        RefusedError: that is the batch's.
    """
    # behind dim, and the type, the function of `torch.nn.functional` has an argument that is for its own use
    dim, rank = _softmax_axis(*rest, **named), len(result.shape)
    if dim is None:
        # as torch has it where a softmax is not told
        dim = 0 if rank in (1, 3) else 1
    layout = layout_of(sequence, result)
    number, layout = at_channels(sequence, result, layout.axes[dim % rank])
    return result_of(sequence, sequence.behind(number, Softmax(kind in LOGARITHMS)), layout)


def _softmax_axis(dim: int | None = None, _stacklevel: Any = None, dtype: Any = None) -> int | None:
    return dim


def _axes(dim: Any = None, keepdim: bool = False, dtype: Any = None) -> tuple[Any, bool]:
    return dim, keepdim


PERMUTATIONS: frozenset[Any] = frozenset(
    (
        *(torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis),
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"),
    )
)
LOGARITHMS: frozenset[Any] = frozenset((nn.LogSoftmax, F.log_softmax, torch.log_softmax, "log_softmax"))
SOFTMAXES: frozenset[Any] = frozenset((nn.Softmax, nn.Softmax2d, F.softmax, torch.softmax, "softmax")) | LOGARITHMS
REDUCTIONS: dict[Any, tuple[type[AdaptiveAvgPool2d] | type[AdaptiveMaxPool2d], bool]] = {
    **dict.fromkeys((torch.mean, "mean"), (AdaptiveAvgPool2d, False)),
    **dict.fromkeys((torch.sum, "sum"), (AdaptiveAvgPool2d, True)),
    **dict.fromkeys((torch.amax, "amax"), (AdaptiveMaxPool2d, False)),
}
