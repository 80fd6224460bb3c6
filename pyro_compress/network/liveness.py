"""Which units, filters and inputs of a pruned network still matter: two passes over its layers.

Constants, forwards: an entry (a dense unit, or a channel) is constant if every weight that reaches it from a
non-constant entry is zero.  It then emits f(b + Σ W·c) for every example, with c the constants it receives.  A product
with the constant 0 is 0, and attention to values that are one constant at all places is that constant.

Needs, backwards: an entry is live if a weight leads from it to a live entry of a weighted layer that it reaches, unless
its constant can be folded into that layer's bias.  Network outputs are always live.  A normalisation over a group of
entries needs all of them, constants too, for its mean and variance, and so does a softmax for its sum.

A hidden unit of a recurrent layer is needed if what is behind needs it, or a weight leads from it to a unit that is
needed; it is 0 for ever if its candidate is, from the input, its bias and all units that are not 0.

In attention an entry of k that is constant, or an entry of q that is zero, adds the same to all scores of a place,
which the softmax takes away: the pair of both is not needed.  Heads that stay keep equally many entries.

What is kept: channels of an output that is added to another, or multiplied with it, can only go together with that
one's, so the outputs along a residual connection are coupled, and an entry goes where it is live in none of them.  They
are the coupled channels of a dependency graph (Fang et al. 2023, DepGraph, CVPR).  Behind a concatenation or selection
an entry may go while the one in front of it stays for another reader.  A layer that is used again reads and makes the
same entries at all its places, so what is before it is coupled, and so is what is behind it; what is constant at one of
them may vary at another, and is read as it is.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pyro_compress.network.activations import FUNCTIONS
from pyro_compress.network.architecture import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    Architecture,
    AvgPool2d,
    BatchNorm,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Named,
    PReLU,
    Recall,
    Referring,
    Select,
    Table,
    Unflatten,
    Upsample,
    Weighted,
    groups_of,
    is_depthwise,
    outputs_of,
    table_of,
    walk,
)
from pyro_compress.network.further_layers import Concatenate, Multiply, Pad, Softmax, Standardize
from pyro_compress.network.sequence_layers import (
    CANDIDATE,
    Attention,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)

PLAIN = (
    *(Linear, Conv2d, BatchNorm, ChannelAffine, Activation),
    *(MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Upsample, Flatten),
)


@dataclass(frozen=True)
class Signal:
    """What flows between two layers, per entry of axis 1.

    Attributes:
        constant: float64, the value that the entry has for every example (and pixel), NaN if it varies.
        live: the outputs depend on it in a way that no bias can take over.
        kept: live here or in a coupled output, or the one entry that stays, unread, where none is live.
    """

    constant: np.ndarray
    live: np.ndarray
    kept: np.ndarray


class Numbers:
    """The numbers of a network's layers.

    Args:
        values: float, weights and biases by dotted name; zeros are weights that are not there.
        buffers: of batch norms.
        adds_biases: whether a layer without a bias may be given one, for a constant to be folded into.
    """

    def __init__(
        self, values: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray], *, adds_biases: bool = True
    ) -> None:
        self._stored = values
        self._buffers = {name: buffer.astype(np.float64) for name, buffer in buffers.items()}
        self._adds_biases = adds_biases
        self._reused: frozenset[str] = frozenset()

    def within(self, architecture: Architecture) -> "Numbers":
        """The same, of layers that are used as they are in a network."""
        found = copy.copy(self)
        found._reused = architecture.reused
        return found

    def foldable(self, layer: Weighted, constant: np.ndarray) -> np.ndarray:
        """Boolean, which inputs are constants that the layer's bias can take over.

        Zero padding puts zeros beside a constant, so near the border W·c would be wrong unless c = 0.  A transposed
        convolution makes another sum of its kernel at every phase of its stride.  A layer that is used again may find
        that the same entry varies elsewhere, and so takes over nothing, not even a 0.
        """
        uneven = isinstance(layer, ConvTranspose2d) or (isinstance(layer, Conv2d) and any(layer.padding))
        if layer.name in self._reused:
            return np.zeros(constant.size, dtype=bool)
        takes_over = (layer.bias or self._adds_biases) and not uneven
        return np.isfinite(constant) if takes_over else constant == 0

    def links(self, layer: Weighted) -> np.ndarray:
        """Boolean (outputs, inputs per group): whether any weight between the two is not zero."""
        nonzero = by_output(layer, self._stored[f"{layer.name}.weight"]) != 0
        return nonzero.any(axis=tuple(range(2, nonzero.ndim)))

    def gains(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs, inputs per group): what an output takes from an input that is 1 everywhere."""
        weight = by_output(layer, self._stored[f"{layer.name}.weight"])
        return weight.sum(axis=tuple(range(2, weight.ndim)), dtype=np.float64)

    def bias(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs,): zeros if the layer has none."""
        return self._stored[f"{layer.name}.bias"].astype(np.float64) if layer.bias else np.zeros(outputs_of(layer))

    def slope(self, layer: PReLU) -> np.ndarray:
        """float64 (slopes,)."""
        return self._stored[f"{layer.name}.weight"].astype(np.float64)

    def table(self, layer: Table) -> np.ndarray:
        """float64 (rows, channels)."""
        return self._stored[table_of(layer)[0]].astype(np.float64)

    def recurrent(self, layer: Recurrent) -> tuple[np.ndarray, np.ndarray]:
        """float64 weight (gates, hidden, hidden) and bias (gates, hidden) from the states to the gates."""
        weight = self._stored[f"{layer.name}.weight"].astype(np.float64).reshape(layer.gates, layer.hidden, -1)
        bias = self._stored[f"{layer.name}.bias"].astype(np.float64) if layer.bias else np.zeros(weight[..., 0].size)
        return weight, bias.reshape(layer.gates, layer.hidden)

    def affine(self, layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
        """float64 (channels,), twice: scale and shift of a batch norm at inference."""
        mean, deviation = self.statistics(layer)
        scale = 1 / deviation
        shift = np.zeros(layer.channels)
        if layer.affine:
            scale = scale * self._stored[f"{layer.name}.weight"]
        if layer.affine and layer.bias:
            shift = self._stored[f"{layer.name}.bias"].astype(np.float64)
        return scale, shift - mean * scale

    def statistics(self, layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
        """float64 (channels,), twice: running mean and √(running variance + ε); 0 and 1 if there are none."""
        if not layer.running:
            return np.zeros(layer.channels), np.ones(layer.channels)
        variance = self._buffers[f"{layer.name}.running_var"]
        return self._buffers[f"{layer.name}.running_mean"], np.sqrt(variance + layer.eps)


def signals(architecture: Architecture, numbers: Numbers) -> list[Signal]:
    """The signal before each layer, and after the last: len(layers) + 1 of them, one for each output.

    One pass each way is enough: constants never depend on needs, and a need only on constants and later needs.
    """
    numbers = numbers.within(architecture)
    constants = _constants(architecture, numbers)
    live = _live(architecture, constants, numbers)
    kept = _kept(architecture, live)
    return [Signal(*arrays) for arrays in zip(constants, live, kept, strict=True)]


def read(architecture: Architecture, numbers: Numbers) -> list[np.ndarray]:
    """Boolean per output, as many as there are `signals`: the entries from which weights lead to the network's outputs.

    No constant is folded: what has to stay while biases are trained, which may make another one of it.
    """
    numbers = numbers.within(architecture)
    varying = [np.full(shape[0], np.nan) for shape in architecture.shapes()]
    return _kept(architecture, _live(architecture, varying, numbers))


def around(architecture: Architecture, flow: Sequence[Signal], position: int) -> tuple[Signal, Signal]:
    """The signals before and behind a layer; of one that is used again, live at any of its places, and no constants."""
    layer, found = architecture.layers[position], [flow[position], flow[position + 1]]
    places = architecture.places.get(layer.name, []) if isinstance(layer, Named) else []
    for side in _alike(layer) if len(places) > 1 else ():
        live = np.any([flow[place + side].live for place in places], axis=0)
        found[side] = Signal(np.full(live.size, np.nan), live, found[side].kept)
    return found[0], found[1]


def by_output(layer: Weighted, weight: np.ndarray) -> np.ndarray:
    """A weight, or what is said of each of its numbers, as (outputs, inputs per group, *kernel)."""
    if not isinstance(layer, ConvTranspose2d):
        return weight
    groups, kernel = layer.groups, weight.shape[2:]
    grouped = weight.reshape(groups, layer.in_channels // groups, layer.out_channels // groups, *kernel)
    return grouped.swapaxes(1, 2).reshape(layer.out_channels, layer.in_channels // groups, *kernel)


def as_stored(layer: Weighted, weight: np.ndarray) -> np.ndarray:
    """The inverse of `by_output`, of (outputs, inputs per group, ...)."""
    if not isinstance(layer, ConvTranspose2d):
        return weight
    groups, inputs, rest = layer.groups, weight.shape[1], weight.shape[2:]
    grouped = weight.reshape(groups, layer.out_channels // groups, inputs, *rest)
    return grouped.swapaxes(1, 2).reshape(groups * inputs, layer.out_channels // groups, *rest)


def is_plain_chain(architecture: Architecture) -> bool:
    """Whether there is nothing but dense layers, convolutions of one group, and what treats every entry alike."""
    plain = all(isinstance(layer, PLAIN) for layer in architecture.layers)
    return plain and not architecture.reused and all(groups_of(layer) == 1 for layer in architecture.weighted())


def products_per_link(architecture: Architecture) -> list[int]:
    """Per dense layer and convolution: products of a forward pass of one example between one input and one output."""
    found, shapes = [], architecture.shapes()
    for layer, before, after in zip(architecture.layers, shapes[:-1], shapes[1:], strict=True):
        if isinstance(layer, Conv2d):
            found.append(math.prod(layer.kernel_size) * math.prod(after[1:]))
        elif isinstance(layer, ConvTranspose2d):
            found.append(math.prod(layer.kernel_size) * math.prod(before[1:]))
        elif isinstance(layer, Linear):
            found.append(1)
    return found


def _constants(architecture: Architecture, numbers: Numbers) -> list[np.ndarray]:
    shapes = iter(architecture.shapes())

    def after(layer: Layer, constant: np.ndarray, earlier: np.ndarray | None) -> np.ndarray:
        shape = next(shapes)
        if earlier is not None:
            return _combined(layer, constant, earlier)
        return _constant_after(layer, constant, shape, numbers)

    return list(walk(architecture.layers, np.full(architecture.input_shape[0], np.nan), after))


def _combined(layer: Layer, constant: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    match layer:
        case Add():
            return constant + earlier
        case Multiply():
            return np.where((constant == 0) | (earlier == 0), 0.0, constant * earlier)
        case Concatenate():
            return np.concatenate([earlier, constant])
    return earlier


def _constant_after(layer: Layer, constant: np.ndarray, shape: tuple[int, ...], numbers: Numbers) -> np.ndarray:
    if isinstance(layer, Weighted):
        outputs, groups = outputs_of(layer), groups_of(layer)
        group = np.arange(outputs) * groups // outputs
        foldable = numbers.foldable(layer, constant)
        varies = (numbers.links(layer) & ~foldable.reshape(groups, -1)[group]).any(axis=1)
        given = np.where(foldable, constant, 0).reshape(groups, -1)[group]
        return np.where(varies, np.nan, numbers.bias(layer) + (numbers.gains(layer) * given).sum(axis=1))
    if isinstance(layer, BatchNorm):
        scale, shift = numbers.affine(layer)
        return np.where(scale == 0, shift, scale * constant + shift)
    if isinstance(layer, Activation):
        known = np.isfinite(constant)
        result = constant.copy()
        result[known] = FUNCTIONS[layer.kind](constant[known], layer.slope)
        return result
    if isinstance(layer, PReLU):
        return np.where(constant > 0, constant, numbers.slope(layer) * constant)
    if isinstance(layer, AvgPool2d) and any(layer.padding):
        return np.where(constant == 0, 0.0, np.nan)
    if isinstance(layer, Pad) and layer.mode == "zeros":
        return np.where(constant == 0, 0.0, np.nan)
    if isinstance(layer, Standardize):
        each = constant.reshape(layer.groups, -1)
        centred = each - each.mean(axis=1, keepdims=True) if layer.centred else each
        return np.asarray(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + layer.eps)).ravel()
    if isinstance(layer, Softmax):
        # what varies is in every sum, and NaN
        below = constant - constant.max()
        total = np.exp(below).sum()
        return np.asarray(below - np.log(total) if layer.log else np.exp(below) / total)
    if isinstance(layer, Attention):
        return constant[-layer.values :]
    if isinstance(layer, Recurrent):
        return np.where(_stays_zero(layer, constant, numbers), 0.0, np.nan)
    if isinstance(layer, Rearrange):
        return np.full(layer.size[0], np.nan)
    if isinstance(layer, Table):
        rows = numbers.table(layer)
        own = np.where((rows == rows[:1]).all(axis=0), rows[0], np.nan)
        match layer:
            case Embedding():
                return own
            case PositionBias():
                return constant + own
        return np.where(constant == own, own, np.nan)
    if isinstance(layer, Select):
        return constant[list(layer.indices)]
    if isinstance(layer, Flatten):
        return np.repeat(constant, math.prod(shape[1:]))
    if isinstance(layer, Unflatten):
        each = constant.reshape(-1, math.prod(layer.size))
        return np.where((each == each[:, :1]).all(axis=1), each[:, 0], np.nan)
    return constant


def _live(architecture: Architecture, constants: list[np.ndarray], numbers: Numbers) -> list[np.ndarray]:
    live = [np.zeros(constant.size, dtype=bool) for constant in constants]
    live[-1][:] = True
    for position, layer in reversed(list(enumerate(architecture.layers))):
        after = live[position + 1]
        if isinstance(layer, Concatenate):
            first = live[layer.source].size
            live[layer.source] |= after[:first]
            after = after[first:]
        elif isinstance(layer, Referring):
            live[layer.source] |= after
        if not isinstance(layer, Recall):
            live[position] |= _live_before(layer, constants[position], after, numbers)
    return live


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
        return _whole_groups(layer, after)
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


def _whole_groups(layer: Standardize, entries: np.ndarray) -> np.ndarray:
    """All entries of the groups that any of these is in."""
    return np.repeat(entries.reshape(layer.groups, -1).any(axis=1), entries.size // layer.groups)


def _stays_zero(layer: Recurrent, constant: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Which hidden units are 0 at all places."""
    weight, bias = numbers.recurrent(layer)
    candidate = CANDIDATE[layer.kind]
    given = constant.reshape(layer.gates, layer.hidden)[candidate]
    zero = (given == 0) & (bias[candidate] == 0)
    # all that could be, until those that others move are out
    while bool((moved := zero & ((weight[candidate] != 0) & ~zero).any(axis=1)).any()):
        zero &= ~moved
    return np.asarray(zero)


