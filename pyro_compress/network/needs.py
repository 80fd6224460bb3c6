"""Entries that a network's outputs depend on, found from the output to the input.

An entry is live if a weight leads from it to a live entry of a weighted layer that it reaches, unless its constant can
be folded into that layer's bias.  Network outputs are always live.  A normalisation over a group of entries needs all
of them, constants too, for its mean and variance, and so does a softmax for its sum.

A hidden unit of a recurrent layer is needed if what is behind needs it, or a weight leads from it to a unit that is
needed; it is 0 for ever if its candidate is, from the input, its bias and all units that are not 0.

In attention an entry of k that is constant, or an entry of q that is zero, adds the same to all scores of a place,
which the softmax takes away: the pair of both is not needed.  Heads that stay keep equally many entries.
"""

import math

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.constants import stays_zero
from pyro_compress.network.further_layers import Concatenate, Multiply, Softmax, Standardize
from pyro_compress.network.layers import (
    Add,
    Flatten,
    Layer,
    Recall,
    Referring,
    Select,
    Unflatten,
    Weighted,
    groups_of,
    is_depthwise,
)
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.sequence_layers import (
    Attention,
    Embedding,
    Rearrange,
    Recurrent,
)


def live_of(architecture: Architecture, constants: list[np.ndarray], numbers: Numbers) -> list[np.ndarray]:
    live = [np.zeros(constant.size, dtype=bool) for constant in constants]
    live[-1][:] = True
    for position, layer in reversed(list(enumerate(architecture.layers))):
        after = live[position + 1]
        if isinstance(layer, Concatenate):
            first = live[layer.source].size
            live[layer.source] |= after[:first]
            after = after[first:]
        elif isinstance(layer, Referring):
            live[layer.source] |= _shared(after, live[layer.source].size)
        if isinstance(layer, Add | Multiply):
            live[position] |= _shared(after, live[position].size)
        elif not isinstance(layer, Recall):
            live[position] |= _live_before(layer, constants[position], after, numbers)
    return live


def _shared(after: np.ndarray, size: int) -> np.ndarray:
    """What a sum or product needs of one of its sides: one entry that goes with all is needed where any is."""
    return after if after.size == size else np.full(size, after.any())


def _live_before(layer: Layer, constant: np.ndarray, after: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Which entries a layer needs of what is before it."""
    if isinstance(layer, Flatten):
        return np.asarray(after.reshape(constant.size, -1).any(axis=1))
    if isinstance(layer, Unflatten):
        return np.repeat(after, math.prod(layer.size))
    if isinstance(layer, Select):
        needed = np.zeros(constant.size, dtype=bool)
        needed[list(layer.indices)] = after
        return needed
    if isinstance(layer, Standardize):
        return whole_groups(layer, after)
    if isinstance(layer, Rearrange | Embedding | Softmax):
        return np.full(constant.size, after.any())
    if isinstance(layer, Attention):
        return _attended(layer, constant, after)
    if isinstance(layer, Recurrent):
        return np.tile(_needed_units(layer, constant, after, numbers), layer.gates)
    if not isinstance(layer, Weighted) or is_depthwise(layer):
        return after
    if groups_of(layer) > 1:
        return np.ones(constant.size, dtype=bool)
    return numbers.links(layer)[after].any(axis=0) & ~numbers.foldable(layer, constant)


def _needed_units(layer: Recurrent, constant: np.ndarray, after: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Hidden units that are live behind, or lead to one that is through others; those that are 0 lead nowhere."""
    weight, _ = numbers.recurrent(layer)
    links = (weight != 0).any(axis=0) & ~stays_zero(layer, constant, numbers)
    needed = after.copy()
    while bool((more := links[needed].any(axis=0) & ~needed).any()):
        needed |= more
    return needed


def _attended(layer: Attention, constant: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of v what is live behind, and of q and k the pairs that tell places apart, in heads with any of it."""
    keys = layer.keys(constant.size)
    q, k, v = np.split(constant, (keys, 2 * keys))
    looks = (after & np.isnan(v)).reshape(layer.heads, -1).any(axis=1)
    pairs = np.repeat(looks, keys // layer.heads) & np.isnan(k) & (q != 0)
    return np.concatenate([pairs, pairs, after])


def whole_groups(layer: Standardize, entries: np.ndarray) -> np.ndarray:
    """All entries of the groups that any of these is in."""
    return np.repeat(entries.reshape(layer.groups, -1).any(axis=1), entries.size // layer.groups)
