"""A traced network's layers in a row: what combines or cuts earlier results, and what brings them there.

Layers take the output before them.  Where an operation takes another result, a `Recall` gives that one again, or the
layer refers back to it.  A result over channels and positions, (C, L), is described as an image of height 1 from the
first operation on that needs one, and as it is until then.
"""

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

import torch

from pyro_compress.models.tracing.activations import plus, times
from pyro_compress.models.tracing.layouts import Layout
from pyro_compress.models.tracing.rules import Layers, RefusedError, Shape
from pyro_compress.network.further_layers import Concatenate, Multiply, View, fit_together
from pyro_compress.network.layers import Activation, Add, FixedAffine, Layer, Recall, Referring, Select
from pyro_compress.network.shapes import output_shape


@dataclass(frozen=True)
class Result:
    """A result of the network: number of the output that holds it, and its shape as torch has it, batch axis first.

    `layout` says where its axes lie, if they are not the channels and then the places of the output.
    """

    number: int
    shape: Shape
    layout: Layout | None = None


Operand = Result | float


class LayerSequence:
    """Layers in order.

    Attributes:
        layers: so far.
        shapes: of one example, of every output as it is described, the input first.
        aliases: the module's names of parameters that layers name otherwise, by the layers' name.

    Args:
        names: of the network's modules and parameters, which no other layer may have.
        keeps_directions: whether the last state of one direction is taken from those of both, so that the other one,
            which a module has as well, has its layers too.
    """

    def __init__(self, input_shape: Shape, names: Collection[str] = (), *, keeps_directions: bool = False) -> None:
        self._names, self.keeps_directions = {*names}, keeps_directions
        self.layers: Layers = []
        self.shapes: list[Shape] = [input_shape]
        self.aliases: dict[str, str] = {}
        self._images: dict[int, int] = {}
        self.done: dict[tuple[int, Layer], int] = {}
        self._joined: dict[tuple[int, ...], int] = {}

    def new_name(self, kind: str) -> str:
        """One that no module and no layer before has: a kind, and a number from 1 on."""
        name = next(name for number in count(1) if (name := f"{kind}{number}") not in self._names)
        self._names.add(name)
        return name

    @property
    def last(self) -> int:
        """Number of the last output."""
        return len(self.layers)

    def add(self, *layers: Layer) -> int:
        """Append layers that take the last output; number of what they give.

        Raises:
            ValueError: one does not accept the shape that reaches it.
        """
        for layer in layers:
            self.layers.append(layer)
            self.shapes.append(output_shape(layer, self.shapes))
        return self.last

    def behind(self, number: int, *layers: Layer) -> int:
        """The same behind output `number`, which is that of no layers."""
        if not layers:
            return number
        self.recall(number)
        return self.add(*layers)

    def once(self, number: int, layer: Layer) -> int:
        """The same for one layer without tensors, which is there once however often it is asked for."""
        if (number, layer) not in self.done:
            self.done[number, layer] = self.behind(number, layer)
        return self.done[number, layer]

    def combined(self, layer: type[Add] | type[Multiply] | type[Concatenate], first: int, second: int) -> int:
        """Two outputs combined by a layer that refers to the first."""
        self.recall(second)
        if first == self.last:
            # a layer refers to an output before the one that it takes
            self.add(Activation("times", 1.0))
        return self.add(layer(first))

    def recall(self, number: int) -> int:
        """Make an output the last one."""
        return self.last if number == self.last else self.add(Recall(number))

    def image(self, number: int) -> int:
        """Number of the output that holds (C, L) as (C, 1, L); of any other shape the number itself."""
        shape = self.shapes[number]
        if len(shape) != 2:
            return number
        if number not in self._images:
            self._images[number] = self.behind(number, View((1, shape[1])))
        return self._images[number]

    def alike(self, results: Sequence[Result]) -> list[int]:
        """Numbers of outputs that hold some results, all as images of height 1 if one is so."""
        numbers = [result.number for result in results]
        if len({len(self.shapes[number]) for number in numbers}) == 1:
            return numbers
        return [self.image(number) for number in numbers]


def needed_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those that the last output depends on, without recalls of what is the output before anyway."""
    needed = {len(layers)}
    for number in range(len(layers), 0, -1):
        if number in needed:
            layer = layers[number - 1]
            sources = {layer.source} if isinstance(layer, Referring) else set()
            needed |= sources if isinstance(layer, Recall) else {number - 1, *sources}
    found: list[Layer] = []
    numbers = {0: 0}
    for number, layer in enumerate(layers, 1):
        if number not in needed:
            continue
        if isinstance(layer, Referring):
            layer = replace(layer, source=numbers[layer.source])
        if not isinstance(layer, Recall) or layer.source != len(found):
            found.append(layer)
        numbers[number] = len(found)
    return tuple(found)


def with_affines_joined(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same layers, of which one does what two `FixedAffine` did that stood one behind the other."""
    found = list(layers)
    for place in range(len(found) - 1, 0, -1):
        first, second = found[place - 1], found[place]
        sources = [layer.source for layer in found if isinstance(layer, Referring)]
        if isinstance(first, FixedAffine) and isinstance(second, FixedAffine) and place not in sources:
            found[place - 1 : place + 1] = [first.then(second)]
            found = [
                replace(layer, source=layer.source - 1)
                if isinstance(layer, Referring) and layer.source > place
                else layer
                for layer in found
            ]
    return tuple(found)


def add(sequence: LayerSequence, left: Operand, right: Operand) -> int:
    """left + right."""
    if isinstance(left, Result) and isinstance(right, Result):
        return _combine(sequence, Add, left, right)
    result, term = (left, right) if isinstance(left, Result) else (right, left)
    assert isinstance(result, Result) and not isinstance(term, Result)
    return sequence.behind(result.number, *plus(term))


