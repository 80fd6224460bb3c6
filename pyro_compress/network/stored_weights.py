"""The tensors of any module as a file stores them: names in order, element types, numbers on grids or as they are.

There is no architecture: whoever has the module has its forward pass.  This is what `pc.pack` makes and what a file of
weights is decoded to, so it imports numpy only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from pyro_compress.network.quantizers import Uniform
from pyro_compress.network.stored import StoredTensor

FLOATING: dict[str, type] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.float32,  # numpy has no such type: the numbers are those that bfloat16 holds
    "float64": np.float64,
}
WHOLE: dict[str, type] = {
    "int64": np.int64,
    "bool": np.bool_,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
}
ELEMENT_TYPES = FLOATING | WHOLE
"""What a tensor's numbers are where it is used, and the numpy type that holds them here."""


def item_bytes(dtype: str) -> int:
    """Bytes of one number of an element type."""
    return 2 if dtype == "bfloat16" else np.dtype(ELEMENT_TYPES[dtype]).itemsize


@dataclass(frozen=True, eq=False)
class Given:
    """One tensor as somebody has it.

    Attributes:
        dtype: its element type, a name of `ELEMENT_TYPES`.
        numbers: in the numpy type of that.
    """

    dtype: str
    numbers: np.ndarray


@dataclass(frozen=True, eq=False)
class WeightTensor:
    """One tensor: its element type, and its numbers.

    Attributes:
        dtype: a name of `ELEMENT_TYPES`.
        held: integers on a grid, on the grid of step 1 if the type is a whole one; or the numbers as they are, an array
            of the type's numpy type, or of float16 for float32 numbers that are stored as such.

    Raises:
        ValueError: they do not go together.
    """

    dtype: str
    held: StoredTensor | np.ndarray

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENT_TYPES:
            raise ValueError(f"there is no element type '{self.dtype}': known are {', '.join(ELEMENT_TYPES)}")
        if isinstance(self.held, np.ndarray):
            halved = self.dtype == "float32" and self.held.dtype == np.float16
            if not halved and self.held.dtype != ELEMENT_TYPES[self.dtype]:
                raise ValueError(f"{self.dtype} numbers are held as {self.held.dtype}")
            if self.dtype == "bfloat16" and not np.array_equal(self.held, as_bfloat16(self.held), equal_nan=True):
                raise ValueError("numbers are not such as bfloat16 holds")
        elif self.held.integers is None:
            raise ValueError("numbers that are on no grid are held as an array")
        elif self.dtype in WHOLE:
            if self.held.quantizer != Uniform(1.0):
                raise ValueError(f"{self.dtype} numbers stand for themselves, not for {self.held.quantizer}")
            least, most = limits(self.dtype)
            found = int(self.held.integers.min(initial=0)), int(self.held.integers.max(initial=0))
            if found[0] < least or found[1] > most:
                raise ValueError(f"{self.dtype} holds numbers from {least} to {most}, found {found[0]} to {found[1]}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape

    @property
    def integers(self) -> np.ndarray | None:
        """int32 indices of its grid, None if it is on none."""
        return self.held.integers if isinstance(self.held, StoredTensor) else None

    def numbers(self) -> np.ndarray:
        """What every reader finds, in the numpy type of the element type: products are float32, then rounded to it."""
        if isinstance(self.held, np.ndarray):
            return np.asarray(self.held, ELEMENT_TYPES[self.dtype])
        if self.dtype in WHOLE:
            assert self.held.integers is not None
            return np.asarray(self.held.integers, ELEMENT_TYPES[self.dtype])
        return in_type(self.held.dense(), self.dtype)

    def equals(self, other: "WeightTensor") -> bool:
        """Bit for bit the same content."""
        if self.dtype != other.dtype or type(self.held) is not type(other.held):
            return False
        if isinstance(self.held, np.ndarray) or isinstance(other.held, np.ndarray):
            mine, others = np.asarray(self.held), np.asarray(other.held)
            same = mine.shape == others.shape and mine.dtype == others.dtype
            return same and mine.tobytes() == others.tobytes()
        return self.held.equals(other.held)


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """Tensors by name, in order.

    Attributes:
        tensors: names that stand for one and the same tensor, as tied parameters do, hold the same object: a file has
            it once.
    """

    tensors: dict[str, WeightTensor]

    def numbers(self) -> dict[str, np.ndarray]:
        """What every reader finds, by name."""
        return {name: tensor.numbers() for name, tensor in self.tensors.items()}

    def single(self) -> Iterator[tuple[str, WeightTensor]]:
        """Each tensor once, under the first of its names."""
        seen: set[int] = set()
        for name, tensor in self.tensors.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    @property
    def count(self) -> int:
        """How many numbers there are, of tied tensors once."""
        return sum(prod(tensor.shape) for _, tensor in self.single())

    def same_as(self, other: "StoredWeights") -> bool:
        """Whether names, their order, ties and contents are bit for bit the same."""
        mine, others = list(self.tensors.items()), list(other.tensors.items())
        return (
            [name for name, _ in mine] == [name for name, _ in others]
            and [name for name, _ in self.single()] == [name for name, _ in other.single()]
            and all(a.equals(b) for (_, a), (_, b) in zip(mine, others, strict=True))
        )


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest number of a whole element type."""
    if dtype == "bool":
        return 0, 1
    found = np.iinfo(WHOLE[dtype])
    return int(found.min), int(found.max)


def in_type(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 or float64 numbers rounded to a floating element type, half to even."""
    if dtype == "bfloat16":
        return as_bfloat16(numbers.astype(np.float32))
    with np.errstate(over="ignore"):
        return np.asarray(numbers, ELEMENT_TYPES[dtype])


def as_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to those that bfloat16 holds, half to even; NaN stays."""
    held = np.ascontiguousarray(numbers, np.float32)
    bits = held.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(held), held, rounded).reshape(numbers.shape)
