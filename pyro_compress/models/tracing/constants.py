"""Parameters that stand in the forward pass outside of a layer: position embeddings, class tokens, scales of channels.

What the network makes of a parameter without its input (views, permutations, rows of an embedding) is followed by where
its numbers lie in memory.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyro_compress.models.parameters import place_in_memory
from pyro_compress.models.tracing.axes import PERMUTATIONS
from pyro_compress.models.tracing.operations import ELEMENTWISE, FUNCTIONS, RESHAPES
from pyro_compress.models.tracing.positions import at_channels, layout_of, result_of
from pyro_compress.models.tracing.rules import RefusedError
from pyro_compress.models.tracing.sequences import (
    COMBINATIONS,
    MAGNITUDES,
    LayerSequence,
    Result,
    add,
    divide,
    multiply,
    power,
    subtract,
)
from pyro_compress.models.tracing.shuffles import EXPANSIONS
from pyro_compress.network.activations import applied
from pyro_compress.network.layers import Activation, BatchNorm, FixedAffine, Layer, Named
from pyro_compress.network.sequence_layers import ConstantPositions, PositionBias


@dataclass(frozen=True)
class Constant:
    """What the network makes of a parameter alone.

    Attributes:
        name: of the parameter, None where it is none.
        value: numbers.
        indices: for each of them, the number in the parameter.
        size: how many numbers the parameter has.
        function: what is made of each of them, see `BatchNorm`.
    """

    name: str | None
    value: Tensor
    indices: Tensor | None = None
    size: int = 0
    function: tuple[tuple[str, float], ...] = ()

    def then(self, *steps: tuple[str, float]) -> "Constant":
        """Of a parameter, what a further function makes of it."""
        value = applied(steps, self.value.detach().cpu().numpy())
        return replace(self, value=torch.as_tensor(value).to(self.value), function=(*self.function, *steps))


def constant_of(network: nn.Module, value: Tensor) -> Constant:
    """Whether a tensor is numbers of a parameter, and which."""
    for name, parameter in network.named_parameters():
        if place_in_memory(parameter)[0] != place_in_memory(value)[0] or not parameter.is_contiguous():
            continue
        first = int(value.storage_offset() - parameter.storage_offset())
        last = first + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
        if first >= 0 and last < parameter.numel() and value.numel():
            numbers = torch.arange(parameter.numel())
            indices = numbers.as_strided(value.shape, value.stride(), first)
            return Constant(name, value, indices, parameter.numel())
    return Constant(None, value)


_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.exp, "exp"), "exp"),
    **dict.fromkeys((torch.reciprocal, "reciprocal"), "reciprocal"),
    **dict.fromkeys((torch.square, "square"), "square"),
    **dict.fromkeys(MAGNITUDES, "abs"),
}
# what changes shapes alone
_MOVING = frozenset((*RESHAPES, *PERMUTATIONS, *EXPANSIONS, operator.getitem, "repeat"))


def function_of(constant: Constant, kind: Any, at: int, arguments: Any, named: Any) -> Constant | None:
    """What an operation makes of a parameter number by number, or of its shape; None of anything else.

    Args:
        constant: its argument number `at`, of those that are given by place.
        kind: function, or name of a method.
        arguments, named: of it, with tensors as such.
    """
    others = [*arguments[:at], *arguments[at + 1 :]]
    if kind in _FUNCTIONS:
        return constant.then((_FUNCTIONS[kind], 0.0))
    if kind in ELEMENTWISE and kind in FUNCTIONS and at == 0:
        layers = FUNCTIONS[kind](tuple(constant.value.shape), *others, **named)
        if all(isinstance(layer, Activation) for layer in layers):
            return constant.then(*((layer.kind, layer.slope) for layer in layers if isinstance(layer, Activation)))
    if kind in COMBINATIONS and len(others) == 1 and isinstance(others[0], int | float) and not named:
        return _with_number(constant, COMBINATIONS[kind], float(others[0]), first=at == 0)
    if kind in _MOVING and at == 0 and constant.indices is not None:
        value, indices = (
            getattr(one, kind)(*others, **named) if isinstance(kind, str) else kind(one, *others, **named)
            for one in (constant.value, constant.indices)
        )
        return replace(constant, value=value, indices=indices)
    return None


def _with_number(constant: Constant, operation: Any, number: float, *, first: bool) -> Constant | None:
    """A parameter combined with a number, which comes last, or else first."""
    if operation is add:
        return constant.then(("plus", number))
    if operation is multiply:
        return constant.then(("times", number))
    if operation is subtract:
        return constant.then(("plus", -number)) if first else constant.then(("times", -1.0), ("plus", number))
    if operation is divide and (number or not first):
        return constant.then(("times", 1 / number)) if first else constant.then(("reciprocal", 0.0), ("times", number))
    if operation is power and first and number == 2:
        return constant.then(("square", 0.0))
    return None


def add_constant(sequence: LayerSequence, result: Result, constant: Constant) -> Result:
    """A number of its own for every place and channel, for every channel, or for all; if no parameter's, the second."""
    if constant.name is None:
        return _affine(sequence, result, constant.value, "adds", lambda own: ([1.0] * len(own), own))
    name, indices = _needed(constant, "adds")
    for channels in _channels(sequence, result):
        own = _by_channel(sequence, result, indices, channels)
        if own is not None and _increases(own.T) and not constant.function:
            number, layout = at_channels(sequence, result, channels)
            layer = PositionBias(_layer_name(name), own.shape[1], len(own))
            sequence.aliases[f"{layer.name}.value"] = name
            return result_of(sequence, sequence.behind(number, layer), layout)
    found = _by_entry(sequence, result, constant, gain=False)
    if found is not None:
        return found
    raise RefusedError(
        f"adds {name}, of shape {tuple(constant.value.shape)}, to {result.shape}: supported is a number for each place "
        "and feature, the features along the parameter's last axis, one for each channel or feature, or one for all"
    )


