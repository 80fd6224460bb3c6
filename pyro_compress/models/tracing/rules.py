"""What the rules of single operations share; they are in `operations.py` and the files that it collects."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pyro_compress.models.checking import CALLED
from pyro_compress.network.layers import Layer, Pair

Layers = list[Layer]
Shape = tuple[int, ...]
# of a module, its name and the shape that reaches it
Rule = Callable[[Any, str, Shape], Layers]


# methods that a known module's forward pass is made of
_COMPUTING = (*CALLED, "_conv_forward", "__getattr__", "__getattribute__")


class RefusedError(Exception):
    """Why one operation cannot be described; `tracing.trace` adds where it stands."""


def as_module(function: Callable[..., Layers], *fields: str) -> Rule:
    """A function's rule for the module of the same meaning, whose attributes `fields` are its arguments."""
    return lambda module, name, before: function(before, **{field: getattr(module, field) for field in fields})


def as_pair(value: Any, dims: int, height: int = 1) -> Pair:
    """A size as torch takes it, for `dims` axes, as one for rows and columns; for one axis rows have `height`."""
    sizes = (value,) if isinstance(value, int) else tuple(value)
    sizes = sizes * dims if len(sizes) == 1 else sizes
    return (height, int(sizes[0])) if dims == 1 else (int(sizes[0]), int(sizes[1]))


def computes_like(module: nn.Module, kind: Any) -> bool:
    """Whether neither its class nor the instance computes anything else, and torch's own class is as torch wrote it."""
    same = all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _COMPUTING)
    return same and "_conv_forward" not in module.__dict__ and kind.forward.__module__.startswith("torch.nn.")
