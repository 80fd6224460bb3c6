"""Bytes → header; `header_writer.py` says it the other way, and `FORMAT.md`, part 2, specifies both."""

import struct
from collections.abc import Mapping, Sequence
from math import inf, isfinite, prod
from operator import ge

from pyro_compress.artifact.format.descriptors import DescriptorReader
from pyro_compress.artifact.format.header import (
    BY_PLACE,
    CELL_BITS,
    CODE_BITS,
    CODE_RANKS,
    CODED_ACTIVATIONS,
    CODES,
    DEFAULT_EPS,
    DEFAULT_SLOPES,
    EXTENDED,
    FLAG_BITS,
    FURTHER,
    FURTHER_ACTIVATIONS,
    KINDS,
    LEAST,
    MAX_EXTENT,
    MAX_LAYERS,
    MAX_NAME_BYTES,
    MAX_NUMBER_IN_NAME,
    MAX_NUMBERS,
    MAX_PLACES,
    MAX_RANK,
    MODE_BITS,
    NUMBER_BITS,
    SHORT_NAME,
    SHORT_NUMBERS,
    SMALL,
    STEMS,
    TIED,
    TRANSPOSED_FLAG_BITS,
    Again,
    Header,
    TensorCode,
    check_kept,
    next_name,
    places,
    shape_after,
    split_name,
)
from pyro_compress.artifact.format.header_writer import HeaderWriter
from pyro_compress.errors import ArtifactError, printable
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import (
    PAD_MODES,
    RESIZE_MODES,
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Squeeze,
    Standardize,
    View,
)
from pyro_compress.network.input_codes import GAUSSIAN, InputCode
from pyro_compress.network.input_codes import KINDS as CODE_KINDS
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    ChannelAffine,
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
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.network.stored import tensor_shapes


