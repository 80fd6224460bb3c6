"""Part 2.6 of `FORMAT.md`, files of weights, for the second reader: plain Python and numpy, no code of the package."""

from dataclasses import dataclass
from math import prod

import numpy as np

from tests.artifact.specified import Bits, Descriptor, body_of, meant
from tests.artifact.specified_stream import Matrix, Place, Range, grid

TYPES = ["float32", "float32", "float16", "bfloat16", "float64", "int64", "bool", "int32", "int16", "int8", "uint8"]
STANDS = ["<f4", "<f2", "<f2", "<u2", "<f8", "<i8", "u1", "<i4", "<i2", "i1", "u1"]
TIED = 11


@dataclass
class Weight:
    """One tensor: type, numbers (bfloat16 as float32) and, where there are any, the integers that were stored."""

    type: str
    numbers: np.ndarray
    integers: np.ndarray | None = None


class NameReader:
    """The names of a header, one after the other."""

    def __init__(self) -> None:
        self.last: list[str] = []
        self.known = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    def read(self, header: Bits) -> str:
        shared, left = header.number(1), header.number(1)
        parts = self.last[:shared]
        for place in range(shared, shared + left):
            t = header.number(2)
            if t == 1:
                stem = self.last[place].rstrip("0123456789")
                number = self.last[place][len(stem) :]
                while len(number) > 1 and number[0] == "0":  # 007 prints back as 7
                    stem, number = stem + "0", number[1:]
                parts.append(stem + str((int(number) if number else -1) + 1 + header.number(0)))
            elif t > 1:
                parts.append(self.known[t - 2])
            else:
                parts.append(header.take(header.number(2)).decode())
                self.known.append(parts[-1])
        self.last = parts
        return ".".join(parts)


@dataclass
class Said:
    """What the header says of one tensor, or the name of the one that it is tied to."""

    type: int
    shape: tuple[int, ...] = ()
    descriptor: Descriptor | None = None
    side: int = 0
    tied: str = ""


def read_header(header: Bits) -> dict[str, Said]:
    assert header.take(1) == b"\x10"
    names, found, first = NameReader(), dict[str, Said](), 1
    for _ in range(header.number()):
        name, kind = names.read(header), header.number(0)
        if kind == TIED:
            found[name] = Said(kind, tied=list(found)[-1 - header.number(2)])
            continue
        shape: list[int] = []
        for axis in range(header.number(2)):
            again = axis < 2 and header.bits(1)
            shape.append(first if again else header.number(4 if axis < 2 else 2))
        first = shape[0] if shape else first
        said = header.descriptor("weight" if name.endswith(".weight") else "other", whole=kind >= 5)
        coded = said.form != "float32" and not said.zero
        found[name] = Said(kind, tuple(shape), said, header.number(0) if coded and len(shape) == 2 else 0)
    return found


def places(shape: tuple[int, ...], side: int) -> list[Place]:
    if len(shape) < 2:
        return [(0, 0, 0)]
    if len(shape) == 2:
        return grid(shape[1] // side**2, side, side) if side else grid(shape[1], 1, 1)
    if len(shape) == 3:
        return grid(shape[1], 1, shape[2])
    return grid(prod(shape[1:-2]), shape[-2], shape[-1])


def rounded(numbers: np.ndarray, kind: str) -> np.ndarray:
    """float32 numbers in a type, half to even."""
    if kind != "bfloat16":
        with np.errstate(over="ignore"):
            return numbers.astype(kind)
    found = []
    for number in numbers.ravel():
        bits = int(np.float32(number).view(np.uint32))
        low, bits = bits & 0xFFFF, bits >> 16
        bits += low > 0x8000 or (low == 0x8000 and bits % 2)
        found.append(np.uint32(bits << 16).view(np.float32))
    return np.array(found, np.float32).reshape(numbers.shape)


def decode(data: bytes) -> dict[str, Weight]:
    """The whole file."""
    body = body_of(data)
    header = Bits(body)
    said, at = read_header(header), header.at
    held = {}
    for name, one in said.items():
        d = one.descriptor
        if d is not None:
            own = d.form == "float32"
            many = {"step": 1, "steps": (*one.shape, 0)[0], "levels": sum(d.sides)}.get(d.form, 0)
            kind = np.dtype(STANDS[one.type] if own else "<f4")
            held[name] = np.frombuffer(body, kind, prod(one.shape) if own else many, at)
            at += held[name].nbytes
    coder, found = Range(body[at:]), dict[str, Weight]()
    for name, one in said.items():
        d = one.descriptor
        if d is None:
            found[name] = found[one.tied]
        elif d.form == "float32":
            numbers = held[name].reshape(one.shape)
            if TYPES[one.type] == "bfloat16":
                numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
            found[name] = Weight(TYPES[one.type], numbers.astype(TYPES[one.type].replace("bfloat16", "float32")))
        else:
            integers = read_integers(coder, one, d)
            numbers = meant(integers, d, held[name]).reshape(one.shape) if one.type < 5 else integers
            found[name] = Weight(TYPES[one.type], rounded(numbers, TYPES[one.type]), integers)
    return found


def read_integers(coder: Range, one: Said, d: Descriptor) -> np.ndarray:
    if d.zero or not prod(one.shape):
        return np.zeros(one.shape, np.int64)
    start = (5 if d.density % 2 else 7) * 2**13 >> d.density // 2
    strength, fall = (1, 4, 16, 64)[d.strength], (6, 10, 13, 15)[d.fall]
    rows = Matrix(places(one.shape, one.side), start, strength, d.top, fall).decode(coder, (*one.shape, 1)[0])
    integers = [d.levels[place] if d.levels else place for row in rows for place in row]
    return np.array(integers, np.int64).reshape(one.shape)
