"""The part of a compressed file that is not entropy-coded: layers, names and the settings of each tensor's model.

`FORMAT.md`, part 2, is the specification.  This file holds what both sides share, and the writer.  The reader
(`header_reader.py`) accepts exactly what the writer writes, so a network has one header per choice of settings.
Both write whole bytes, as versions 1 and 2 do; `header_bits.py` says the same in bits, as version 3 does.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from pyro_compress.errors import ArtifactError, unknown_name
from pyro_compress.network.architecture import (
    ACTIVATIONS,
    Activation,
    AdaptiveAvgPool2d,
    Add,
    Architecture,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Pair,
    Recall,
    Select,
    describe,
    last_references,
    output_shape,
)
from pyro_compress.network.stored import STEP_EXPONENTS, tensor_shapes

MAGIC = b"PYR"
VERSIONS = (1, 2, 3)
MAX_LENGTH_BYTES = 5

MAX_LAYERS = 1024
MAX_RANK = 8
MAX_EXTENT = 1 << 22
MAX_KEPT = 1 << 24
MAX_NUMBERS = 1 << 27
MAX_PLACES = 1 << 24
MAX_NAME_BYTES = 255
MAX_NUMBER_IN_NAME = 1 << 32

CODES: tuple[type, ...] = (
    Linear,
    Conv2d,
    ChannelAffine,
    MaxPool2d,
    AvgPool2d,
    AdaptiveAvgPool2d,
    Flatten,
    Select,
)
# What the upper half of the byte of code 6 says; version 1 has the first only.
EXTENDED = ("Flatten", "Add", "Recall", "relu6")
Named = Linear | Conv2d | ChannelAffine
CODED_ACTIVATIONS = ACTIVATIONS[: 16 - len(CODES)]
KNOWN_FLAGS = 1
DEFAULT_SLOPES = {"leaky_relu": 0.01, "elu": 1.0}
SHORT_NAME = 64
SHORT_NUMBERS = 6
STEMS = ("", "fc", "conv", "bn", "features.", "classifier.", "layers.", "net.", "linear", "layer")
# Orders of the Exp-Golomb codes of version 3, for sizes and for what is mostly small; earlier versions have one code.
SIZE, SMALL = 4, 2
ALL_ZERO = 31
FLOATS = 30
NEW_STEP = 128


@dataclass(frozen=True)
class TensorCode:
    """How one tensor is coded: float32 (`step_exponent` None), or integers with the settings of their model.

    With a codebook (the non-zero integers that occur, in order) the places in it are coded, counted from zero.
    """

    step_exponent: int | None
    density: int = ALL_ZERO
    strength: int = 0
    top_token: int = 0
    fall: int = 0
    codebook: tuple[int, ...] = ()


@dataclass
class Header:
    """What the header says, and the version of the format that it says it in.

    The indices of `Select` layers are in the stream, so a header that was read holds `Select(())`; `selected` gives
    the number of indices by the layer's position.
    """

    input_shape: tuple[int, ...]
    image_side: int = 0
    layers: list[Layer] = field(default_factory=list)
    selected: dict[int, int] = field(default_factory=dict)
    codes: dict[str, TensorCode] = field(default_factory=dict)
    flags: int = 0
    version: int = VERSIONS[-1]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in storage order."""
        return tensor_shapes(Architecture(self.input_shape, tuple(self.layers)))

    @property
    def old_version(self) -> int:
        """The one of versions 1 and 2 that says all this, if it has no codebooks."""
        return 2 if self.flags or any(extended(layer) for layer in self.layers) else 1


def extended(layer: Layer) -> int:
    """Number of a layer among those that share a code (0 is Flatten), 0 for all others."""
    name = layer.kind if isinstance(layer, Activation) else type(layer).__name__
    return EXTENDED.index(name) if name in EXTENDED else 0


def shape_after(layer: Layer, shapes: Sequence[tuple[int, ...]], selected: int | None) -> tuple[int, ...]:
    """Shape of one example after a layer, given those of all outputs so far.

    Raises:
        ArtifactError: the layer does not fit, or gives more than the format allows.
    """
    try:
        after = output_shape(layer, shapes) if selected is None else (selected, *shapes[-1][1:])
    except ValueError as error:
        raise ArtifactError(f"the network does not fit together: {error}") from error
    if isinstance(layer, Flatten | Linear) and prod(after) > MAX_EXTENT:
        raise ArtifactError(f"{describe(layer)} gives {prod(after)} features, more than {MAX_EXTENT}")
    return after


