"""The header of version 3: what `header.py` and `header_reader.py` say in bytes, in bits; `FORMAT.md`, part 2.

A number is an Exp-Golomb code, whose order is the number of bits that small ones take; a layer's name is one bit if it
goes on where the last layer of its kind left off; a tensor says its grid step as the distance from its predecessor's.
"""

from itertools import accumulate, pairwise

from pyro_compress.artifact.format.codebook import MOST_LEVELS
from pyro_compress.artifact.format.coding import FALLS, LARGEST, TOKENS
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    CODES,
    SIZE,
    SMALL,
    Header,
    HeaderWriter,
    Named,
    TensorCode,
    role,
    split_name,
)
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.pattern import DENSITIES, STRENGTHS
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import ChannelAffine, Conv2d, Flatten, Linear
from pyro_compress.network.stored import STEP_EXPONENTS

KINDS = ("integers", "all zero", "float32", "codebook")
INTEGERS, ZEROS, FLOATS, CODEBOOK = range(len(KINDS))

LONGEST_CODE = 48
FIRST_NAMES: dict[type, str] = {Linear: "fc1", Conv2d: "conv1", ChannelAffine: "bn1"}
FLAG_BITS = dict(enumerate((1, 4, 0, 2, 2, 0, 0, 0)))
NUMBER_BITS = 2
GAP_ORDER_BITS = 4


def next_name(last: str | None, kind: type) -> str:
    """The name that a layer most likely has: the last one of its kind, counted on."""
    if last is None:
        return FIRST_NAMES[kind]
    stem, number = split_name(last)
    return f"{stem}{number + 1}"