def scale_by_constant(sequence: LayerSequence, result: Result, constant: Constant) -> Result:
    """A factor for every channel, or one for all."""
    if constant.name is None:
        return _affine(sequence, result, constant.value, "multiplies with", lambda own: (own, [0.0] * len(own)))
    name, _ = _needed(constant, "multiplies with")
    found = _by_entry(sequence, result, constant, gain=True)
    if found is not None:
        return found
    raise RefusedError(
        f"multiplies {result.shape} with {name}, of shape {tuple(constant.value.shape)}: supported is a factor for "
        "each channel or feature, or one for all"
    )


def _by_entry(sequence: LayerSequence, result: Result, constant: Constant, *, gain: bool) -> Result | None:
    """A factor or, without `gain`, a term for every channel or for all; None if the numbers are others."""
    name, indices = _needed(constant, "takes")
    # not a single one of many numbers
    one = constant.size == 1

    def layer_of(own: Tensor) -> BatchNorm:
        which = BatchNorm(_layer_name(name), len(own), 0.0, True, bias=not gain, running=False, gain=gain)
        return _named(sequence, replace(which, one=one, function=constant.function), name)

    def suits(own: Tensor) -> bool:
        return one or (_alike_at_all_places(own) and _increases(own[:, 0]))

    return _behind_channels(sequence, result, indices, suits, layer_of)


def _behind_channels(
    sequence: LayerSequence,
    result: Result,
    numbers: Tensor,
    suits: Callable[[Tensor], bool],
    layer_of: Callable[[Tensor], Layer],
) -> Result | None:
    """A result behind a layer of its channels, made of (channels, places) numbers that suit; None if none do."""
    for channels in _channels(sequence, result):
        own = _by_channel(sequence, result, numbers, channels)
        if own is not None and suits(own):
            number, layout = at_channels(sequence, result, channels)
            number = sequence.image(number)
            return result_of(sequence, sequence.behind(number, layer_of(own)), layout)
    return None


def _alike_at_all_places(own: Tensor) -> bool:
    return bool((own == own[:, :1]).all())


def _named(sequence: LayerSequence, layer: BatchNorm, parameter: str) -> BatchNorm:
    """The same under a name that no other layer has; a parameter may be taken in several ways."""
    kind = "weight" if layer.gain else "bias"
    others = [other for other in sequence.layers if isinstance(other, Named)]
    for other in others:
        same = isinstance(other, BatchNorm) and replace(other, name=layer.name) == layer
        if same and isinstance(other, BatchNorm) and sequence.aliases.get(f"{other.name}.{kind}") == parameter:
            return other
    if any(other.name == layer.name for other in others):
        layer = replace(layer, name=sequence.new_name(f"{layer.name}_"))
    sequence.aliases[f"{layer.name}.{kind}"] = parameter
    return layer


