"""What a network computes, as plain data: layers in order, over one example's input shape.

This is the one description that tracing (`models/tracing/`), structured removal (`analysis/decisions/structure.py`),
the file format (`artifact/`) and the runtimes share.  It imports no torch, so that a decoder on a small device
can read it.  Kinds of layers are in `layers.py`, the shapes that leave them in `shapes.py`.

A layer with numbers may be used again: equal layers of one name, whose tensors are there once.

Each layer takes the output of the one before it.  Output 0 is the input, output i what the i-th layer gives (from 1
on), and the layers in `Referring` refer back to an earlier output by that number.  With them a residual network is a
sequence too; `walk` carries any value through it, and every walk over layers is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.layers import Layer, Named, Recall, Referring, Weighted
from pyro_compress.network.sequence_layers import Embedding
from pyro_compress.network.shapes import output_shape

T = TypeVar("T")


@dataclass(frozen=True)
class Architecture:
    """Layers in order and the shape of one example (no batch axis) that they accept.

    Attributes:
        code: of a decoder, what its input is; None of all other networks.
        aliases: of a traced network, tensors whose parameter has another name in the module, as (tensor, parameter).
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    code: InputCode | None = None
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def tokens(self) -> int | None:
        """Where the input is whole numbers that an `Embedding` takes: below which."""
        taking = [layer for layer, number in zip(self.layers, _taken(self.layers), strict=True) if number == 0]
        return min((layer.tokens for layer in taking if isinstance(layer, Embedding)), default=None)

    def parameter(self, tensor: str) -> str:
        """The module's name of a tensor."""
        return dict(self.aliases).get(tensor, tensor)

    def weighted(self) -> tuple[Weighted, ...]:
        """The dense and convolution layers in order; one that is used again is there once."""
        return tuple(dict.fromkeys(layer for layer in self.layers if isinstance(layer, Weighted)))

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Of every layer with a name, where it is used, by that."""
        found: dict[str, list[int]] = {}
        for position, layer in enumerate(self.layers):
            if isinstance(layer, Named):
                found.setdefault(layer.name, []).append(position)
        return found

    @property
    def reused(self) -> frozenset[str]:
        """Names of the layers that are used several times."""
        return frozenset(name for name, places in self.places.items() if len(places) > 1)

    @property
    def tied(self) -> frozenset[str]:
        """The module's names of parameters that layers of several names have."""
        others = [parameter for _, parameter in self.aliases]
        own = {f"{name}.{kind}" for name in self.places for kind in ("weight", "bias")} - dict(self.aliases).keys()
        return frozenset(name for name in others if name in own or others.count(name) > 1)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one example before each layer, and after the last: len(layers) + 1 entries.

        Raises:
            ValueError: a layer does not accept the shape that reaches it; says which, and both shapes.
        """
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(output_shape(layer, shapes))
        return tuple(shapes)


def _taken(layers: Sequence[Layer]) -> Iterator[int]:
    """Number of the output that each layer takes, through those that recall one."""
    number = 0
    for position, layer in enumerate(layers):
        yield number
        number = layer.source if isinstance(layer, Recall) else position + 1


def last_references(layers: Sequence[Layer]) -> dict[int, int]:
    """Which outputs are referred back to: number of the output → position of the last layer that does."""
    return {layer.source: position for position, layer in enumerate(layers) if isinstance(layer, Referring)}


def walk(layers: Sequence[Layer], start: T, after: Callable[[Layer, T, T | None], T]) -> Iterator[T]:
    """Carry a value through the layers: gives what reaches each of them, then what leaves the last.

    Outputs that are referred back to are kept until the last reference, all others are let go.

    Args:
        layers: whose references point backwards, as `Architecture.shapes` checks.
        start: the value of the input.
        after: (layer, value before it, value of the output that it refers to or None) → value after it.
    """
    last, value = last_references(layers), start
    held: dict[int, T] = {}
    for position, layer in enumerate(layers):
        yield value
        if position in last:
            held[position] = value
        value = after(layer, value, held[layer.source] if isinstance(layer, Referring) else None)
        if isinstance(layer, Referring) and last[layer.source] == position:
            del held[layer.source]
    yield value