def _gaps(codebook: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Distances of the levels from one to the next, outwards from zero: negative ones, positive ones."""
    below, above = [-level for level in reversed(codebook) if level < 0], [level for level in codebook if level > 0]
    return [b - a for a, b in pairwise([0, *below])], [b - a for a, b in pairwise([0, *above])]


def _code_bits(value: int, order: int) -> int:
    return 2 * ((value >> order) + 1).bit_length() - 1 + order


def codebook_bits(codebook: tuple[int, ...]) -> int:
    """What a codebook adds to the header."""
    writer = HeaderBitWriter()
    writer.codebook(codebook)
    return writer.count


class HeaderBitWriter(HeaderWriter):
    """Header → bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[type, str] = {}
        self._bits = 0
        self.count = 0

    def header(self, header: Header) -> bytes:
        super().header(header)
        filling = -self.count % 8
        return (self._bits << filling).to_bytes((self.count + filling) // 8, "big")

    def bits(self, value: int, count: int) -> None:
        self._bits = self._bits << count | value
        self.count += count

    def flags(self, header: Header) -> None:
        self.bits(header.flags, 1)

    def raw(self, data: bytes) -> None:
        self.bits(int.from_bytes(data, "big"), 8 * len(data))

    def varint(self, value: int, order: int = SIZE) -> None:
        if value < 0:
            raise ArtifactError(f"the header holds no negative numbers, {value} was given")
        self.bits(value + (1 << order), _code_bits(value, order))

    def head(self, code: int, number: int, flags: list[bool]) -> None:
        self.bits(code, 4)
        if code == CODES.index(Flatten):
            self.bits(number, NUMBER_BITS)
        for flag in flags if not number else ():
            self.bits(flag, 1)

    def name(self, layer: Named) -> None:
        kind = type(layer)
        expected = layer.name == next_name(self._last.get(kind), kind)
        self.bits(expected, 1)
        if expected:
            self._stem, self._number = split_name(layer.name)
        else:
            super().name(layer)
        self._last[kind] = layer.name

    def tensor(self, name: str, code: TensorCode) -> None:
        kind = FLOATS if code.step_exponent is None else ZEROS if code.density == ALL_ZERO else INTEGERS
        self.varint(CODEBOOK if code.codebook else kind, 0)
        if code.step_exponent is None:
            return
        away = code.step_exponent - self._steps[role(name)]
        self.varint(2 * away if away >= 0 else -2 * away - 1, 0)
        self._steps[False] = code.step_exponent
        if role(name):
            self._steps[True] = code.step_exponent
        if kind == ZEROS:
            return
        self.varint(code.density, SMALL)
        self.bits(code.strength, 2)
        self.varint(code.top_token, SMALL)
        if code.top_token:
            self.bits(code.fall, 2)
        if code.codebook:
            self.codebook(code.codebook)

    def codebook(self, codebook: tuple[int, ...]) -> None:
        gaps = _gaps(codebook)
        every = [gap - 1 for side in gaps for gap in side]
        order = min(range(1 << GAP_ORDER_BITS), key=lambda order: sum(_code_bits(gap, order) for gap in every))
        for side in gaps:
            self.varint(len(side), SMALL)
        self.bits(order, GAP_ORDER_BITS)
        for gap in every:
            self.varint(gap, order)


class HeaderBitReader(HeaderReader):
    """Bytes → header; every count is checked before anything is allocated."""

    _writer = HeaderBitWriter

    def __init__(self, data: bytes, version: int) -> None:
        super().__init__(data, version)
        self._last: dict[type, str] = {}
        self._bit = 0

    def finish(self) -> None:
        self.position = -(-self._bit // 8)

    def bits(self, count: int, what: str) -> int:
        """So many bits, the first one the highest."""
        if self._bit + count > 8 * len(self._data):
            raise ArtifactError(f"the file ends inside its header, where {what} was expected")
        first, self._bit = self._bit, self._bit + count
        piece = self._data[first // 8 : -(-self._bit // 8)]
        return int.from_bytes(piece, "big") >> -self._bit % 8 & ((1 << count) - 1)

    def byte(self, what: str) -> int:
        return self.bits(8, what)

    def raw(self, length: int, what: str) -> bytes:
        return self.bits(8 * length, what).to_bytes(length, "big")

    def number(self, what: str, limit: int, order: int) -> int:
        zeros = 0
        while not self.bits(1, what):
            zeros += 1
            if zeros > LONGEST_CODE:
                return limit + 1
        return (1 << zeros + order) + self.bits(zeros + order, what) - (1 << order)

    def flags(self) -> int:
        return self.bits(1, "its flags")

    def head(self) -> tuple[int, int, list[bool]]:
        code = self.bits(4, "a layer")
        number = self.bits(NUMBER_BITS, "a layer") if code == CODES.index(Flatten) else 0
        return code, number, [bool(self.bits(1, "a layer")) for _ in range(FLAG_BITS.get(code, 1))]

    def name(self, kind: type) -> str:
        if self.bits(1, "a layer's name"):
            name = next_name(self._last.get(kind), kind)
            self._stem, self._number = split_name(name)
        else:
            name = super().name(kind)
        self._last[kind] = name
        return name

    def tensor(self, name: str, numbers: int) -> TensorCode:
        kind = self.varint("a tensor's kind", len(KINDS) - 1, order=0)
        if kind == FLOATS:
            return TensorCode(None)
        away = self.varint("a tensor's grid step", 2 * len(STEP_EXPONENTS), order=0)
        exponent = self._steps[role(name)] + (-(away + 1) // 2 if away % 2 else away // 2)
        if exponent not in STEP_EXPONENTS:
            raise ArtifactError(f"tensor {name} has grid step 2**{exponent}, beyond the format's limits")
        self._steps[False] = exponent
        if role(name):
            self._steps[True] = exponent
        if kind == ZEROS:
            return TensorCode(exponent)
        density = self.varint("a tensor's density", DENSITIES - 1, order=SMALL)
        strength = self.bits((len(STRENGTHS) - 1).bit_length(), "a tensor's model")
        top = self.varint("a magnitude token", TOKENS - 1, order=SMALL)
        fall = self.bits((len(FALLS) - 1).bit_length(), "a tensor's model") if top else 0
        codebook = self._codebook(name, numbers) if kind == CODEBOOK else ()
        return TensorCode(exponent, density, strength, top, fall, codebook)

    def _codebook(self, name: str, numbers: int) -> tuple[int, ...]:
        what = "a codebook"
        sides = [self.varint(what, MOST_LEVELS, order=SMALL) for _ in range(2)]
        if not 0 < sum(sides) <= numbers:
            raise ArtifactError(f"the codebook of {name} has {sum(sides)} levels for {numbers} numbers")
        order = self.bits(GAP_ORDER_BITS, what)
        gaps = [[1 + self.varint(what, LARGEST, order=order) for _ in range(levels)] for levels in sides]
        below, above = (list(accumulate(side)) for side in gaps)
        if max([*below, *above]) > LARGEST:
            raise ArtifactError(f"the codebook of {name} holds integers beyond ±{LARGEST}")
        return (*(-level for level in reversed(below)), *above)


def header_writer(version: int) -> HeaderWriter:
    """The writer for a version of the format."""
    return HeaderWriter() if version < 3 else HeaderBitWriter()


def header_reader(data: bytes, version: int) -> HeaderReader:
    """The reader for a version of the format, at the start of a body."""
    return (HeaderReader if version < 3 else HeaderBitReader)(data, version)
