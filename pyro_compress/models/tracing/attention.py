"""Attention of traced networks, as torch's function and as people write it; its modules are in `transformers.py`.

Written out it is softmax(q kᵀ / √d + mask) v.  The product of two results is no layer by itself: it is remembered as
`Scores`, and becomes a layer where its softmax meets the values.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compress.models.tracing.axes import SOFTMAXES
from pyro_compress.models.tracing.constants import Constant, as_number, scale_by_constant
from pyro_compress.models.tracing.positions import at_channels, layout_of, result_of
from pyro_compress.models.tracing.rules import RefusedError
from pyro_compress.models.tracing.sequences import (
    COMBINATIONS,
    LayerSequence,
    Result,
    add,
    divide,
    multiply,
)
from pyro_compress.network.further_layers import Concatenate, Pad
from pyro_compress.network.layers import Select
from pyro_compress.network.sequence_layers import Attention, Crop

# Below this a score's share is zero in float32 beside any other's.
MASKED = -1e4


@dataclass(frozen=True)
class Scores:
    """scale · qᵀk, perhaps masked, and their softmax.

    Attributes:
        queries, keys: results; of keys the last two axes are exchanged.
        shape: as torch has it.
        scale: factor.
        causal: whether places behind are masked.
        shares: whether the softmax has been taken.
    """

    queries: Result
    keys: Result
    shape: tuple[int, ...]
    scale: float = 1.0
    causal: bool = False
    shares: bool = False

    def scaled(self, factor: float) -> "Scores":
        """Multiplied by a number, before a mask and the softmax."""
        if self.causal or self.shares:
            raise RefusedError("multiplies masked scores or shares of attention")
        return replace(self, scale=self.scale * factor)

    def scaled_by(self, sequence: LayerSequence, factor: Constant) -> "Scores":
        """The same by a learned number."""
        if self.causal or self.shares or factor.size != 1 or factor.name is None:
            raise RefusedError(OUTSIDE)
        return replace(self, queries=scale_by_constant(sequence, self.queries, factor))

    def masked(self, mask: Tensor) -> "Scores":
        """With what is added to them: nothing, or −∞ at the places behind."""
        if self.shares:
            raise RefusedError("masks shares of attention, supported are masked scores, before the softmax")
        return replace(self, causal=self.causal or masks_places_behind(mask, self.shape))

    def softmax(self, dim: int) -> "Scores":
        """Over the keys."""
        if dim % len(self.shape) != len(self.shape) - 1 or self.shares:
            raise RefusedError("takes the softmax of scores over another axis than the last, once")
        return replace(self, shares=True)


def masks_places_behind(mask: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a mask that is added hides all places behind, and False if it hides none.

    Raises:
        RefusedError: it does anything else.
    """
    places = shape[-1]
    behind = torch.ones(places, places, dtype=torch.bool).triu(1)
    try:
        whole = mask.expand(shape).reshape(-1, shape[-2], places)
    except RuntimeError:
        raise RefusedError(f"has a mask of shape {tuple(mask.shape)} for scores of shape {shape}") from None
    hidden = whole <= MASKED
    if shape[-2] != places or bool((whole[~hidden] != 0).any()) or not bool((hidden == hidden[:1]).all()):
        raise RefusedError("has a mask that is neither causal nor empty: supported is that of the places behind")
    if bool((hidden[0] == behind).all()):
        return places > 1
    if bool(hidden.any()):
        raise RefusedError("has a mask that is neither causal nor empty: supported is that of the places behind")
    return False


def fixed(mask: Any) -> Tensor:
    """The numbers of a mask, which are neither a parameter's nor made of the input."""
    if not isinstance(mask, Constant) or mask.name is not None:
        raise RefusedError("has a mask that is learned or made of the network's input, supported are fixed numbers")
    return mask.value


