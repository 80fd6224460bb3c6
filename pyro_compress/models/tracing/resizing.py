"""Pooling, interpolation and padding of traced networks as layers; over positions they are so of images of height 1."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing.activations import times
from pyro_compress.models.tracing.rules import Layers, RefusedError, Rule, Shape, as_module, as_pair
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Pad, Resize, View, interpolation
from pyro_compress.network.layers import AdaptiveAvgPool2d, AvgPool2d, Flatten, MaxPool2d, Pair, Upsample


def _window(before: Shape, kernel_size: Any, stride: Any, padding: Any) -> tuple[Pair, Pair, Pair]:
    dims = _dims(before)
    return as_pair(kernel_size, dims), as_pair(stride or kernel_size, dims), as_pair(padding, dims, 0)


def _dims(before: Shape) -> int:
    """Axes behind the channels."""
    if len(before) not in (2, 3):
        raise RefusedError(f"takes the shape {before}, supported are (channels, height, width) and (channels, length)")
    return len(before) - 1


def _max_pool(
    before: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layers:
    kernel, stride, padding = _window(before, kernel_size, stride, padding)
    if as_pair(dilation, _dims(before)) != (1, 1):
        raise RefusedError(f"has dilation {dilation}, supported is 1")
    if return_indices:
        raise RefusedError("has return_indices=True, supported is False")
    pool = MaxPool2d(kernel, stride, padding)
    more = _beyond(before, pool) if ceil_mode else (0, 0)
    # a window that reaches beyond the end holds the last number there, which repeated changes no maximum
    return [Pad((0, 0), more, "replicate"), pool] if any(more) else [pool]


def _beyond(before: Shape, pool: MaxPool2d) -> Pair:
    """How far the last window of `ceil_mode` reaches beyond the padded input: windows begin inside of it."""
    found = []
    for extent, size, step, pad in zip(as_image(before)[1:], pool.kernel_size, pool.stride, pool.padding, strict=True):
        count = -(-(extent + 2 * pad - size) // step) + 1
        count -= (count - 1) * step >= extent + pad
        found.append(max(0, (count - 1) * step + size - extent - 2 * pad))
    return found[0], found[1]


def as_image(before: Shape) -> Shape:
    """(channels, length) as an image of height 1."""
    return (before[0], 1, before[1]) if len(before) == 2 else before


def _avg_pool(
    before: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layers:
    kernel, stride, padding = _window(before, kernel_size, stride, padding)
    if ceil_mode:
        raise RefusedError("has ceil_mode=True, supported is False")
    if divisor_override is not None:
        raise RefusedError(f"has divisor_override={divisor_override}, supported is None")
    if not count_include_pad and any(padding):
        raise RefusedError("has count_include_pad=False with padding, supported is True")
    return [AvgPool2d(kernel, stride, padding)]


def _adaptive(layer: type[AdaptiveAvgPool2d] | type[AdaptiveMaxPool2d]) -> Callable[..., Layers]:
    def rule(before: Shape, output_size: Any, return_indices: bool = False) -> Layers:
        dims = _dims(before)
        if return_indices:
            raise RefusedError("has return_indices=True, supported is False")
        sizes = (output_size,) * dims if output_size is None or isinstance(output_size, int) else tuple(output_size)
        extents = [extent if size is None else int(size) for size, extent in zip(sizes, before[-dims:], strict=True)]
        return [layer(as_pair(tuple(extents), dims))]

    return rule


def _over(layer: type[AdaptiveAvgPool2d] | type[AdaptiveMaxPool2d], total: bool = False) -> Callable[..., Layers]:
    """Mean, largest number or, with `total`, sum over axes behind the channels."""

    def rule(before: Shape, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Layers:
        rank = len(before) + 1
        axes = sorted({axis % rank for axis in ((dim,) if isinstance(dim, int) else dim or ())})
        if len(before) not in (2, 3) or not axes or axes[0] < 2:
            raise RefusedError("is supported over axes behind the channels only: mean(dim=(2, 3))")
        left = tuple(1 if axis in axes else extent for axis, extent in enumerate(before, 1))
        gone = [before[axis - 1] for axis in axes]
        layers: Layers = [layer(as_pair(left[1:], len(before) - 1)), *times(float(np.prod(gone)) if total else 1)]
        if keepdim:
            return layers
        if len(axes) == len(before) - 1:
            return [*layers, Flatten()]
        # what is left of one axis lies along the last one
        return layers if axes == [2] else [*layers, View((1, before[1]))]

    return rule


def _interpolate(
    before: Shape,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Layers:
    """Nearest neighbours by whole factors, or torch's weights of two neighbours as matrices, which must be the same."""
    linear = mode in ("linear", "bilinear")
    if antialias or not (linear or mode in ("nearest", "nearest-exact")):
        raise RefusedError(f"has mode '{mode}'{' and antialias' * antialias}, supported are nearest and (bi)linear")
    dims = _dims(before)
    extents = before[1:]
    given: list[Any] = [None] * dims
    if size is None:
        given = list(scale_factor) if isinstance(scale_factor, tuple | list) else [scale_factor] * dims
        counts = tuple(int(extent * factor) for extent, factor in zip(extents, given, strict=True))
    else:
        counts = (size,) * dims if isinstance(size, int) else tuple(size)
    factors = [count / extent for count, extent in zip(counts, extents, strict=True)]
    # of a factor that is not whole torch takes other places, though their count may be a multiple
    told = [
        factor if one is None or recompute_scale_factor else one for one, factor in zip(given, factors, strict=True)
    ]
    if not linear and told == factors and all(factor == int(factor) for factor in factors):
        return [Upsample(as_pair(tuple(map(int, factors)), dims))]
    kind = mode if not linear else "aligned" if align_corners else "bilinear"
    for extent, count, factor in zip(extents, counts, given, strict=True):
        how: dict[str, Any] = {"align_corners": align_corners} if linear else {}
        how |= {"size": count} if factor is None else {"scale_factor": factor}
        how["recompute_scale_factor"] = recompute_scale_factor
        found = F.interpolate(torch.eye(extent)[None], mode="linear" if linear else mode, **how)[0].T
        expected = torch.from_numpy(interpolation(extent, count, kind))
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-5):
            raise RefusedError(
                f"makes {count} places of {extent} by the factor {factor}: give size={count}, which says where they lie"
            )
    return [Resize(as_pair(counts, dims), kind)]


