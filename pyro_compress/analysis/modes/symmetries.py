"""Which renamings of hidden units leave a network's function as it is: permutations, and sign flips where they do.

The units of a dense layer, or the filters of a convolution, may stand in any order as long as everything behind them
follows: biases, batch norms, and the inputs of the next layer, in blocks where a map was flattened.  A unit's sign may
change where everything between two factors is odd (tanh, no activation, mean pooling): the factor before and the
factor behind change together.  Positive rescaling (ReLU) is no discrete symmetry and is left alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pyro_compress.network.architecture import Architecture, last_references
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    MaxPool2d,
    Upsample,
    Weighted,
    groups_of,
    is_depthwise,
    outputs_of,
)
from pyro_compress.network.parameter_names import parameter_shapes

Arrays = Mapping[str, np.ndarray]
ODD = ("tanh", "softsign", "times")


@dataclass(frozen=True)
class Slot:
    """An axis along which a tensor holds the units of a space, `block` consecutive entries for each."""

    name: str
    axis: int
    block: int

    def units(self, array: np.ndarray) -> np.ndarray:
        """(units, what belongs to one): a row per unit."""
        first = np.moveaxis(array, self.axis, 0)
        return first.reshape(first.shape[0] // self.block, -1)


@dataclass(frozen=True)
class HiddenSpace:
    """Units between two weighted layers that may change places.

    Attributes:
        size: number of units.
        slots: where their numbers are.
        factors: names of the tensors that a unit is multiplied by, from the weight that makes it to the weight that
            reads it.
        flips: sign changes that leave the function as it is, each the names of the tensors that change sign
            together; products of them do so too.
    """

    size: int
    slots: tuple[Slot, ...]
    factors: tuple[str, ...]
    flips: tuple[frozenset[str], ...]

    def sign(self, name: str, flip: np.ndarray) -> np.ndarray:
        """±1 per unit of one tensor: `flip` is boolean, (flips, units)."""
        here = np.array([name in names for names in self.flips], dtype=bool)
        return 1 - 2 * (flip[here].sum(axis=0) % 2)

    def products(self) -> np.ndarray:
        """Boolean, (2^flips, flips): which of the flips each product takes, none of them first."""
        count = len(self.flips)
        return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)


@dataclass(frozen=True, eq=False)
class Renaming:
    """Place i takes the unit `order[i]`, with the flips `flip[:, i]`.

    Attributes:
        order: int, (units,).
        flip: boolean, (flips, units).
    """

    order: np.ndarray
    flip: np.ndarray

    @staticmethod
    def identity(space: HiddenSpace) -> "Renaming":
        """Every unit stays."""
        return Renaming(np.arange(space.size), np.zeros((len(space.flips), space.size), dtype=bool))

    def then(self, later: "Renaming") -> "Renaming":
        """Both as one: `later` renames what this one has renamed."""
        return Renaming(self.order[later.order], self.flip[:, later.order] ^ later.flip)


def rename(space: HiddenSpace, renaming: Renaming, arrays: Arrays) -> dict[str, np.ndarray]:
    """The tensors with the units of one space renamed; slots without a tensor are passed over."""
    changed = dict(arrays)
    for slot in space.slots:
        if slot.name in arrays:
            entries = (renaming.order[:, None] * slot.block + np.arange(slot.block)).ravel()
            taken = np.take(arrays[slot.name], entries, axis=slot.axis)
            sign = np.repeat(space.sign(slot.name, renaming.flip), slot.block).astype(taken.dtype)
            along = [1] * taken.ndim
            along[slot.axis] = -1
            changed[slot.name] = taken * sign.reshape(along)
    return changed


def hidden_spaces(architecture: Architecture) -> tuple[HiddenSpace, ...]:
    """Every space of hidden units that may be renamed, in the order of the layers.

    Depthwise convolutions belong to the space that they pass on.  What stands on either side of another grouped
    convolution, of a selection of entries or of images made of features, is left as it is; so is what earlier outputs
    are combined to, and what meets any other layer that does not treat all entries alike, or a parameter that
    the module has under another name, or that of a layer that is used again.
    """
    referred, aliases = last_references(architecture.layers), dict(architecture.aliases)
    reused = architecture.reused
    found: list[HiddenSpace] = []
    walk: _Walk | None = None
    for position, (layer, shape) in enumerate(zip(architecture.layers, architecture.shapes()[:-1], strict=True)):
        if position in referred:
            walk = None
        if any(name in aliases for name in parameter_shapes(layer)) or getattr(layer, "name", None) in reused:
            walk = None
        elif isinstance(layer, Weighted) and groups_of(layer) == 1:
            if walk is not None:
                found.append(walk.closed_by(layer))
            walk = _Walk.opened_by(layer)
        elif walk is not None and not walk.passes(layer, shape):
            walk = None
    return tuple(found)


@dataclass
class _Walk:
    """What is known of a space on the way from the layer that makes its units to the one that reads them."""

    size: int
    block: int = 1
    odd: bool = True
    slots: list[Slot] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)
    flips: list[frozenset[str]] = field(default_factory=list)
    since: list[str] = field(default_factory=list)  # the last factor, and what was added behind it

    @staticmethod
    def opened_by(layer: Weighted) -> "_Walk":
        walk = _Walk(outputs_of(layer))
        walk.factor(f"{layer.name}.weight", axis=1 if isinstance(layer, ConvTranspose2d) else 0)
        if layer.bias:
            walk.term(f"{layer.name}.bias")
        return walk

    def factor(self, name: str, axis: int = 0) -> None:
        self.slots.append(Slot(name, axis, self.block))
        if self.factors and self.odd:
            self.flips.append(frozenset([*self.since, name]))
        self.factors.append(name)
        self.since, self.odd = [name], True

    def term(self, name: str) -> None:
        self.slots.append(Slot(name, 0, self.block))
        self.since.append(name)

    def passes(self, layer: Layer, shape: tuple[int, ...]) -> bool:
        """Go on through a layer; False if the units cannot be renamed behind it."""
        if isinstance(layer, Activation):
            self.odd &= layer.kind in ODD
        elif isinstance(layer, MaxPool2d):
            self.odd = False
        elif isinstance(layer, Flatten):
            self.block *= math.prod(shape[1:])
        elif isinstance(layer, BatchNorm):
            self.slots.append(Slot(f"{layer.name}.running_var", 0, self.block))
            self.term(f"{layer.name}.running_mean")
            if layer.affine and not layer.one:
                self.factor(f"{layer.name}.weight")
            if layer.affine:
                self.term(f"{layer.name}.bias")
        elif isinstance(layer, ChannelAffine):
            self.factor(f"{layer.name}.scale")
            self.term(f"{layer.name}.shift")
        elif isinstance(layer, Conv2d | ConvTranspose2d):
            if not is_depthwise(layer):
                return False
            self.factor(f"{layer.name}.weight")
            if layer.bias:
                self.term(f"{layer.name}.bias")
        else:
            return isinstance(layer, AvgPool2d | AdaptiveAvgPool2d | Upsample)
        return True

    def closed_by(self, layer: Weighted) -> HiddenSpace:
        self.factor(f"{layer.name}.weight", axis=0 if isinstance(layer, ConvTranspose2d) else 1)
        return HiddenSpace(self.size, tuple(self.slots), tuple(self.factors), tuple(self.flips))