def subtract(sequence: LayerSequence, left: Operand, right: Operand) -> int:
    """left − right."""
    if not isinstance(right, Result):
        return add(sequence, left, -right)
    return add(sequence, left, Result(sequence.behind(right.number, *times(-1)), right.shape))


def multiply(sequence: LayerSequence, left: Operand, right: Operand) -> int:
    """left · right."""
    if isinstance(left, Result) and isinstance(right, Result):
        return _combine(sequence, Multiply, left, right)
    result, factor = (left, right) if isinstance(left, Result) else (right, left)
    assert isinstance(result, Result) and not isinstance(factor, Result)
    return sequence.behind(result.number, *times(factor))


def divide(sequence: LayerSequence, left: Operand, right: Operand) -> int:
    """left / right, a number."""
    if isinstance(right, Result) or not right:
        raise RefusedError("divides by a result or by 0, supported are other numbers")
    return multiply(sequence, left, 1 / right)


def power(sequence: LayerSequence, left: Operand, right: Operand) -> int:
    """left² or left³."""
    if right not in (2, 3) or not isinstance(left, Result):
        raise RefusedError(f"has the exponent {right}, supported are 2 and 3")
    square = multiply(sequence, left, left)
    return square if right == 2 else multiply(sequence, replace(left, number=square), left)


def magnitude(sequence: LayerSequence, result: Result) -> int:
    """|x| = max(x, 0) + max(−x, 0)."""
    above = sequence.once(result.number, Activation("relu"))
    below = sequence.behind(result.number, *times(-1), Activation("relu"))
    return sequence.combined(Add, above, below)


def _combine(sequence: LayerSequence, layer: type[Add] | type[Multiply], left: Result, right: Result) -> int:
    numbers = sequence.alike([left, right])
    shapes = [sequence.shapes[number] for number in numbers]
    if len(left.shape) != len(right.shape) or not fit_together(*shapes):
        raise RefusedError(
            f"combines the shapes {left.shape} and {right.shape}, supported are sums, differences and products of "
            "results with as many axes, each of one extent in both or 1 in one of them"
        )
    return sequence.combined(layer, *sorted(numbers))


def concatenate(sequence: LayerSequence, results: Sequence[Result], axis: int) -> int:
    """Results along axis 1; what has been put together before, as in dense blocks, is taken from there."""
    if any(not isinstance(result, Result) for result in results) or not results:
        raise RefusedError("concatenates something that is no result of the network")
    rank = len(results[0].shape)
    if axis % rank != 1 or any(len(result.shape) != rank for result in results):
        raise RefusedError(f"concatenates along axis {axis}, supported is axis 1, the channels")
    numbers = tuple(sequence.alike(results))
    done = next((k for k in range(len(numbers), 1, -1) if numbers[:k] in sequence._joined), 1)
    whole = sequence._joined[numbers[:done]] if done > 1 else numbers[0]
    for k in range(done, len(numbers)):
        whole = sequence.combined(Concatenate, whole, numbers[k])
        sequence._joined[numbers[: k + 1]] = whole
    return whole


def entries(sequence: LayerSequence, result: Result, kept: Sequence[int]) -> int:
    """Some entries of axis 1, in order."""
    if list(kept) == list(range(result.shape[1])):
        return result.number
    if any(a >= b for a, b in pairwise(kept)):
        raise RefusedError("takes channels in another order, supported are slices from the first to the last")
    return sequence.behind(result.number, Select(tuple(kept)))


def indexed(sequence: LayerSequence, result: Result, index: object) -> int:
    """x[:, a:b], with whole slices for the axes behind."""
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    at = next((place for place, item in enumerate(items) if item is Ellipsis), None)
    if at is not None:
        items[at : at + 1] = [slice(None)] * (len(result.shape) - len(items) + 1)
    whole = [isinstance(item, slice) and item == slice(None) for item in items]
    if not whole[0] or not all(whole[2:]) or (len(items) > 1 and not isinstance(items[1], slice | list)):
        raise RefusedError(f"takes [{index}] of a result, supported are slices of axis 1, the channels: x[:, a:b]")
    if len(items) == 1:
        return result.number
    return entries(sequence, result, torch.arange(result.shape[1])[items[1]].tolist())


def part(sequence: LayerSequence, result: Result, parts: Sequence[Shape], number: int) -> int:
    """One of the parts that `split` or `chunk` cut a result into, by their shapes."""
    widths = [shape[1] for shape in parts]
    same = all((shape[:1], shape[2:]) == (result.shape[:1], result.shape[2:]) for shape in parts)
    if not same or sum(widths) != result.shape[1]:
        raise RefusedError("cuts a result along another axis than 1, the channels")
    start = sum(widths[: number % len(widths)])
    return entries(sequence, result, range(start, start + widths[number % len(widths)]))


COMBINATIONS: dict[Any, Callable[[LayerSequence, Operand, Operand], int]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), add),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), subtract),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"), multiply),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), divide),
    **dict.fromkeys((operator.pow, torch.pow, "pow"), power),
}
MAGNITUDES: frozenset[Any] = frozenset((torch.abs, torch.absolute, "abs", "abs_", "absolute", operator.abs))
CONCATENATIONS: frozenset[Any] = frozenset((torch.cat, torch.concat, torch.concatenate))
STACKS: frozenset[Any] = frozenset((torch.stack,))
# They give several results, of which each is taken by its number.
SPLITS: frozenset[Any] = frozenset(
    (torch.split, torch.chunk, torch.tensor_split, torch.unbind, "split", "chunk", "tensor_split", "unbind")
)
