"""Header → bytes: a sequence of bits, in which small numbers and expected names take few; `FORMAT.md`, part 2.

A number is an Exp-Golomb code, whose order is the number of bits that small ones take.
"""

import struct

from pyro_compress.artifact.format.descriptors import DescriptorWriter
from pyro_compress.artifact.format.header import (
    CELL_BITS,
    CODE_BITS,
    CODE_RANKS,
    CODED_ACTIVATIONS,
    CODES,
    DEFAULT_EPS,
    DEFAULT_SLOPES,
    EXTENDED,
    FURTHER,
    FURTHER_ACTIVATIONS,
    LEAST,
    MODE_BITS,
    NUMBER_BITS,
    SHORT_NAME,
    SHORT_NUMBERS,
    SMALL,
    STEMS,
    TIED,
    Again,
    Header,
    extended,
    further_number,
    is_further,
    next_name,
    split_name,
    tensor_names,
)
from pyro_compress.errors import ArtifactError, unknown_name
from pyro_compress.network.further_layers import (
    PAD_MODES,
    RESIZE_MODES,
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Standardize,
    View,
)
from pyro_compress.network.input_codes import KINDS
from pyro_compress.network.layers import (
    ACTIVATIONS,
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Named,
    Pair,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
    describe,
)
from pyro_compress.network.sequence_layers import (
    GATES,
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    Rearrange,
    Recurrent,
)


class HeaderWriter(DescriptorWriter):
    """Collects the header's bits."""

    def __init__(self) -> None:
        super().__init__()
        self._stem, self._number = "", -1
        self._last: dict[type, str] = {}

    def header(self, header: Header) -> bytes:
        """The whole header; zero bits fill its last byte."""
        self.bits(header.flags, 1)
        code = header.code
        self.number(len(header.input_shape) if code is None else CODE_RANKS + KINDS.index(code.kind), SMALL)
        if code is not None and code.parameter is not None:
            self.raw(struct.pack("<d", code.parameter))
        for extent in header.input_shape:
            self.number(extent)
        if len(header.input_shape) == 1 and code is None:
            self.number(header.image_side)
        self.number(len(header.layers))
        named: dict[str, int] = {}
        written: list[str] = []
        for position, layer in enumerate(header.layers):
            if isinstance(layer, Named) and layer.name in named:
                self._again(layer, header.layers[named[layer.name]], position - named[layer.name])
            else:
                self._layer(layer, position, header.selected.get(position, 0))
                for name in tensor_names(layer):
                    tensor = header.codes[name]
                    if tensor.tied:
                        self.number(TIED, LEAST)
                        self.number(len(written) - written.index(tensor.tied), SMALL)
                    else:
                        self.tensor(name, tensor)
                    written.append(name)
            if isinstance(layer, Named):
                named[layer.name] = position
        return self.filled()

    def _extents(self, extents: tuple[int, ...]) -> None:
        self.number(len(extents) - 1, LEAST)
        for extent in extents:
            self.number(extent)

    def _again(self, layer: Layer, earlier: Layer, distance: int) -> None:
        if layer != earlier:
            raise ArtifactError(f"two layers of one name are {describe(earlier)} and {describe(layer)}")
        self._place_of_recall(FURTHER.index(Again))
        self.number(distance, SMALL)

    def _place_of_recall(self, number: int) -> None:
        """What begins a layer that stands in the place of a Recall of distance 0."""
        self.bits(CODES.index(Flatten), CODE_BITS)
        self.bits(EXTENDED.index("Recall"), NUMBER_BITS)
        self.number(0, SMALL)
        self.number(number, LEAST)

    def _layer(self, layer: Layer, position: int, selected: int) -> None:
        flags, optional = _flags(layer)
        if is_further(layer):
            self._place_of_recall(further_number(layer))
        else:
            self.bits(_code(layer), CODE_BITS)
            if _code(layer) == CODES.index(Flatten):
                self.bits(extended(layer), NUMBER_BITS)
        if isinstance(layer, Recurrent):
            self.bits([*GATES].index(layer.kind), CELL_BITS)
        for flag in flags:
            self.bits(flag, 1)
        match layer:
            case Linear():
                self.number(layer.out_features)
            case Conv2d() | ConvTranspose2d():
                self.number(layer.out_channels)
                self.pair(layer.kernel_size)
            case MaxPool2d() | AvgPool2d():
                self.pair(layer.kernel_size)
            case AdaptiveAvgPool2d():
                self.pair(layer.output_size)
            case Upsample():
                self.pair(layer.factor)
            case Unflatten():
                self.pair(layer.size)
            case Activation() if is_further(layer):
                self.number(FURTHER_ACTIVATIONS.index(layer.kind), SMALL)
            case Select():
                self.number(selected)
            case Add() | Recall() | Concatenate() | Multiply():
                self.number(position - layer.source, SMALL)
            case Pad():
                self.bits(PAD_MODES.index(layer.mode), MODE_BITS)
                self.pair(layer.before)
                self.pair(layer.after)
            case View():
                self._extents(layer.size)
            case Standardize():
                self.number(layer.groups, SMALL)
            case Resize():
                self.bits(RESIZE_MODES.index(layer.mode), MODE_BITS)
                self.pair(layer.size)
            case AdaptiveMaxPool2d():
                self.pair(layer.output_size)
            case Rearrange():
                self._extents(layer.view)
                for axis in layer.order:
                    self.number(axis, LEAST)
                self._extents(layer.size)
            case Attention():
                self.number(layer.heads, SMALL)
                self.number(layer.values)
                self.raw(struct.pack("<d", layer.scale))
            case ConstantPositions():
                self.number(layer.count, SMALL)
            case Embedding():
                self.number(layer.tokens)
                self.number(layer.features)
            case Crop():
                self.pair(layer.before)
                self.pair(layer.size)
        for flag, values in zip(flags, optional, strict=True):
            for value in values if flag else ():
                if isinstance(value, float):
                    self.raw(struct.pack("<d", value))
                elif isinstance(value, tuple):
                    self.pair(value)
                else:
                    self.number(value, SMALL)
        if isinstance(layer, Named):
            self._name(layer)

    def _name(self, layer: Named) -> None:
        kind, last = type(layer), (self._stem, self._number)
        expected = layer.name == next_name(self._last.get(kind), kind)
        self._stem, self._number = split_name(layer.name)
        self._last[kind] = layer.name
        self.bits(expected, 1)
        if expected:
            return
        step = self._number - last[1] if self._stem == last[0] else 0
        if 0 < step < SHORT_NAME:
            self.number(step)
        elif self._stem in STEMS and self._number + 1 < SHORT_NUMBERS:
            self.number(SHORT_NAME + STEMS.index(self._stem) * SHORT_NUMBERS + self._number + 1)
        else:
            raw = self._stem.encode()
            self.number(0)
            self.number(len(raw))
            self.raw(raw)
            self.number(self._number + 1)


