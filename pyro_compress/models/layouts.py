"""Filters whose channels lie last in memory, and networks that ask for views of what comes of them.

Filters lie channels last here, which makes convolutions faster, and so do the images that come of them.  Torch then
refuses `x.view(-1, 800)`, as many networks flatten an image, since no view of such a tensor has that order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_compress.network.layers import breaks_channels_last

# axes of a filter bank
FILTERS = 4


def may_lie_last(network: nn.Module) -> bool:
    """Whether torch can train all convolutions of a network with filters whose channels lie last."""
    return not any(
        breaks_channels_last(module, transposed=isinstance(module, nn.ConvTranspose2d))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    )


def lie_last(filters: Tensor) -> Tensor:
    """The same numbers with channels last, which makes convolutions and pooling on CPUs a third faster."""
    return torch.empty_like(filters, memory_format=torch.channels_last).copy_(filters)


def filters_last(network: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a network's parameters with filters so where it may have them so; what is no tensor stays."""
    laid = may_lie_last(network)
    return {
        name: lie_last(value) if laid and isinstance(value, Tensor) and value.ndim == FILTERS else value
        for name, value in values.items()
    }


def lay_filters_last(network: nn.Module) -> None:
    """Lay a network's filters so where it may have them so."""
    if may_lie_last(network):
        for parameter in network.parameters():
            if parameter.ndim == FILTERS:
                parameter.data = lie_last(parameter.data)


class AnyLayout(TorchFunctionMode):
    """Within it `view` and `view_as` copy where there is no view: they are `reshape` and `reshape_as`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.view and not _is_dtype(args, kwargs):
            sizes = args[1:] or tuple(kwargs.values())
            return args[0].reshape(*sizes)
        if func is Tensor.view_as:
            return args[0].reshape_as(*args[1:], **kwargs)
        return func(*args, **kwargs)


def _is_dtype(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the view is of the same bits as another type."""
    return "dtype" in kwargs or any(isinstance(arg, torch.dtype) for arg in args[1:])