class HeaderReader(DescriptorReader):
    """Takes the header apart, at the start of a body; every count is checked before anything is allocated."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._stem, self._number = "", -1
        self._last: dict[type, str] = {}

    def header(self) -> Header:
        """Read the header; `position` is then where it ends."""
        flags = self.bits(1, "its flags")
        rank = self.within("input rank", MAX_RANK + len(CODE_KINDS), order=SMALL)
        code = self._code(rank) if rank > MAX_RANK else None
        extents = tuple(self.within("input extent", MAX_EXTENT) for _ in range(1 if code else rank))
        if code is not None and extents[0] < code.least_width:
            raise ArtifactError(f"the file declares a {code.kind} code of {extents[0]} numbers")
        header = Header(extents, flags=flags, code=code)
        if prod(header.input_shape) > MAX_EXTENT:
            raise ArtifactError(f"the file declares an input of {prod(header.input_shape)} numbers, limit {MAX_EXTENT}")
        if len(header.input_shape) == 1 and code is None:
            header.image_side = self.within("image side", MAX_EXTENT)
            if header.image_side and header.input_shape[0] % header.image_side**2:
                raise ArtifactError(f"{header.input_shape[0]} inputs are not square images of side {header.image_side}")
        shapes, numbers, placed, names = [header.input_shape], 0, 0, set()
        extents_of: dict[str, tuple[int, ...]] = {}
        for position in range(self.within("number of layers", MAX_LAYERS)):
            shape = shapes[-1]
            found = self.layer(shape, position)
            again = isinstance(found, Again)
            layer = self._again(header.layers) if isinstance(found, Again) else found
            if isinstance(layer, Select):
                header.selected[position] = self.within("number of selected entries", shape[0])
            shapes.append(shape_after(layer, shapes, header.selected.get(position)))
            here = 0 if again else places(layer, shape, shapes[-1])
            placed += here
            if here > MAX_EXTENT or placed > MAX_PLACES:
                raise ArtifactError(f"{describe(layer)} has {here} places, limit {MAX_EXTENT}, {MAX_PLACES} in all")
            if isinstance(layer, Named) and not again:
                if layer.name in names:
                    raise ArtifactError(f"the file holds two layers named '{printable(layer.name)}'")
                names.add(layer.name)
                tensors = tensor_shapes(Architecture((), (layer,)))
                numbers += sum(prod(extents) for extents in tensors.values())
                for name in tensors if numbers <= MAX_NUMBERS else ():
                    header.codes[name] = self._next_tensor(name, tensors[name], extents_of, header.codes)
                    extents_of[name] = tensors[name]
            if numbers > MAX_NUMBERS:
                raise ArtifactError(f"the file declares at least {numbers} numbers, limit {MAX_NUMBERS}")
            header.layers.append(layer)
        check_kept(header.layers, shapes)
        if HeaderWriter().header(header) != self.data[: self.position]:
            raise ArtifactError("the header is not written in its one canonical form")
        return header

    def _again(self, layers: Sequence[Layer]) -> Layer:
        """Which of the layers so far is used again."""
        layer = layers[-self.within("a reference", len(layers), 1, SMALL)]
        if not isinstance(layer, Named):
            raise ArtifactError(f"{describe(layer)} is used again, which is said of layers with tensors only")
        return layer

    def layer(self, shape: tuple[int, ...], position: int) -> Layer | Again:
        code = self.bits(CODE_BITS, "a layer")
        number = self.bits(NUMBER_BITS, "a layer") if code == CODES.index(Flatten) else 0
        flags = [bool(self.bits(1, "a layer")) for _ in range(FLAG_BITS.get(code, 1))]
        if code >= len(CODES):
            return self._activation(CODED_ACTIVATIONS[code - len(CODES)], flags[0])
        channels = shape[0] if shape else 0
        match CODES[code].__name__:
            case "Linear":
                out = self.within("out_features", MAX_EXTENT)
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
        return self._extended(number, position, shape)

    def _activation(self, kind: str, has_slope: bool) -> Activation:
        slope = struct.unpack("<d", self.raw(8, "a slope"))[0] if has_slope else DEFAULT_SLOPES.get(kind, 0.0)
        if not isfinite(slope):
            raise ArtifactError(f"the slope of a {kind} layer is {slope}")
        return Activation(kind, slope)

    def _extended(self, number: int, position: int, shape: tuple[int, ...]) -> Layer | Again:
        match EXTENDED[number]:
            case "Add":
                return Add(position - self.within("a reference", position, 1, SMALL))
            case "Recall":
                distance = self.within("a reference", position, order=SMALL)
                return Recall(position - distance) if distance else self._further(position, shape)
            case "Flatten":
                return Flatten()
        return Activation(EXTENDED[number])

    def _further(self, position: int, shape: tuple[int, ...]) -> Layer | Again:
        channels = shape[0] if shape else 0
        number = self.within("a layer's kind", len(FURTHER) - 1, order=LEAST)
        match FURTHER[number].__name__:
            case "Upsample":
                return Upsample(self.pair("a factor", 1))
            case "Unflatten":
                return Unflatten(self.pair("height and width", 1))
            case "Activation":
                flag = bool(self.bits(1, "a layer"))
                kind = self.within("an activation", len(FURTHER_ACTIVATIONS) - 1, order=SMALL)
                return self._activation(FURTHER_ACTIVATIONS[kind], flag)
            case "PReLU":
                slopes = channels if self.bits(1, "a layer") else 1
                return PReLU(self.name(PReLU), slopes)
            case "Concatenate":
                return Concatenate(position - self.within("a reference", position, 1, SMALL))
            case "Multiply":
                return Multiply(position - self.within("a reference", position, 1, SMALL))
            case "Pad":
                mode = PAD_MODES[self.bits(MODE_BITS, "how an image is padded")]
                return Pad(self.pair("padding", 0), self.pair("padding", 0), mode)
            case "View":
                return View(self._extents(MAX_RANK - 1))
            case "Standardize":
                return self._standardize(by_place=number == BY_PLACE)
            case "Resize":
                mode = RESIZE_MODES[self.bits(MODE_BITS, "how an image is resized")]
                return Resize(self.pair("a size", 1), mode)
            case "AdaptiveMaxPool2d":
                return AdaptiveMaxPool2d(self.pair("output size", 1))
            case "Rearrange":
                view = self._extents(MAX_RANK)
                order = tuple(self.within("an order of axes", MAX_RANK - 1, order=LEAST) for _ in view)
                return Rearrange(view, order, self._extents(MAX_RANK))
            case "Attention":
                return self._attention()
            case "PositionBias":
                return PositionBias(self.name(PositionBias), prod(shape[1:]), channels)
            case "ConstantPositions":
                behind = bool(self.bits(1, "a layer"))
                count = self.within("a number of positions", MAX_EXTENT, 1, SMALL)
                return ConstantPositions(self.name(ConstantPositions), count, channels, behind)
            case "Embedding":
                tokens = self.within("a number of tokens", MAX_EXTENT, 1)
                features = self.within("a number of features", MAX_EXTENT)
                return Embedding(self.name(Embedding), tokens, features)
            case "Recurrent":
                return self._recurrent(channels)
            case "Again":
                return Again()
            case "Squeeze":
                return Squeeze()
            case "Softmax":
                return Softmax(bool(self.bits(1, "a layer")))
            case "Crop":
                return Crop(self.pair("what is cut off", 0), self.pair("a size", 1))
        return self._conv_transpose(channels)

    def _recurrent(self, channels: int) -> Recurrent:
        kind = [*GATES][self.bits(CELL_BITS, "a layer")]
        reverse = bool(self.bits(1, "a layer"))
        bias = kind == "gru" and bool(self.bits(1, "a layer"))
        if channels % GATES[kind]:
            raise ArtifactError(f"a recurrent layer of {GATES[kind]} gates takes a multiple of that, found {channels}")
        return Recurrent(self.name(Recurrent), kind, channels // GATES[kind], reverse, bias)

    def _extents(self, most: int) -> tuple[int, ...]:
        axes = 1 + self.within("a number of axes", most - 1, order=LEAST)
        return tuple(self.within("an extent", MAX_EXTENT, 1) for _ in range(axes))

    def _attention(self) -> Attention:
        causal = bool(self.bits(1, "a layer"))
        heads = self.within("a number of heads", MAX_EXTENT, 1, SMALL)
        values = self.within("entries of v", MAX_EXTENT)
        (scale,) = struct.unpack("<d", self.raw(8, "the scale of scores"))
        if not isfinite(scale):
            raise ArtifactError(f"the scale of an attention's scores is {scale}")
        return Attention(heads, values, scale, causal)

    def _standardize(self, *, by_place: bool) -> Standardize:
        mean_square, has_eps = (bool(self.bits(1, "a layer")) for _ in range(2))
        groups = self.within("groups", MAX_EXTENT, 1, SMALL)
        eps = struct.unpack("<d", self.raw(8, "epsilon"))[0] if has_eps else DEFAULT_EPS
        if not 0 < eps < inf:
            raise ArtifactError(f"the epsilon of a normalisation is {eps}, and it is finite and above 0")
        return Standardize(groups, eps, not mean_square, by_place)

    def _conv_transpose(self, channels: int) -> ConvTranspose2d:
        flags = [bool(self.bits(1, "a layer")) for _ in range(TRANSPOSED_FLAG_BITS)]
        out, kernel = self.within("out_channels", MAX_EXTENT), self.pair("kernel size", 1)
        stride = self.pair("stride", 1) if flags[1] else (2, 2)
        padding = self.pair("padding", 0) if flags[2] else (0, 0)
        more = self.pair("output padding", 0) if flags[3] else (0, 0)
        dilation, groups = self._rare(channels, out, flags[4])
        if any(map(ge, more, map(max, stride, dilation))):
            raise ArtifactError(f"output padding {more} is not below stride {stride} or dilation {dilation}")
        name = self.name(ConvTranspose2d)
        return ConvTranspose2d(name, channels, out, kernel, stride, padding, more, dilation, groups, flags[0])

    def _conv(self, channels: int, flags: list[bool]) -> Conv2d:
        out, kernel = self.within("out_channels", MAX_EXTENT), self.pair("kernel size", 1)
        stride = self.pair("stride", 1) if flags[1] else (1, 1)
        padding = self.pair("padding", 0) if flags[2] else (0, 0)
        dilation, groups = self._rare(channels, out, flags[3])
        return Conv2d(self.name(Conv2d), channels, out, kernel, stride, padding, dilation, groups, flags[0])

    def _rare(self, channels: int, out: int, is_there: bool) -> tuple[Pair, int]:
        """Dilation and groups of a convolution, where they are not 1."""
        dilation = self.pair("dilation", 1) if is_there else (1, 1)
        groups = self.within("groups", MAX_EXTENT, 1, SMALL) if is_there else 1
        if channels % groups or out % groups:
            raise ArtifactError(f"a convolution from {channels} to {out} channels cannot have {groups} groups")
        return dilation, groups

    def _pool(self, flags: list[bool]) -> tuple[Pair, Pair, Pair]:
        kernel = self.pair("kernel size", 1)
        stride = self.pair("stride", 1) if flags[0] else kernel
        return kernel, stride, self.pair("padding", 0) if flags[1] else (0, 0)

    def _code(self, rank: int) -> InputCode:
        kind = CODE_KINDS[rank - CODE_RANKS]
        if kind == GAUSSIAN:
            return InputCode(kind)
        (parameter,) = struct.unpack("<d", self.raw(8, "the parameter of a code"))
        try:
            return InputCode(kind, parameter)
        except ValueError as error:
            raise ArtifactError(f"the file holds no code: {error}") from error

    def name(self, kind: type) -> str:
        if self.bits(1, "a layer's name"):
            name = next_name(self._last.get(kind), kind)
            self._stem, self._number = split_name(name)
        else:
            name = self._unexpected_name()
        self._last[kind] = name
        return name

    def _unexpected_name(self) -> str:
        code = self.within("a layer's name", SHORT_NAME + len(STEMS) * SHORT_NUMBERS - 1)
        if code >= SHORT_NAME:
            stem, number = divmod(code - SHORT_NAME, SHORT_NUMBERS)
            self._stem, self._number = STEMS[stem], number - 1
        elif code:
            self._number += code
        else:
            raw = self.raw(self.within("the length of a layer's name", MAX_NAME_BYTES), "a layer's name")
            try:
                self._stem = raw.decode()
            except UnicodeDecodeError as error:
                raise ArtifactError(f"a layer's name is not UTF-8: {error}") from error
            self._number = self.within("a layer's name", MAX_NUMBER_IN_NAME) - 1
        return self._stem + (str(self._number) if self._number >= 0 else "")

    def _next_tensor(
        self,
        name: str,
        extents: tuple[int, ...],
        before: Mapping[str, tuple[int, ...]],
        codes: Mapping[str, TensorCode],
    ) -> TensorCode:
        """A tensor's descriptor, which may say that it is one of those before."""
        kind = self.within("a tensor's kind", len(KINDS) - 1, order=LEAST)
        if kind != TIED:
            return self.tensor(name, prod(extents), kind=kind)
        if not before:
            raise ArtifactError(f"the first tensor, {printable(name)}, is said to be an earlier one")
        other = list(before)[-self.within("a reference", len(before), 1, SMALL)]
        there = before[other]
        if codes[other].tied or prod(there) != prod(extents) or there[:1] != extents[:1]:
            raise ArtifactError(
                f"tensor {printable(name)} of shape {extents} is said to be {printable(other)} of shape {there}"
                + (", which is another one itself" if codes[other].tied else "")
            )
        return TensorCode(tied=other)
