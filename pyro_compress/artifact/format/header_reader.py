"""The reader of a compressed file's header; `header.py` holds the writer and what both share."""

import struct
from dataclasses import replace
from math import isfinite, prod

from pyro_compress.artifact.format.coding import TOKENS
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    CODED_ACTIVATIONS,
    CODES,
    DEFAULT_SLOPES,
    EXTENDED,
    FLOATS,
    KNOWN_FLAGS,
    MAX_EXTENT,
    MAX_LAYERS,
    MAX_NAME_BYTES,
    MAX_NUMBER_IN_NAME,
    MAX_NUMBERS,
    MAX_PLACES,
    MAX_RANK,
    NEW_STEP,
    SHORT_NAME,
    SHORT_NUMBERS,
    SIZE,
    SMALL,
    STEMS,
    Header,
    HeaderWriter,
    TensorCode,
    check_kept,
    places,
    role,
    shape_after,
)
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import (
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
)
from pyro_compress.network.stored import STEP_EXPONENTS, tensor_shapes


class HeaderReader:
    """Bytes → header, in versions 1 and 2; every count is checked before anything is allocated."""

    _writer: type[HeaderWriter] = HeaderWriter

    def __init__(self, data: bytes, version: int) -> None:
        self._data, self._version = data, version
        self.position = 0
        self._stem, self._number = "", -1
        self._steps = {True: 0, False: 0}

    def header(self) -> Header:
        """Read the header at the start of the data; `position` is then where it ends."""
        flags = self.flags()
        rank = self.varint("input rank", MAX_RANK, order=SMALL)
        extents = tuple(self.varint("input extent", MAX_EXTENT) for _ in range(rank))
        header = Header(extents, flags=flags, version=self._version)
        if prod(header.input_shape) > MAX_EXTENT:
            raise ArtifactError(f"the file declares an input of {prod(header.input_shape)} numbers, limit {MAX_EXTENT}")
        if len(header.input_shape) == 1:
            header.image_side = self.varint("image side", MAX_EXTENT)
            if header.image_side and header.input_shape[0] % header.image_side**2:
                raise ArtifactError(f"{header.input_shape[0]} inputs are not square images of side {header.image_side}")
        shapes, numbers, placed, names = [header.input_shape], 0, 0, set()
        for position in range(self.varint("number of layers", MAX_LAYERS)):
            shape = shapes[-1]
            layer = self.layer(shape, position)
            if isinstance(layer, Select):
                header.selected[position] = self.varint("number of selected entries", shape[0])
            shapes.append(shape_after(layer, shapes, header.selected.get(position)))
            here = places(layer, shape, shapes[-1])
            placed += here
            if here > MAX_EXTENT or placed > MAX_PLACES:
                raise ArtifactError(f"{describe(layer)} has {here} places, limit {MAX_EXTENT}, {MAX_PLACES} in all")
            if isinstance(layer, Linear | Conv2d | ChannelAffine):
                if layer.name in names:
                    raise ArtifactError(f"the file holds two layers named '{layer.name}'")
                names.add(layer.name)
                tensors = tensor_shapes(Architecture((), (layer,)))
                numbers += sum(prod(extents) for extents in tensors.values())
                for name in tensors if numbers <= MAX_NUMBERS else ():
                    header.codes[name] = self.tensor(name, prod(tensors[name]))
            if numbers > MAX_NUMBERS:
                raise ArtifactError(f"the file declares at least {numbers} numbers, limit {MAX_NUMBERS}")
            header.layers.append(layer)
        check_kept(header.layers, shapes)
        self.finish()
        if self._version == 2 and header.old_version != self._version:
            raise ArtifactError(f"the file has format version {self._version}, but uses nothing that needs it")
        if self._writer().header(header) != self._data[: self.position]:
            raise ArtifactError("the header is not written in its one canonical form")
        return header

    def flags(self) -> int:
        flags = self.byte("its flags") if self._version > 1 else 0
        if flags & ~KNOWN_FLAGS:
            raise ArtifactError(f"the header has flags {flags:08b}, known are {KNOWN_FLAGS:08b}: update this program")
        return flags

    def finish(self) -> None:
        """Go to where the header ends."""

    def head(self) -> tuple[int, int, list[bool]]:
        """Code of a layer; the number and the flags that share its other half."""
        head = self.byte("a layer")
        return head & 15, head >> 4, [bool(head >> bit & 1) for bit in range(4, 8)]

    def byte(self, what: str) -> int:
        if self.position >= len(self._data):
            raise ArtifactError(f"the file ends inside its header, where {what} was expected")
        self.position += 1
        return self._data[self.position - 1]

    def raw(self, length: int, what: str) -> bytes:
        if self.position + length > len(self._data):
            raise ArtifactError(f"the file ends inside its header, where {what} was expected")
        self.position += length
        return self._data[self.position - length : self.position]

    def varint(self, what: str, limit: int, least: int = 0, order: int = SIZE) -> int:
        value = self.number(what, limit, order)
        if value > limit:
            raise ArtifactError(f"{what} in the header exceeds the limit {limit}")
        if value < least:
            raise ArtifactError(f"{what} in the header is {value}, at least {least} is expected")
        return value

    def number(self, what: str, limit: int, order: int) -> int:
        """A number, or anything beyond the limit if it is beyond the limit."""
        value, shift = 0, 0
        while True:
            byte = self.byte(what)
            value |= (byte & 127) << shift
            shift += 7
            if value > limit or byte < 128:
                return value
            if shift > 63:
                return limit + 1

    def pair(self, what: str, least: int) -> Pair:
        code = self.varint(what, 2 * MAX_EXTENT, 2 * least, SMALL)
        return (code // 2, self.varint(what, MAX_EXTENT, least, SMALL) if code % 2 else code // 2)

    def layer(self, shape: tuple[int, ...], position: int) -> Layer:
        code, number, flags = self.head()
        if code >= len(CODES):
            kind = CODED_ACTIVATIONS[code - len(CODES)]
            slope = struct.unpack("<d", self.raw(8, "a slope"))[0] if flags[0] else DEFAULT_SLOPES.get(kind, 0.0)
            if not isfinite(slope):
                raise ArtifactError(f"the slope of a {kind} layer is {slope}")
            return Activation(kind, slope)
        channels = shape[0] if shape else 0
        match CODES[code].__name__:
            case "Linear":
                out = self.varint("out_features", MAX_EXTENT)
                return Linear(self.name(Linear), channels, out, flags[0])
            case "Conv2d":
                return self._conv(channels, flags)
            case "ChannelAffine":
                return ChannelAffine(self.name(ChannelAffine), channels)
            case "MaxPool2d":
                return MaxPool2d(*self._pool(flags))
            case "AvgPool2d":
                return AvgPool2d(*self._pool(flags))
            case "AdaptiveAvgPool2d":
                return AdaptiveAvgPool2d(self.pair("output size", 1))
            case "Select":
                if not shape:
                    raise ArtifactError("the file selects entries of an input without axes")
                return Select(())
        return self._extended(number, position)

    def _extended(self, number: int, position: int) -> Layer:
        if number >= (len(EXTENDED) if self._version > 1 else 1):
            raise ArtifactError(f"layer {position} has unknown kind {number} of code {CODES.index(Flatten)}")
        match EXTENDED[number]:
            case "Add":
                return Add(position - self.varint("a reference", position, 1, SMALL))
            case "Recall":
                return Recall(position - self.varint("a reference", position, 1, SMALL))
            case "Flatten":
                return Flatten()
        return Activation(EXTENDED[number])

    def _conv(self, channels: int, flags: list[bool]) -> Conv2d:
        out, kernel = self.varint("out_channels", MAX_EXTENT), self.pair("kernel size", 1)
        stride = self.pair("stride", 1) if flags[1] else (1, 1)
        padding = self.pair("padding", 0) if flags[2] else (0, 0)
        dilation = self.pair("dilation", 1) if flags[3] else (1, 1)
        groups = self.varint("groups", MAX_EXTENT, 1, SMALL) if flags[3] else 1
        if channels % groups or out % groups:
            raise ArtifactError(f"a convolution from {channels} to {out} channels cannot have {groups} groups")
        return Conv2d(self.name(Conv2d), channels, out, kernel, stride, padding, dilation, groups, flags[0])

    def _pool(self, flags: list[bool]) -> tuple[Pair, Pair, Pair]:
        kernel = self.pair("kernel size", 1)
        stride = self.pair("stride", 1) if flags[0] else kernel
        return kernel, stride, self.pair("padding", 0) if flags[1] else (0, 0)

    def name(self, kind: type) -> str:
        code = self.varint("a layer's name", SHORT_NAME + len(STEMS) * SHORT_NUMBERS - 1)
        if code >= SHORT_NAME:
            stem, number = divmod(code - SHORT_NAME, SHORT_NUMBERS)
            self._stem, self._number = STEMS[stem], number - 1
        elif code:
            self._number += code
        else:
            raw = self.raw(self.varint("the length of a layer's name", MAX_NAME_BYTES), "a layer's name")
            try:
                self._stem = raw.decode()
            except UnicodeDecodeError as error:
                raise ArtifactError(f"a layer's name is not UTF-8: {error}") from error
            self._number = self.varint("a layer's name", MAX_NUMBER_IN_NAME) - 1
        return self._stem + (str(self._number) if self._number >= 0 else "")

    def tensor(self, name: str, numbers: int) -> TensorCode:
        model = self.byte("a tensor's model")
        if model == FLOATS:
            return TensorCode(None)
        if model & NEW_STEP:
            exponent = self.byte("a tensor's grid step") + STEP_EXPONENTS.start
            if exponent not in STEP_EXPONENTS:
                raise ArtifactError(f"tensor {name} has grid step 2**{exponent}, beyond the format's limits")
            self._steps[role(name)] = exponent
        code = TensorCode(self._steps[role(name)], model & 31, model >> 5 & 3)
        if code.density == FLOATS:
            raise ArtifactError(f"tensor {name} has unknown kind {model}")
        if code.density == ALL_ZERO:
            return code
        sizes = self.byte("a tensor's model")
        if sizes & 63 >= TOKENS:
            raise ArtifactError(f"tensor {name} names magnitude token {sizes & 63}, the last is {TOKENS - 1}")
        return replace(code, top_token=sizes & 63, fall=sizes >> 6)