def additive(mask: Tensor, hides: bool) -> Tensor:
    """A mask of truth values, which are `hides` where a score is hidden, as numbers that are added."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill(mask == hides, -torch.inf)


def scores_of(queries: Result, keys: Result) -> Scores:
    """The product of two results over the last axis of one and the last but one of the other."""
    if len(queries.shape) < 3 or len(queries.shape) != len(keys.shape) or queries.shape[:-2] != keys.shape[:-2]:
        raise RefusedError(f"multiplies matrices {queries.shape} and {keys.shape}, supported are those of attention")
    return Scores(queries, keys, (*queries.shape[:-1], keys.shape[-1]))


def attended(sequence: LayerSequence, scores: Scores, values: Result) -> Result:
    """The values weighed by shares of attention.

    Raises:
        RefusedError: no softmax was taken, or queries and keys are not of the same places.
    """
    if not scores.shares:
        raise RefusedError("multiplies a result with the product of two others, supported is softmax(q @ k) @ v")
    keys = layout_of(sequence, scores.keys)
    order = [*range(len(keys.axes) - 2), len(keys.axes) - 1, len(keys.axes) - 2]
    turned = result_of(sequence, scores.keys.number, keys.permuted(order))
    return attention(sequence, scores.queries, turned, values, scores.scale, causal=scores.causal)


def attention(
    sequence: LayerSequence, queries: Result, keys: Result, values: Result, scale: float, *, causal: bool
) -> Result:
    """Attention over the last axis but one, to no fewer places than attend; axes in front of it are heads."""
    shapes = [result.shape for result in (queries, keys, values)]
    few, many = shapes[0][-2], shapes[1][-2]
    alike = len({shape[:-2] for shape in shapes}) == 1 and shapes[2][-2] == many and shapes[0][-1] == shapes[1][-1]
    if not alike or few > many or (causal and few < many):
        raise RefusedError(
            f"attends with queries, keys and values of shapes {', '.join(map(str, shapes))}, supported are those of "
            "the same heads and places, and fewer queries without a mask"
        )
    numbers = []
    for result in (queries, keys, values):
        layout = layout_of(sequence, result)
        lead = [factor for factor in chain.from_iterable(layout.axes[:-2]) if factor]
        heads = prod(layout.factors[factor] for factor in lead)
        number, layout = at_channels(sequence, result, [*lead, *layout.axes[-1]], [[], layout.axes[-2]])
        numbers.append(number)
    wide = sequence.shapes[numbers[2]][0]
    numbers[0] = padded(sequence, numbers[0], many)
    number = _side_by_side(sequence, numbers)
    number = cropped(sequence, sequence.behind(number, Attention(heads, wide, scale, causal)), few)
    # where those of the last, the values, lie
    if few < many:
        axis = len(layout.axes) - 2
        count = len(layout.axes[axis])
        layout = layout.exchanged(axis, len(layout.factors) - count, count, few)
    return result_of(sequence, number, layout)


def padded(sequence: LayerSequence, number: int, places: int) -> int:
    """Queries and, behind them, others that are zero: as many as keys."""
    missing = places - sequence.shapes[number][2]
    return sequence.once(number, Pad((0, 0), (0, missing))) if missing else number


def cropped(sequence: LayerSequence, number: int, places: int) -> int:
    """What the first of the queries found."""
    return number if sequence.shapes[number][2] == places else sequence.once(number, Crop((0, 0), (1, places)))


def _side_by_side(sequence: LayerSequence, numbers: list[int]) -> int:
    """Outputs one after the other along the channels: what they were cut from, if they are all of it in order."""
    parts = [_cut_from(sequence, number) for number in numbers]
    whole = {source for source, _ in parts}
    indices = [index for _, part in parts for index in part]
    if len(whole) == 1 and indices == list(range(sequence.shapes[parts[0][0]][0])):
        return parts[0][0]
    first, *others = numbers
    for number in others:
        first = sequence.combined(Concatenate, first, number)
    return first


def _cut_from(sequence: LayerSequence, number: int) -> tuple[int, tuple[int, ...]]:
    """The output that an output was selected from, and which of its channels."""
    for (source, layer), found in sequence.done.items():
        if found == number and isinstance(layer, Select):
            return source, layer.indices
    return number, tuple(range(sequence.shapes[number][0]))


def on_scores(sequence: LayerSequence, kind: Any, arguments: Any, named: Any, module: Any) -> Result | Scores:
    """A product of results, and what is done with it until it meets the values.

    Raises:
        RefusedError: it is no attention.
    """
    if kind is F.scaled_dot_product_attention:
        return _scaled_dot_product(sequence, *arguments, **named)
    if kind is torch.einsum:
        return _summed(sequence, *arguments)
    if kind in PRODUCTS:
        left, right = arguments
        if isinstance(left, Result) and isinstance(right, Result):
            return scores_of(left, right)
        if isinstance(left, Scores) and isinstance(right, Result):
            return attended(sequence, left, right)
        raise RefusedError("multiplies matrices that are no queries, keys and values of attention")
    scores = next((one for one in arguments if isinstance(one, Scores)), None)
    others = [as_number(one) for one in arguments if one is not scores]
    if scores is None:
        raise RefusedError(OUTSIDE)
    if kind in IDENTITIES or isinstance(module, nn.Dropout):
        return scores
    if kind in SOFTMAXES and module is None:
        return scores.softmax(named.get("dim", others[0] if others else 0))
    if isinstance(module, nn.Softmax):
        return scores.softmax(module.dim if module.dim is not None else 0)
    if kind in MASKINGS:
        others += [as_number(named[name]) for name in ("mask", "value", "other") if name in named]
        mask, value = others if len(others) == 2 else (None, None)
        if not isinstance(mask, Constant) or not isinstance(value, int | float) or value > MASKED:
            raise RefusedError("masks scores by other results, or with other numbers than -inf")
        # `where` takes its second result where the condition holds, and its third elsewhere
        hides = kind is not torch.where or arguments[1] is not scores
        return scores.masked(additive(fixed(mask).bool(), hides))
    operation = COMBINATIONS.get(kind)
    if operation is multiply and isinstance(others[0], int | float):
        return scores.scaled(others[0])
    if operation is divide and isinstance(others[0], int | float) and arguments[0] is scores:
        return scores.scaled(1 / others[0])
    if operation in (multiply, divide) and isinstance(others[0], Constant) and arguments[0] is scores:
        return scores.scaled_by(sequence, others[0] if operation is multiply else others[0].then(("reciprocal", 0.0)))
    if operation is add and isinstance(others[0], Constant) and others[0].name is None:
        return scores.masked(others[0].value)
    raise RefusedError(OUTSIDE)


def _summed(sequence: LayerSequence, equation: str, *operands: Any) -> Result | Scores:
    """Products of attention as sums over letters (`torch.einsum`)."""
    given, _, made = equation.replace(" ", "").partition("->")
    letters = given.split(",")
    plain = len(letters) == len(operands) == 2 and all(len({*each}) == len(each) for each in (*letters, made))
    if not plain or not "".join((*letters, made)).isalpha():
        raise RefusedError(SUMMED)
    pairs = list(zip(letters, operands, strict=True))
    # the shares, or the queries, first: those whose letter is not the last one of the result
    (first, left), (second, right) = sorted(pairs, key=lambda pair: made[-1:] in pair[0])
    summed, lead = {*first} & {*second} - {*made}, [letter for letter in made if letter in {*first} & {*second}]
    own = [letter for letter in first if letter not in second]
    if len(summed) != 1 or len(own) != 1 or {*first, *second} - summed != {*made} or not isinstance(right, Result):
        raise RefusedError(SUMMED)
    if isinstance(left, Result):
        if [*made] != [*lead, *own, made[-1]]:
            raise RefusedError(SUMMED)
        queries = _turned(sequence, left, first, [*lead, *own, *summed])
        return scores_of(queries, _turned(sequence, right, second, [*lead, *summed, made[-1]]))
    if not isinstance(left, Scores) or [*first[-2:]] != [*own, *summed]:
        raise RefusedError(SUMMED)
    lead = [*first[:-2]]
    found = attended(sequence, left, _turned(sequence, right, second, [*lead, *summed, made[-1]]))
    return _turned(sequence, found, [*lead, *own, made[-1]], [*made])


def _turned(sequence: LayerSequence, result: Result, letters: Sequence[str], order: Sequence[str]) -> Result:
    """A result with the axes of these letters in another order."""
    if len(letters) != len(result.shape):
        raise RefusedError(SUMMED)
    layout = layout_of(sequence, result).permuted([[*letters].index(letter) for letter in order])
    return result_of(sequence, result.number, layout)


def _scaled_dot_product(
    sequence: LayerSequence,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Result:
    if not all(isinstance(one, Result) for one in (query, key, value)) or dropout_p:
        raise RefusedError("attends with something that is no result, or drops shares at inference too")
    causal = is_causal
    if attn_mask is not None:
        shape = (*query.shape[:-1], key.shape[-2])
        # true where a score counts
        causal = causal or masks_places_behind(additive(fixed(attn_mask), False), shape)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return attention(sequence, query, key, value, scale, causal=causal)


OUTSIDE = "takes a product of two results, which is supported in softmax(q @ k.transpose(-2, -1) / d + mask) @ v only"
SUMMED = "sums products that are none of attention, supported are 'bhqd,bhkd->bhqk' and 'bhqk,bhkd->bhqd', in any order"
PRODUCTS: frozenset[Any] = frozenset(
    (operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm", torch.einsum, F.scaled_dot_product_attention)
)
MASKINGS: frozenset[Any] = frozenset(("masked_fill", "masked_fill_", torch.masked_fill, torch.where))
IDENTITIES: frozenset[Any] = frozenset((F.dropout, "contiguous", "float", "type_as", "to"))