def _flags(layer: Layer) -> tuple[list[bool], list[tuple[Pair | int | float, ...]]]:
    """Which optional parts of a layer differ from their defaults, and the values of each part."""
    match layer:
        case Linear():
            return [layer.bias], [()]
        case Conv2d():
            rare = layer.dilation != (1, 1) or layer.groups != 1
            flags = [layer.bias, layer.stride != (1, 1), layer.padding != (0, 0), rare]
            return flags, [(), (layer.stride,), (layer.padding,), (layer.dilation, layer.groups)]
        case ConvTranspose2d():
            rare = layer.dilation != (1, 1) or layer.groups != 1
            usual = (layer.stride == (2, 2), layer.padding == (0, 0), layer.output_padding == (0, 0))
            flags = [layer.bias, *(not is_usual for is_usual in usual), rare]
            sizes = [(layer.stride,), (layer.padding,), (layer.output_padding,)]
            return flags, [(), *sizes, (layer.dilation, layer.groups)]
        case MaxPool2d() | AvgPool2d():
            flags = [layer.stride != layer.kernel_size, layer.padding != (0, 0)]
            return flags, [(layer.stride,), (layer.padding,)]
        case PReLU():
            return [layer.slopes != 1], [()]
        case Standardize():
            return [not layer.centred, layer.eps != DEFAULT_EPS], [(), (float(layer.eps),)]
        case Softmax():
            return [layer.log], [()]
        case Attention():
            return [layer.causal], [()]
        case ConstantPositions():
            return [layer.behind], [()]
        case Recurrent(kind="gru"):
            return [layer.reverse, layer.bias], [(), ()]
        case Recurrent():
            return [layer.reverse], [()]
        case Activation() if is_further(layer) or not extended(layer):
            return [layer.slope != DEFAULT_SLOPES.get(layer.kind, 0.0)], [(float(layer.slope),)]
    return [], []


def _code(layer: Layer) -> int:
    if extended(layer):
        return CODES.index(Flatten)
    if not isinstance(layer, Activation):
        return CODES.index(type(layer))
    if layer.kind not in CODED_ACTIVATIONS:
        raise ArtifactError(unknown_name("activation", layer.kind, ACTIVATIONS))
    return len(CODES) + CODED_ACTIVATIONS.index(layer.kind)
