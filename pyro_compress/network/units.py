"""Which entries of a network's outputs are one unit: what can only go together, and what has to stay.

A unit is an output of a dense layer or a filter of a convolution, with all that it becomes: its features behind a
flattening, its places in a concatenation, the entry of a depthwise convolution behind it.  Entries that are added or
multiplied are one unit, so a channel of a residual connection is one in all its blocks: the coupled channels of a
dependency graph (Fang et al. 2023).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pyro_compress.network.architecture import Architecture, walk
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Concatenate, Pad, Resize, Squeeze, View
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    ChannelAffine,
    FixedAffine,
    Flatten,
    Layer,
    MaxPool2d,
    Named,
    PReLU,
    Recall,
    Select,
    Upsample,
    Weighted,
    groups_of,
    is_depthwise,
    outputs_of,
)
from pyro_compress.network.numbers import as_stored
from pyro_compress.network.parameter_names import parameter_shapes
from pyro_compress.network.sequence_layers import Crop

ENTRY_BY_ENTRY = (
    *(BatchNorm, ChannelAffine, FixedAffine, Activation, PReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Upsample),
    *(AdaptiveMaxPool2d, Pad, Resize, View, Crop, Squeeze),
)


@dataclass(frozen=True)
class Units:
    """The units of a network.

    Attributes:
        of: per output, the input first, int (entries of axis 1,): the number of each entry's unit.
        free: boolean (units,), which may go: none of the network's inputs and outputs, of what grouped convolutions,
            normalisations over groups, attention, recurrent layers, tables and layers that are used again touch, of
            what has a tensor that the module has under another name, and no entry that is added to all others, or
            multiplied with them.
        inputs: how many of them, the first, are the network's inputs.
    """

    of: tuple[np.ndarray, ...]
    free: np.ndarray
    inputs: int


def units_of(architecture: Architecture) -> Units:
    """The units of a traced network."""
    found = _Labels()
    shapes, aliases, reused = architecture.shapes(), dict(architecture.aliases), architecture.reused
    sides = pairwise(shapes)

    def after(layer: Layer, labels: np.ndarray, earlier: np.ndarray | None) -> np.ndarray:
        shape, behind = next(sides)
        if earlier is not None:
            return found.combined(layer, labels, earlier)
        renamed = any(name in aliases for name in parameter_shapes(layer))
        renamed = renamed or (isinstance(layer, Named) and layer.name in reused)
        if isinstance(layer, ENTRY_BY_ENTRY) and not renamed:
            return labels
        match layer:
            case Flatten():
                return np.repeat(labels, math.prod(shape[1:]))
            case Select(indices=indices):
                return labels[list(indices)]
        if isinstance(layer, Weighted) and not renamed:
            if groups_of(layer) == 1:
                return found.new(outputs_of(layer))
            if is_depthwise(layer) and outputs_of(layer) == labels.size:
                return labels
        found.pin(labels)
        made = found.new(behind[0])
        found.pin(made)
        return made

    start = found.new(architecture.input_shape[0])
    of = list(walk(architecture.layers, start, after))
    found.pin(start)
    found.pin(of[-1])
    return found.units(of, len(start))


def entries_left(architecture: Architecture, units: Units, stay: np.ndarray) -> dict[str, np.ndarray]:
    """Boolean, by tensor: what neither belongs to a unit that goes nor reads one.

    Args:
        architecture: whose units they are.
        stay: boolean (units,); only those that are free may go.

    Returns:
        For weights of dense layers and convolutions the first two axes as stored; biases, and the numbers of batch
        norms, (outputs,).  Grouped convolutions, all of whose units stay, have none unless they are depthwise.
    """
    found: dict[str, np.ndarray] = {}
    for layer, of, behind in zip(architecture.layers, units.of[:-1], units.of[1:], strict=True):
        read, made = stay[of], stay[behind]
        if isinstance(layer, BatchNorm):
            # one with a shift would keep a channel that nothing reaches
            of_units = () if layer.one else ("weight", "bias")
            found |= {f"{layer.name}.{kind}": made for kind in of_units}
        elif isinstance(layer, Weighted) and (groups_of(layer) == 1 or is_depthwise(layer)):
            links = made[:, None] if is_depthwise(layer) else made[:, None] & read
            found |= {f"{layer.name}.weight": as_stored(layer, links), f"{layer.name}.bias": made}
    return found


class _Labels:
    """Numbers of units, of which some turn out to be one."""

    def __init__(self) -> None:
        self._first = np.zeros(0, np.int64)
        self._pinned: list[np.ndarray] = []

    def new(self, count: int) -> np.ndarray:
        made = np.arange(count) + len(self._first)
        self._first = np.concatenate([self._first, made])
        return made

    def pin(self, labels: np.ndarray) -> None:
        self._pinned.append(labels)

    def combined(self, layer: Layer, labels: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        match layer:
            case Concatenate():
                return np.concatenate([earlier, labels])
            case Recall():
                return earlier
        # a sum or a product
        if labels.size != earlier.size:
            one, all_others = sorted((labels, earlier), key=np.size)
            self.pin(one)
            return all_others
        self._join(labels, earlier)
        return labels

    def _join(self, some: np.ndarray, others: np.ndarray) -> None:
        for one, other in zip(self._first[some].tolist(), self._first[others].tolist(), strict=True):
            # an earlier pair may have joined them already
            one, other = self._first[one], self._first[other]
            if one != other:
                self._first[self._first == max(one, other)] = min(one, other)

    def units(self, of: Iterable[np.ndarray], inputs: int) -> Units:
        names, numbers = np.unique(self._first, return_inverse=True)
        free = np.ones(len(names), dtype=bool)
        for labels in self._pinned:
            free[numbers[labels]] = False
        return Units(tuple(numbers[labels] for labels in of), free, inputs)
