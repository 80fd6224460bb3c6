"""The header of a file that holds weights and no layers: names, element types, shapes, descriptors.

`FORMAT.md`, 2.6, is the specification.  As with networks, the reader accepts exactly what the writer writes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from pyro_compress.artifact.format.descriptors import DescriptorReader, DescriptorWriter
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    LEAST,
    MAX_EXTENT,
    MAX_NUMBERS,
    MAX_PLACES,
    MAX_RANK,
    SIZE,
    SMALL,
    STEPS,
    WEIGHTS_MARK,
    TensorCode,
)
from pyro_compress.artifact.format.layout import Columns, flat, grid
from pyro_compress.artifact.format.weight_names import Names
from pyro_compress.errors import ArtifactError, printable
from pyro_compress.network.stored_weights import WHOLE

MAX_TENSORS = 1 << 14
TYPES: tuple[tuple[str, str], ...] = (
    ("float32", "<f4"),
    ("float32", "<f2"),
    ("float16", "<f2"),
    ("bfloat16", "<u2"),
    ("float64", "<f8"),
    ("int64", "<i8"),
    ("bool", "|u1"),
    ("int32", "<i4"),
    ("int16", "<i2"),
    ("int8", "|i1"),
    ("uint8", "|u1"),
)
"""Element types, and how their numbers stand in the body where they are not integers on a grid."""
HALVED = 1
# What stands in the place of a type where a tensor is one that was there already.
TIED = len(TYPES)
LEAST_SIDE = 2


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor.

    Attributes:
        type: index of `TYPES`.
        shape: its extents.
        code: its descriptor.
        side: of a matrix whose columns are square images, one after the other; else 0.
    """

    type: int
    shape: tuple[int, ...]
    code: TensorCode
    side: int = 0

    @property
    def dtype(self) -> str:
        """The name of the element type."""
        return TYPES[self.type][0]

    @property
    def rows(self) -> int:
        """Of the matrix as which it is coded."""
        return self.shape[0] if self.shape else 1

    @property
    def is_coded(self) -> bool:
        """Whether its numbers are in the stream."""
        return self.code.density != ALL_ZERO

    def columns(self) -> Columns:
        """The columns of its matrix."""
        return columns_of(self.shape, self.side)

    @property
    def body_type(self) -> np.dtype:
        """Of the numbers that stand in the body: its own, or those of its quantizer."""
        return np.dtype(TYPES[self.type][1] if self.code.is_float else "<f4")

    @property
    def body_count(self) -> int:
        """How many these are."""
        return prod(self.shape) if self.code.is_float else self.code.floats(self.shape)


@dataclass(frozen=True)
class WeightsHeader:
    """What the header says.

    Attributes:
        entries: by name, in order; a tensor that is tied to one before it has the name of that in place of an entry.
    """

    entries: Mapping[str, Entry | str]

    def single(self) -> Iterator[tuple[str, Entry]]:
        """Name and entry of the tensors that are tied to none before."""
        return ((name, entry) for name, entry in self.entries.items() if isinstance(entry, Entry))


def width(shape: tuple[int, ...]) -> int:
    """How many columns the matrix of a tensor has: its first axis are rows."""
    return prod(shape[1:])