def places(layer: Layer, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Places that a reader works out for a layer (FORMAT.md, 3.2): they take memory even where nothing is stored."""
    match layer:
        case Select():
            return before[0]
        case Linear() | Flatten():
            return prod(after)
        case Conv2d():
            return layer.in_channels // layer.groups * prod(layer.kernel_size)
    return 0


def check_kept(layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a network that keeps more than `MAX_KEPT` numbers at once for layers that refer back to them."""
    last, kept = last_references(layers), 0
    for position, layer in enumerate(layers):
        kept += prod(shapes[position]) if position in last else 0
        if kept > MAX_KEPT:
            raise ArtifactError(f"the network keeps {kept} numbers of earlier layers at once, limit {MAX_KEPT}")
        if isinstance(layer, Add | Recall) and last[layer.source] == position:
            kept -= prod(shapes[layer.source])


class HeaderWriter:
    """Header → bytes, in versions 1 and 2."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._stem, self._number = "", -1
        self._steps = {True: 0, False: 0}

    def header(self, header: Header) -> bytes:
        self.flags(header)
        self.varint(len(header.input_shape), SMALL)
        for extent in header.input_shape:
            self.varint(extent)
        if len(header.input_shape) == 1:
            self.varint(header.image_side)
        self.varint(len(header.layers))
        for position, layer in enumerate(header.layers):
            self.layer(layer, position, header.selected.get(position, 0))
            for name in tensor_names(layer):
                self.tensor(name, header.codes[name])
        return bytes(self.out)

    def flags(self, header: Header) -> None:
        if header.version > 1:
            self.out.append(header.flags)

    def raw(self, data: bytes) -> None:
        self.out += data

    def varint(self, value: int, order: int = SIZE) -> None:
        while value > 127:
            self.out.append(value & 127 | 128)
            value >>= 7
        self.out.append(value)

    def pair(self, value: Pair) -> None:
        self.varint(2 * value[0] + (value[0] != value[1]), SMALL)
        if value[0] != value[1]:
            self.varint(value[1], SMALL)

    def head(self, code: int, number: int, flags: list[bool]) -> None:
        self.out.append(code | (number or sum(1 << bit for bit, flag in enumerate(flags) if flag)) << 4)

    def layer(self, layer: Layer, position: int, selected: int) -> None:
        flags, optional = self._flags(layer)
        self.head(_code(layer), extended(layer), flags)
        match layer:
            case Linear():
                self.varint(layer.out_features)
            case Conv2d():
                self.varint(layer.out_channels)
                self.pair(layer.kernel_size)
            case MaxPool2d() | AvgPool2d():
                self.pair(layer.kernel_size)
            case AdaptiveAvgPool2d():
                self.pair(layer.output_size)
            case Select():
                self.varint(selected)
            case Add() | Recall():
                self.varint(position - layer.source, SMALL)
        for flag, values in zip(flags, optional, strict=True):
            for value in values if flag else ():
                if isinstance(value, float):
                    self.raw(struct.pack("<d", value))
                elif isinstance(value, tuple):
                    self.pair(value)
                else:
                    self.varint(value, SMALL)
        if isinstance(layer, Linear | Conv2d | ChannelAffine):
            self.name(layer)

    def _flags(self, layer: Layer) -> tuple[list[bool], list[tuple[Pair | int | float, ...]]]:
        """Which optional parts of a layer differ from their defaults, and the values of each part."""
        match layer:
            case Linear():
                return [layer.bias], [()]
            case Conv2d():
                rare = layer.dilation != (1, 1) or layer.groups != 1
                flags = [layer.bias, layer.stride != (1, 1), layer.padding != (0, 0), rare]
                return flags, [(), (layer.stride,), (layer.padding,), (layer.dilation, layer.groups)]
            case MaxPool2d() | AvgPool2d():
                flags = [layer.stride != layer.kernel_size, layer.padding != (0, 0)]
                return flags, [(layer.stride,), (layer.padding,)]
            case Activation() if not extended(layer):
                return [layer.slope != DEFAULT_SLOPES.get(layer.kind, 0.0)], [(float(layer.slope),)]
        return [], []

    def name(self, layer: Named) -> None:
        stem, number = split_name(layer.name)
        step = number - self._number if stem == self._stem else 0
        self._stem, self._number = stem, number
        if 0 < step < SHORT_NAME:
            self.varint(step)
        elif stem in STEMS and number + 1 < SHORT_NUMBERS:
            self.varint(SHORT_NAME + STEMS.index(stem) * SHORT_NUMBERS + number + 1)
        else:
            raw = stem.encode()
            self.varint(0)
            self.varint(len(raw))
            self.raw(raw)
            self.varint(number + 1)

    def tensor(self, name: str, code: TensorCode) -> None:
        if code.step_exponent is None:
            self.out.append(FLOATS)
            return
        new = code.step_exponent != self._steps[role(name)]
        self.out.append(code.density | code.strength << 5 | NEW_STEP * new)
        if new:
            self.out.append(code.step_exponent - STEP_EXPONENTS.start)
            self._steps[role(name)] = code.step_exponent
        if code.density != ALL_ZERO:
            self.out.append(code.top_token | code.fall << 6)


def role(tensor: str) -> bool:
    """Weights share one memory of the last step, all other tensors another."""
    return tensor.endswith(".weight")


def split_name(name: str) -> tuple[str, int]:
    """A name as stem and the decimal number at its end, −1 if it has none that prints back the same."""
    digits = len(name) - len(name.rstrip("0123456789"))
    while digits and ((name[-digits] == "0" and digits > 1) or int(name[-digits:]) >= MAX_NUMBER_IN_NAME - 1):
        digits -= 1
    return (name[:-digits], int(name[-digits:])) if digits else (name, -1)


def tensor_names(layer: Layer) -> list[str]:
    """Names of a layer's tensors in storage order."""
    return list(tensor_shapes(Architecture((), (layer,))))


def _code(layer: Layer) -> int:
    if extended(layer):
        return CODES.index(Flatten)
    if not isinstance(layer, Activation):
        return CODES.index(type(layer))
    if layer.kind not in CODED_ACTIVATIONS:
        raise ArtifactError(unknown_name("activation", layer.kind, ACTIVATIONS))
    return len(CODES) + CODED_ACTIVATIONS.index(layer.kind)
