"""Which entries stay because others do: what is coupled can only go together.

Channels of an output that is added to another, or multiplied with it, can only go together with that one's, so the
outputs along a residual connection are coupled, and an entry goes where it is live in none of them.  They are the
coupled channels of a dependency graph (Fang et al. 2023, DepGraph, CVPR).  One entry that goes with all of the other
output, as a gate of one channel, is coupled with none and stays.  Behind a concatenation or selection an entry
may go while the one in front of it stays for another reader.  A layer that is used again reads and makes the same
entries at all its places, so what is before it is coupled, and so is what is behind it; what is constant at one of them
may vary at another, and is read as it is.  So it is with layers that share a weight, by the weight's axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import Concatenate, Multiply, Softmax, Standardize
from pyro_compress.network.layers import (
    Add,
    BatchNorm,
    ConvTranspose2d,
    Flatten,
    Layer,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Weighted,
    is_depthwise,
)
from pyro_compress.network.needs import whole_groups
from pyro_compress.network.sequence_layers import (
    Attention,
    Embedding,
    Rearrange,
    Recurrent,
)


@dataclass(frozen=True)
class Sharing:
    """Which entries are the same ones, since a weight, or a layer with all that it holds, is at several places.

    Attributes:
        sides: per layer, for before it (0) and behind it (1), the outputs with the entries of that one, itself among
            them; those alone that are several.
        tokens: outputs whose entries are tokens of an embedding, which stay: of layers that share its weight.
    """

    sides: Sequence[Mapping[int, Sequence[int]]]
    tokens: Sequence[int]


def sharing(architecture: Architecture) -> Sharing:
    """What the layers of an architecture share, by the axes of their weights."""
    outputs: dict[tuple[str, int], list[int]] = {}
    members: list[tuple[int, int, tuple[str, int]]] = []
    tables = set()
    for name, places in architecture.places.items():
        layer, weight = architecture.layers[places[0]], architecture.parameter(f"{name}.weight")
        tables |= {(weight, 0)} if isinstance(layer, Embedding) else set()
        for side in _sides(layer):
            axis = (weight, side if isinstance(layer, Embedding | ConvTranspose2d) else 1 - side)
            outputs.setdefault(axis, []).extend(place + side for place in places)
            members += [(place, side, axis) for place in places]
    sides: list[dict[int, Sequence[int]]] = [{} for _ in architecture.layers]
    for place, side, axis in members:
        if len(outputs[axis]) > 1:
            sides[place][side] = outputs[axis]
    # an embedding's own tokens are no output's entries
    return Sharing(sides, [number for axis in tables for number in outputs.get(axis, ())])


def kept_of(architecture: Architecture, live: list[np.ndarray]) -> list[np.ndarray]:
    """One mask for all coupled outputs: live in any of them, and what a kept entry needs across a change of shape.

    In front of a `Flatten` a channel is kept if a feature of it is behind.  Around an `Unflatten` all features of a
    channel are kept if one is, or if the channel is.  In front of a `Standardize` groups are kept as wholes.  Around a
    `Rearrange` or a `Softmax`, and in front of an `Embedding`, everything is, and of the heads of an `Attention` that
    are kept equally many entries.
    """
    shared = sharing(architecture)
    couple, layers = _coupled(architecture, shared), architecture.layers
    masks = {number: np.zeros_like(live[number]) for number in set(couple)}
    for number, mask in zip(couple, live, strict=True):
        masks[number] |= mask
    for number in shared.tokens:
        masks[couple[number]][:] = True
    turns = [
        (layer, masks[couple[position]], masks[couple[position + 1]], masks[couple[getattr(layer, "source", position)]])
        for position, layer in enumerate(layers)
        if isinstance(
            layer, Select | Concatenate | Standardize | Softmax | Rearrange | Attention | Embedding | Recurrent
        )
        or (isinstance(layer, Flatten | Unflatten) and couple[position] != couple[position + 1])
    ]
    for number in sorted(masks, reverse=True):
        while any(_complete(*turn) for turn in turns):
            pass
        masks[number][:1] |= not masks[number].any()
    while any(_complete(*turn) for turn in turns):
        pass
    return [masks[number] for number in couple]


def _complete(layer: Layer, before: np.ndarray, after: np.ndarray, earlier: np.ndarray) -> bool:
    """Keep what the masks on all sides of a layer ask for; whether that was more than before."""
    sides = (before, after, earlier)
    kept = sum(int(mask.sum()) for mask in sides)
    match layer:
        case Flatten():
            before |= after.reshape(before.size, -1).any(axis=1)
        case Unflatten():
            after |= before.reshape(after.size, -1).any(axis=1)
            before |= np.repeat(after, before.size // after.size)
        case Select(indices=indices):
            before[list(indices)] |= after
        case Concatenate():
            earlier |= after[: earlier.size]
            before |= after[earlier.size :]
        case Standardize():
            before |= whole_groups(layer, before | after)
        case Rearrange() | Softmax():
            before[:] = after[:] = True
        case Embedding():
            # its tokens become places, of which others count on having all
            before[:] = True
        case Attention():
            _complete_heads(layer, before, after)
        case Recurrent():
            after |= before.reshape(layer.gates, -1).any(axis=0)
            before[:] = np.tile(after, layer.gates)
    return sum(int(mask.sum()) for mask in sides) > kept


def _complete_heads(layer: Attention, before: np.ndarray, after: np.ndarray) -> None:
    """Keep both of a pair of q and k, v with what it becomes, and as many of them in every head that is kept."""
    keys = layer.keys(before.size)
    q, k, v = np.split(before, (keys, 2 * keys))
    pairs, values = (q | k).reshape(layer.heads, -1), (v | after).reshape(layer.heads, -1)
    heads = pairs.any(axis=1) | values.any(axis=1)
    # one head stays in any case
    heads[0] |= not heads.any()
    for entries in (pairs, values):
        most = max(1, int(entries.sum(axis=1).max()))
        for number in np.flatnonzero(heads):
            missing = np.flatnonzero(~entries[number])
            entries[number, missing[: most - int(entries[number].sum())]] = True
    before[:] = np.concatenate([pairs.ravel(), pairs.ravel(), values.ravel()])
    after[:] = values.ravel()


def _coupled(architecture: Architecture, shared: Sharing) -> list[int]:
    """Per output the first of those that it is coupled with: sums, products, and layers that work entry by entry."""
    first = list(range(len(architecture.layers) + 1))
    shapes = architecture.shapes()
    flat = [len(shape) == 1 for shape in shapes]
    for position, layer in enumerate(architecture.layers):
        couples = {position, position + 1}
        if isinstance(layer, Recall):
            couples = {layer.source, position + 1}
        elif isinstance(layer, Add | Multiply):
            of_one = layer.source, position, position + 1
            couples = {number for number in of_one if shapes[number][:1] == shapes[position + 1][:1]}
        elif isinstance(layer, Weighted):
            couples = couples if is_depthwise(layer) else set()
        elif isinstance(layer, Flatten):
            couples = couples if flat[position] else set()
        elif isinstance(
            layer,
            Unflatten | Select | Concatenate | Standardize | Softmax | Rearrange | Attention | Embedding | Recurrent,
        ):
            couples = set()
        first = _joined(first, couples)
    for sides in shared.sides:
        for outputs in sides.values():
            first = _joined(first, set(outputs))
    return first


def _joined(first: list[int], couples: set[int]) -> list[int]:
    joined = {first[number] for number in couples}
    return [min(joined) if number in joined else number for number in first]


def _sides(layer: Layer) -> tuple[int, ...]:
    """On which sides, before (0) and behind (1), a layer has the same entries wherever it is used."""
    if (isinstance(layer, PReLU) and layer.slopes == 1) or (isinstance(layer, BatchNorm) and layer.one):
        return ()
    return (1,) if isinstance(layer, Embedding) else (0, 1)