def columns_of(shape: tuple[int, ...], side: int = 0) -> Columns:
    """Places of the columns: behind a first axis of rows and one of channels come height and width, or width alone."""
    if len(shape) < 2:
        return flat(1)
    if len(shape) == 2:
        return grid(shape[1] // side**2, side, side) if side else flat(shape[1])
    channels = prod(shape[1:-2]) if len(shape) > 3 else shape[1]
    return grid(channels, shape[-2] if len(shape) > 3 else 1, shape[-1])


def write_header(header: WeightsHeader) -> bytes:
    """The whole header; zero bits fill its last byte."""
    writer, names, first = DescriptorWriter(), Names(), 1
    places = {name: place for place, name in enumerate(header.entries)}
    writer.raw(WEIGHTS_MARK)
    writer.number(len(header.entries))
    for name, entry in header.entries.items():
        names.write(writer, name)
        if isinstance(entry, str):
            writer.number(TIED, LEAST)
            writer.number(places[name] - places[entry] - 1, SMALL)
        else:
            writer.number(entry.type, LEAST)
            first = _write_shape(writer, entry.shape, first)
            writer.tensor(name, entry.code, whole=entry.dtype in WHOLE)
            if entry.is_coded and len(entry.shape) == 2:
                writer.number(entry.side, LEAST)
    return writer.filled()


def _write_shape(writer: DescriptorWriter, shape: tuple[int, ...], first: int) -> int:
    """The number of axes and the extents; gives the first extent that is remembered from then on."""
    writer.number(len(shape), SMALL)
    for axis, extent in enumerate(shape):
        if axis >= 2:
            writer.number(extent, SMALL)
            continue
        writer.bits(extent == first, 1)
        if extent != first:
            writer.number(extent)
    return shape[0] if shape else first


def read_header(reader: DescriptorReader, data: bytes) -> WeightsHeader:
    """Read the header with a reader that stands at the start of `data`; every count is checked before memory is taken.

    Raises:
        ArtifactError: `data` does not start with a header of weights.
    """
    if reader.raw(len(WEIGHTS_MARK), "the kind of a file") != WEIGHTS_MARK:
        raise ArtifactError("the file does not hold weights")
    entries: dict[str, Entry | str] = {}
    order: list[str] = []
    names, numbers, placed, first = Names(), 0, 0, 1
    for _ in range(reader.within("number of tensors", MAX_TENSORS)):
        name = names.read(reader)
        if name in entries:
            raise ArtifactError(f"the file holds two tensors named '{printable(name)}'")
        type_ = reader.within("a tensor's type", TIED, order=LEAST)
        if type_ == TIED:
            entries[name] = _tied(reader, order, entries)
            order.append(name)
            continue
        shape, first = _read_shape(reader, first)
        numbers += prod(max(1, extent) for extent in shape)
        if numbers > MAX_NUMBERS:
            raise ArtifactError(f"the file declares at least {numbers} numbers, limit {MAX_NUMBERS}")
        entry = _read_entry(reader, name, type_, shape)
        placed += width(shape) if entry.is_coded else 0
        if (entry.is_coded and width(shape) > MAX_EXTENT) or placed > MAX_PLACES:
            raise ArtifactError(
                f"tensor {printable(name)} has {width(shape)} columns, limit {MAX_EXTENT}, {MAX_PLACES} in all tensors"
            )
        entries[name] = entry
        order.append(name)
    header = WeightsHeader(entries)
    if write_header(header) != data[: reader.position]:
        raise ArtifactError("the header is not written in its one canonical form")
    return header


def _tied(reader: DescriptorReader, order: Sequence[str], entries: Mapping[str, Entry | str]) -> str:
    """The name of the tensor that one is tied to, which is tied to none itself."""
    if not order:
        raise ArtifactError("the first tensor of the file is tied to one before it")
    before = order[-1 - reader.within("a tied tensor", len(order) - 1, order=SMALL)]
    if isinstance(entries[before], str):
        raise ArtifactError(f"a tensor is tied to '{before}', which is tied to another itself")
    return before


def _read_shape(reader: DescriptorReader, first: int) -> tuple[tuple[int, ...], int]:
    what, extents = "an extent of a tensor", list[int]()
    for axis in range(reader.within("number of axes", MAX_RANK, order=SMALL)):
        if axis < 2 and reader.bits(1, what):
            extents.append(first)
        else:
            extents.append(reader.within(what, MAX_NUMBERS, order=SMALL if axis >= 2 else SIZE))
    return tuple(extents), extents[0] if extents else first


def _read_entry(reader: DescriptorReader, name: str, type_: int, shape: tuple[int, ...]) -> Entry:
    dtype = TYPES[type_][0]
    code = reader.tensor(name, prod(shape), whole=dtype in WHOLE)
    if type_ == HALVED and not code.is_float:
        raise ArtifactError(f"tensor {printable(name)} is said to stand as float16 numbers, and stands as integers")
    if code.form == STEPS and not shape:
        raise ArtifactError(f"tensor {printable(name)} has no axis, and a step for each entry of its first")
    entry = Entry(type_, shape, code)
    if not entry.is_coded or len(shape) != 2:
        return entry
    side = reader.within("an image side", MAX_EXTENT, order=LEAST)
    if side and (side < LEAST_SIDE or shape[1] % side**2):
        raise ArtifactError(f"the {shape[1]} columns of tensor {printable(name)} are not square images of side {side}")
    return Entry(type_, shape, code, side)
