"""What the rules of single operations share: `operations.py` and `activations.py` hold them."""

from collections.abc import Callable
from typing import Any

from pyro_compress.network.architecture import Layer

Layers = list[Layer]
Shape = tuple[int, ...]
# of a module, its name and the shape that reaches it
Rule = Callable[[Any, str, Shape], Layers]


class RefusedError(Exception):
    """Why one operation cannot be described; `tracing.trace` adds where it stands."""


def as_module(function: Callable[..., Layers], *fields: str) -> Rule:
    """A function's rule for the module of the same meaning, whose attributes `fields` are its arguments."""
    return lambda module, name, before: function(before, **{field: getattr(module, field) for field in fields})