def _pad(before: Shape, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Layers:
    dims = _dims(before)
    pairs = [(pad[at], pad[at + 1]) for at in range(0, len(pad), 2)][::-1]
    if len(pairs) > dims or min(pad, default=0) < 0 or (mode == "constant" and value):
        raise RefusedError(f"pads {tuple(pad)} with {value}, supported are zeros around height and width, none cut off")
    pairs = [(0, 0)] * (2 - len(pairs)) + pairs
    (above, below), (left, right) = pairs
    kind = mode.replace("constant", "zeros")
    return [Pad((above, left), (below, right), kind)] if any(pad) else []


def _padding(mode: str) -> Rule:
    def rule(module: Any, name: str, before: Shape) -> Layers:
        return _pad(before, module.padding, mode, getattr(module, "value", None))

    return rule


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
_MAX_POOL = as_module(_max_pool, *_POOL, "dilation", "return_indices")
_mean, _sum, _largest = _over(AdaptiveAvgPool2d), _over(AdaptiveAvgPool2d, total=True), _over(AdaptiveMaxPool2d)
MODULES: dict[type[nn.Module], Rule] = {
    nn.MaxPool1d: _MAX_POOL,
    nn.MaxPool2d: _MAX_POOL,
    nn.AvgPool1d: as_module(_avg_pool, *_POOL, "count_include_pad"),
    nn.AvgPool2d: as_module(_avg_pool, *_POOL, "count_include_pad", "divisor_override"),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), as_module(_adaptive(AdaptiveAvgPool2d), "output_size")
    ),
    **dict.fromkeys(
        (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        as_module(_adaptive(AdaptiveMaxPool2d), "output_size", "return_indices"),
    ),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        as_module(_interpolate, "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    ),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d), _padding("constant")),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d), _padding("reflect")),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), _padding("replicate")),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d), _padding("circular")),
}

FUNCTIONS: dict[Any, Callable[..., Layers]] = {
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d, F.max_pool2d, torch.max_pool2d), _max_pool),
    **dict.fromkeys((F.avg_pool1d, torch.avg_pool1d, F.avg_pool2d), _avg_pool),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d), _adaptive(AdaptiveAvgPool2d)),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d), _adaptive(AdaptiveMaxPool2d)),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.sum, "sum"), _sum),
    **dict.fromkeys((torch.amax, "amax"), _largest),
    F.interpolate: _interpolate,
    F.pad: _pad,
}