def _affine(
    sequence: LayerSequence,
    result: Result,
    value: Tensor,
    what: str,
    numbers: Callable[[list[float]], tuple[Sequence[float], Sequence[float]]],
) -> Result:
    """Numbers of no parameter for every channel: `numbers` makes scale and shift of them."""

    def layer_of(own: Tensor) -> FixedAffine:
        scale, shift = numbers(own[:, 0].tolist())
        return FixedAffine(sequence.new_name("fixed"), tuple(scale), tuple(shift))

    def suits(own: Tensor) -> bool:
        return _alike_at_all_places(own) and bool(own.isfinite().all())

    found = _behind_channels(sequence, result, value.detach().float(), suits, layer_of)
    if found is not None:
        return found
    raise RefusedError(
        f"{what} numbers that are no parameter's, of shape {tuple(value.shape)}, where the result is of shape "
        f"{result.shape}: supported is a number for each channel or feature; others make an nn.Parameter, with "
        "requires_grad=False if they are not to be fitted"
    )


def beside_constant(sequence: LayerSequence, result: Result, constant: Constant, axis: int, *, behind: bool) -> Result:
    """Positions with numbers of their own, in front of those of a result or behind them."""
    if constant.function:
        raise RefusedError(f"concatenates what the forward pass computes from {constant.name}")
    name, indices = _needed(constant, "concatenates")
    layout = layout_of(sequence, result)
    channels = [*chain.from_iterable(each for at, each in enumerate(layout.axes) if at != axis and 0 not in each)]
    number, layout = at_channels(sequence, result, channels, [[], layout.axes[axis]])
    count = indices.shape[axis]
    features = indices[0].movedim(axis - 1, 0)
    if not bool((indices == indices[:1]).all()) or not _increases(features):
        raise RefusedError(
            f"concatenates {name}, of shape {tuple(constant.value.shape)}, with {result.shape}: supported are "
            "positions with a number for each feature, the features along the parameter's last axis"
        )
    layer = ConstantPositions(_layer_name(name), count, features.numel() // count, behind)
    sequence.aliases[f"{layer.name}.value"] = name
    number = sequence.behind(number, layer)
    factors = len(layout.axes[axis])
    return result_of(sequence, number, layout.exchanged(axis, 1 + len(channels), factors, result.shape[axis] + count))


def as_number(given: Any) -> Any:
    """A single number that is no parameter as such; anything else as it is."""
    single = isinstance(given, Constant) and given.name is None and given.value.numel() == 1
    return given.value.item() if single and given.value.dtype != torch.bool else given


def _needed(constant: Constant, what: str) -> tuple[str, Tensor]:
    if constant.name is None or constant.indices is None:
        raise RefusedError(
            f"{what} numbers that are no parameter's, of shape {tuple(constant.value.shape)}: make them an "
            "nn.Parameter, with requires_grad=False if they are not to be fitted"
        )
    return constant.name, constant.indices


def _layer_name(parameter: str) -> str:
    """What the layer is called: as the parameter, or as the module whose only one it is."""
    return parameter.removesuffix(".weight") or parameter


def _channels(sequence: LayerSequence, result: Result) -> list[tuple[int, ...]]:
    """Factors that may be channels: those that are, and those of the last axis."""
    layout, shape = layout_of(sequence, result), sequence.shapes[result.number]
    found: list[int] = []
    size = 1
    while size < shape[0]:
        found.append(1 + len(found))
        size *= layout.factors[found[-1]]
    return list(dict.fromkeys([tuple(found), layout.axes[-1]]))


def _by_channel(sequence: LayerSequence, result: Result, indices: Tensor, channels: Sequence[int]) -> Tensor | None:
    """(channels, places): numbers in the parameter; None if examples have different ones."""
    layout = layout_of(sequence, result)
    try:
        seen = layout.in_memory(indices.expand(result.shape))
    except RuntimeError:
        raise RefusedError(
            f"combines the shapes {result.shape} and {tuple(indices.shape)}, supported are parameters that go with "
            "every example"
        ) from None
    if not bool((seen == seen[:1]).all()):
        return None
    others = [factor for factor in range(1, len(layout.factors)) if factor not in channels]
    width = prod(layout.factors[factor] for factor in channels)
    # as `at_channels` puts them: in order of memory, or else of the axes
    if list(channels) != list(range(1, 1 + len(channels))):
        others = [factor for axis in layout.axes for factor in axis if factor in others]
    return seen.permute(0, *channels, *others)[0].reshape(width, -1)


def _increases(numbers: Tensor) -> bool:
    """Whether they are 0, 1, 2, …, row major."""
    return bool((numbers.flatten() == torch.arange(numbers.numel())).all())
