"""Convolutions of small images as matrix products, in bfloat16 on CPUs.

What a filter reads at every position is gathered in a row, U[(b, p), (k, c)] = x[b, c, p + k], and then

    y = U W,   ∂L/∂W = Uᵀ g,   ∂L/∂x = the same convolution of g with filters turned about

Torch's own kernels work through an image row by row and leave most of a processor's matrix unit idle where rows are
short: over 512 channels, forwards and backwards, products take a sixth of their time for images of 2 × 2 and a third
for 4 × 4.  From 6 × 6 on, or over few channels, gathering costs more than it saves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

# positions of an image, and channels on either side, from which on torch's kernels are faster and up to which
LARGEST, NARROWEST = 16, 128


class SmallMaps(TorchFunctionMode):
    """Within it convolutions of plain tensors run so where that is faster; others, and other values, as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # a lazy value serves itself, however it is handed over
        tensors = (*args[:3], *(kwargs.get(name) for name in ("input", "weight", "bias")))
        if func is F.conv2d and all(isinstance(value, Tensor | None) for value in tensors):
            return convolved(func, *args, **kwargs)
        return func(*args, **kwargs)


def convolved(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """What `function` gives, such as `F.conv2d`: as a matrix product where that is faster, up to rounding the same."""
    return _product(*args, **kwargs) if function is F.conv2d and _pays(*args, **kwargs) else function(*args, **kwargs)


def _pays(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    if not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        return False
    # one filter shape, 3 × 3 that keeps the image's size, is what small images meet
    return (
        input.device.type == "cpu"
        and input.ndim == 4
        and input.shape[2] * input.shape[3] <= LARGEST
        and tuple(weight.shape[2:]) == (3, 3)
        and min(weight.shape[:2]) >= NARROWEST
        and groups == 1
        and all(_is_one(value) for value in (stride, padding, dilation))
    )


def _is_one(value: Any) -> bool:
    return value in (1, (1,), (1, 1), [1], [1, 1])


def _product(input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    result: Tensor = _Convolution.apply(input.bfloat16(), weight.bfloat16())
    return result if bias is None else result + bias.bfloat16().reshape(-1, 1, 1)


class _Convolution(torch.autograd.Function):
    """3 × 3 filters of shape (out, in, 3, 3) on (batch, in, height, width), with a border of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        rows = _gathered(x)
        ctx.save_for_backward(rows, filters)
        ctx.image = x.shape
        return _image(rows @ filters.permute(2, 3, 1, 0).flatten(0, 2), x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, filters = ctx.saved_tensors
        of_image, of_filters = None, None
        if ctx.needs_input_grad[0]:
            turned = filters.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
            of_image = _image(_gathered(gradient) @ turned, ctx.image)
        if ctx.needs_input_grad[1]:
            made = gradient.permute(0, 2, 3, 1).flatten(0, 2)
            of_filters = (made.t() @ rows).unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        return of_image, of_filters


def _gathered(x: Tensor) -> Tensor:
    """(batch · height · width, 3 · 3 · channels): what a filter reads at each position."""
    height, width = x.shape[2:]
    bordered = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    places = [bordered[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.cat(places, -1).flatten(0, 2)


def _image(rows: Tensor, shape: torch.Size) -> Tensor:
    """(batch, channels, height, width), channels last in memory, of a row for each position."""
    return rows.reshape(shape[0], *shape[2:], -1).permute(0, 3, 1, 2)
