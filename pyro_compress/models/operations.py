"""What each supported operation of a traced network means as layers: one small rule per operation.

A rule takes the shape that reaches the operation (no batch axis) and the operation's own arguments, and returns
the layers it stands for: none for an identity.  An argument that cannot be described exactly raises `RefusedError`
with the rest of a sentence that begins with the operation's name.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models import activations
from pyro_compress.models.rules import Layers, RefusedError, Rule, Shape, as_module
from pyro_compress.network.architecture import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    MaxPool2d,
    Pair,
    Unflatten,
    Upsample,
)

SUPPORTED = (
    "Linear, Conv2d, ConvTranspose2d, BatchNorm1d, BatchNorm2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Upsample, "
    "Flatten, Unflatten, Dropout, Identity "
    "and the activations ReLU, ReLU6, LeakyReLU, PReLU, ELU, SELU, CELU, Tanh, Hardtanh, Sigmoid, Hardsigmoid, "
    "LogSigmoid, Softplus, Softsign, GELU, SiLU, Hardswish, Mish, as modules or functions, and the sum of two results"
)


def _pair(value: Any) -> Pair:
    height, width = (value, value) if isinstance(value, int) else value if len(value) == 2 else value * 2
    return int(height), int(width)


def _linear(module: Any, name: str, before: Shape) -> Layers:
    return [Linear(name, module.in_features, module.out_features, module.bias is not None)]


def _conv(module: Any, name: str, before: Shape) -> Layers:
    kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(module.dilation)
    if module.padding == "valid":
        padding: Pair = (0, 0)
    elif module.padding == "same":
        total = [dil * (size - 1) for dil, size in zip(dilation, kernel, strict=True)]
        if total[0] % 2 or total[1] % 2:
            raise RefusedError(
                f"has padding 'same' with kernel {kernel}, which pads one side more than the other: give numbers"
            )
        padding = total[0] // 2, total[1] // 2
    else:
        padding = _pair(module.padding)
    if module.padding_mode != "zeros" and any(padding):
        raise RefusedError(f"has padding_mode '{module.padding_mode}', supported is 'zeros'")
    bias = module.bias is not None
    return [
        Conv2d(name, module.in_channels, module.out_channels, kernel, stride, padding, dilation, module.groups, bias)
    ]


def _conv_transpose(module: Any, name: str, before: Shape) -> Layers:
    return [
        ConvTranspose2d(
            name,
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.padding),
            _pair(module.output_padding),
            _pair(module.dilation),
            module.groups,
            module.bias is not None,
        )
    ]


def _batch_norm(module: Any, name: str, before: Shape) -> Layers:
    if module.running_mean is None or module.running_var is None:
        raise RefusedError("keeps no running statistics: set track_running_stats=True and train it")
    return [BatchNorm(name, module.num_features, module.eps, module.affine)]


def _max_pool(
    before: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layers:
    if ceil_mode:
        raise RefusedError("has ceil_mode=True, supported is False")
    if _pair(dilation) != (1, 1):
        raise RefusedError(f"has dilation {dilation}, supported is 1")
    return [MaxPool2d(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))]


def _avg_pool(
    before: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layers:
    if ceil_mode:
        raise RefusedError("has ceil_mode=True, supported is False")
    if divisor_override is not None:
        raise RefusedError(f"has divisor_override={divisor_override}, supported is None")
    if not count_include_pad and any(_pair(padding)):
        raise RefusedError("has count_include_pad=False with padding, supported is True")
    return [AvgPool2d(_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))]


def _adaptive_pool(before: Shape, output_size: Any) -> Layers:
    sizes = (output_size, output_size) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    height, width = (extent if size is None else int(size) for size, extent in zip(sizes, before[-2:], strict=True))
    return [AdaptiveAvgPool2d((height, width))]


def _mean(before: Shape, dim: Any = None, keepdim: bool = False) -> Layers:
    axes = sorted(axis % 4 for axis in ((dim,) if isinstance(dim, int) else dim or ()))
    if len(before) != 3 or axes != [2, 3]:
        raise RefusedError("is supported over height and width only: mean(dim=(2, 3))")
    return [AdaptiveAvgPool2d((1, 1))] if keepdim else [AdaptiveAvgPool2d((1, 1)), Flatten()]


def _upsample(
    before: Shape,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Layers:
    if mode not in ("nearest", "nearest-exact") or len(before) != 3:
        raise RefusedError(f"has mode '{mode}' on shape {before}, supported is 'nearest' on (channels, height, width)")
    if size is not None:
        factors: Any = [wanted / extent for wanted, extent in zip(_pair(size), before[1:], strict=True)]
    else:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
    if any(factor < 1 or factor != int(factor) for factor in factors):
        raise RefusedError(f"enlarges by {tuple(factors)}, supported are whole factors from 1 on")
    return [Upsample(_pair([int(factor) for factor in factors]))]


def reshape(before: Shape, after: Shape) -> Layers:
    """View, reshape and flatten keep the order of the numbers, so only the shapes (with batch axis) must be right."""
    if after == before:
        return []
    if after[:1] != before[:1] or len(after) not in (2, 4):
        raise RefusedError(
            f"reshapes {before} to {after} (batch axis first), supported are a vector and (channels, height, width) "
            "behind the batch axis"
        )
    flat: Layers = [Flatten()] if len(before) != 2 else []
    return flat if len(after) == 2 else [*flat, Unflatten(_pair(after[2:]))]


def _dropout(before: Shape, p: float = 0.5, training: bool = True, inplace: bool = False) -> Layers:
    if training:
        raise RefusedError("drops units at inference too: pass training=self.training")
    return []


def _identity(before: Shape) -> Layers:
    return []


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: as_module(_max_pool, *_POOL, "dilation"),
    nn.AvgPool2d: as_module(_avg_pool, *_POOL, "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: as_module(_adaptive_pool, "output_size"),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d), as_module(_upsample, "size", "scale_factor", "mode", "align_corners")
    ),
    **activations.MODULES,
    **dict.fromkeys(
        (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        as_module(_identity),
    ),
}

FUNCTIONS: dict[Any, Callable[..., Layers]] = {
    **activations.FUNCTIONS,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
    F.interpolate: _upsample,
    torch.mean: _mean,
    "mean": _mean,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
    **dict.fromkeys(("contiguous", "float"), _identity),
}

ADDITIONS: frozenset[Any] = frozenset((operator.add, operator.iadd, torch.add, "add", "add_"))
# Their result is told by its shape alone.
RESHAPES: frozenset[Any] = frozenset(
    (
        *(nn.Flatten, nn.Unflatten, torch.flatten, torch.unflatten, torch.reshape, torch.squeeze, torch.unsqueeze),
        *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"),
    )
)
SOFTMAXES: frozenset[Any] = frozenset(
    (nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax")
)