def _needed_units(layer: Recurrent, constant: np.ndarray, after: np.ndarray, numbers: Numbers) -> np.ndarray:
    """Hidden units that are live behind, or lead to one that is through others; those that are 0 lead nowhere."""
    weight, _ = numbers.recurrent(layer)
    links = (weight != 0).any(axis=0) & ~_stays_zero(layer, constant, numbers)
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


def _kept(architecture: Architecture, live: list[np.ndarray]) -> list[np.ndarray]:
    """One mask for all coupled outputs: live in any of them, and what a kept entry needs across a change of shape.

    In front of a `Flatten` a channel is kept if a feature of it is behind.  Around an `Unflatten` all features of a
    channel are kept if one is, or if the channel is.  In front of a `Standardize` groups are kept as wholes.  Around a
    `Rearrange` or a `Softmax`, and in front of an `Embedding`, everything is, and of the heads of an `Attention` that
    are kept equally many entries.
    """
    couple, layers = _coupled(architecture), architecture.layers
    masks = {number: np.zeros_like(live[number]) for number in set(couple)}
    for number, mask in zip(couple, live, strict=True):
        masks[number] |= mask
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
            before |= _whole_groups(layer, before | after)
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


def _coupled(architecture: Architecture) -> list[int]:
    """Per output the first of those that it is coupled with: sums, products, and layers that work entry by entry."""
    first = list(range(len(architecture.layers) + 1))
    flat = [len(shape) == 1 for shape in architecture.shapes()]
    for position, layer in enumerate(architecture.layers):
        couples = {position, position + 1}
        if isinstance(layer, Recall):
            couples = {layer.source, position + 1}
        elif isinstance(layer, Add | Multiply):
            couples.add(layer.source)
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
    for places in architecture.places.values():
        for side in _alike(architecture.layers[places[0]]):
            first = _joined(first, {place + side for place in places})
    return first


def _alike(layer: Layer) -> tuple[int, ...]:
    """On which sides, before (0) and behind (1), a layer has the same entries wherever it is used."""
    if isinstance(layer, PReLU) and layer.slopes == 1:
        return ()
    return (1,) if isinstance(layer, Embedding) else (0, 1)


def _joined(first: list[int], couples: set[int]) -> list[int]:
    joined = {first[number] for number in couples}
    return [min(joined) if number in joined else number for number in first]
