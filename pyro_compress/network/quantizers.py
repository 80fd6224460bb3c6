"""What weights are rounded to: grids of one step, of a step per output unit, either within b bits, and codebooks.

A number is stored as its index, an integer of which 0 always stands for zero, since pruned weights are zero:

    Q(w) = value(index(w))

    Uniform      value(q) = Δ q                     q any integer
    PerChannel   value(q) = Δ_c q                   c the index along axis 0: output unit, filter
    Affine       value(q) = Δ q or Δ_c q         −z ≤ q ≤ 2^b − 1 − z, z the zero point
    Codebook     value(q) = the |q|-th level above (q > 0) or below (q < 0) zero; ternary weights have two levels

Steps and levels are float32 numbers, and a value is their float32 product, so that every program that reads a file
finds the same numbers.  Whoever rounds in float32 finds the same indices too (`inference/finetuning/rounding.py`).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.errors import DecisionError

STEP_EXPONENTS = range(-64, 64)
MOST_LEVELS = 255
MOST_BITS = 16


@dataclass(frozen=True)
class Uniform:
    """All multiples of a step.

    Attributes:
        step: Δ, rounded to float32, at least 2**-64 and below 2**64.  A power of two costs least in a file.

    Raises:
        DecisionError: the step is out of range.
    """

    step: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", _checked(self.step))

    @property
    def exponent(self) -> int | None:
        """e if the step is 2^e, else None."""
        mantissa, exponent = math.frexp(self.step)
        return exponent - 1 if mantissa == 0.5 else None

    def index(self, values: np.ndarray) -> np.ndarray:
        """Nearest multiples, half to even: whole numbers of the type of the values, float32 or float64."""
        return np.asarray(np.rint(values / np.float32(self.step)))

    def value(self, indices: np.ndarray) -> np.ndarray:
        """float32, the shape of the indices."""
        return np.asarray(indices.astype(np.float32) * np.float32(self.step))

    def spacing(self, ndim: int) -> np.ndarray:
        """float64: the distance between neighbours, of a shape that goes with tensors of `ndim` axes."""
        return np.full((1,) * ndim, self.step)

    def rows(self, kept: np.ndarray) -> "Uniform":
        """The quantizer of some of the entries along axis 0."""
        return self

    def coarser(self, octaves: int) -> "Uniform":
        """With steps 2^octaves times as large."""
        return Uniform(math.ldexp(self.step, octaves))


@dataclass(frozen=True)
class PerChannel:
    """All multiples of a step that each entry of axis 0 (output unit, filter) has for itself.

    Attributes:
        steps: Δ_c, as many as axis 0 has entries; each as that of `Uniform`.
    """

    steps: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(map(_checked, self.steps)))

    def index(self, values: np.ndarray) -> np.ndarray:
        """As that of `Uniform`, along axis 0."""
        return np.asarray(np.rint(values / self.spacing(values.ndim).astype(np.float32)))

    def value(self, indices: np.ndarray) -> np.ndarray:
        """float32, the shape of the indices."""
        return np.asarray(indices.astype(np.float32) * self.spacing(indices.ndim).astype(np.float32))

    def spacing(self, ndim: int) -> np.ndarray:
        """float64, (channels, 1, ...)."""
        return np.array(self.steps, np.float64).reshape(-1, *(1,) * (ndim - 1))

    def rows(self, kept: np.ndarray) -> "PerChannel":
        """The quantizer of some of the entries along axis 0, given as bool or by their numbers."""
        return PerChannel(tuple(np.array(self.steps)[kept].tolist()))

    def coarser(self, octaves: int) -> "PerChannel":
        """With steps 2^octaves times as large."""
        return PerChannel(tuple(math.ldexp(step, octaves) for step in self.steps))


@dataclass(frozen=True)
class Affine:
    """Integers of b bits with a zero point: w = Δ (p − z) with p = 0 … 2^b − 1 (Jacob et al. 2018).

    As z is a whole number, zero is a value, and q = p − z a multiple of Δ: files hold the grid, and q.

    Attributes:
        grid: Δ, or Δ_c of every channel.
        bits: b, 1 to 16.
        zero_points: z, 0 … 2^b − 1; as many as the grid has steps.

    Raises:
        DecisionError: bits or zero points are out of range.
    """

    grid: Uniform | PerChannel
    bits: int
    zero_points: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = 1 if isinstance(self.grid, Uniform) else len(self.grid.steps)
        if not 1 <= self.bits <= MOST_BITS:
            raise DecisionError(f"an affine quantizer has 1 to {MOST_BITS} bits, found {self.bits}")
        if len(self.zero_points) != steps or not all(0 <= zero < 1 << self.bits for zero in self.zero_points):
            raise DecisionError(
                f"an affine quantizer of {self.bits} bits and {steps} steps has as many zero points from 0 to "
                f"{(1 << self.bits) - 1}, found {self.zero_points}"
            )

    def limits(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """float64: the least and the largest index, of a shape that goes with tensors of `ndim` axes."""
        least = -np.array(self.zero_points, np.float64).reshape(-1, *(1,) * (ndim - 1))
        return least, least + (1 << self.bits) - 1

    def index(self, values: np.ndarray) -> np.ndarray:
        """As that of the grid, clipped."""
        return np.asarray(np.clip(self.grid.index(values), *self.limits(values.ndim)).astype(values.dtype))

    def value(self, indices: np.ndarray) -> np.ndarray:
        """float32, the shape of the indices."""
        return self.grid.value(indices)

    def spacing(self, ndim: int) -> np.ndarray:
        """As that of the grid."""
        return self.grid.spacing(ndim)

    def rows(self, kept: np.ndarray) -> "Affine":
        """The quantizer of some of the entries along axis 0, given as bool or by their numbers."""
        if isinstance(self.grid, Uniform):
            return self
        return Affine(self.grid.rows(kept), self.bits, tuple(np.array(self.zero_points)[kept].tolist()))

    def coarser(self, octaves: int) -> "Affine":
        """With steps 2^octaves times as large, in so many bits fewer, though at least one."""
        bits = max(self.bits - octaves, 1)
        zero_points = tuple(min(zero >> octaves, (1 << bits) - 1) for zero in self.zero_points)
        return Affine(self.grid.coarser(octaves), bits, zero_points)


@dataclass(frozen=True)
class Codebook:
    """Zero and a few other values.

    Attributes:
        levels: increasing, finite, none of them zero; at most 255 below and 255 above zero; rounded to float32.

    Raises:
        DecisionError: the levels are not so.
    """

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            levels = np.array(self.levels, np.float64).astype(np.float32)
        object.__setattr__(self, "levels", tuple(levels.tolist()))
        if not (np.isfinite(levels).all() and levels.all() and (levels[1:] > levels[:-1]).all()):
            raise DecisionError(
                f"the levels of a codebook increase, are finite and not zero, which it always holds: {self.levels}"
            )
        if max(self.sides) > MOST_LEVELS:
            raise DecisionError(f"a codebook has at most {MOST_LEVELS} levels on either side of zero: {self.sides}")

    @property
    def sides(self) -> tuple[int, int]:
        """How many levels are below zero, and how many above."""
        below = sum(level < 0 for level in self.levels)
        return below, len(self.levels) - below

    @property
    def book(self) -> np.ndarray:
        """float32: all levels and zero, in order; the one of index q stands at q + sides[0]."""
        return np.insert(np.array(self.levels, np.float32), self.sides[0], 0)

    @property
    def edges(self) -> np.ndarray:
        """float32: the middles between neighbours of `book`; a value that stands on one goes to the lower level."""
        book = self.book.astype(np.float64)
        middle = ((book[1:] + book[:-1]) / 2).astype(np.float32)
        # of neighbours in float32 too the upper one has itself
        return np.minimum(middle, np.nextafter(self.book[1:], self.book[:-1]))

    def index(self, values: np.ndarray) -> np.ndarray:
        """The place of the nearest level, counted from zero: whole numbers of the type of the values."""
        return (np.searchsorted(self.edges, values) - self.sides[0]).astype(values.dtype)

    def value(self, indices: np.ndarray) -> np.ndarray:
        """float32, the shape of the indices; IndexError if there is no such level."""
        return self.book[indices.astype(np.int64) + self.sides[0]]

    def spacing(self, ndim: int) -> np.ndarray:
        """float64: the smallest distance between neighbours."""
        gaps = np.diff(self.book.astype(np.float64))
        return np.full((1,) * ndim, gaps.min(initial=math.inf) if gaps.size else 1.0)

    def rows(self, kept: np.ndarray) -> "Codebook":
        """The quantizer of some of the entries along axis 0."""
        return self

    def used(self, indices: np.ndarray) -> tuple["Codebook", np.ndarray]:
        """Without the levels that no index has, and the int32 indices among those that are left."""
        seen = np.unique(indices[indices != 0])
        below = int((seen < 0).sum())
        place = np.searchsorted(np.insert(seen, below, 0), indices) - below
        return replace(self, levels=tuple(self.value(seen).tolist())), place.astype(np.int32)


Stored = Uniform | PerChannel | Codebook
Quantizer = Stored | Affine
Described = float | dict[str, list[float]] | None


def stored_as(quantizer: Quantizer) -> Stored:
    """What a file holds of a quantizer: of an affine one the grid."""
    return quantizer.grid if isinstance(quantizer, Affine) else quantizer


def rounded(quantizer: Quantizer, values: np.ndarray) -> np.ndarray:
    """Q(w), float32."""
    return quantizer.value(quantizer.index(values))


def described(quantizer: Quantizer | None) -> Described:
    """A quantizer for files in JSON: the step of a uniform one, else its steps or levels; None for float32."""
    match quantizer:
        case Uniform(step):
            return step
        case PerChannel(steps):
            return {"steps": list(steps)}
        case Affine(grid, bits, zero_points):
            of_grid = {"step": [grid.step]} if isinstance(grid, Uniform) else {"steps": list(grid.steps)}
            return {**of_grid, "bits": [bits], "zero_points": list(zero_points)}
        case Codebook(levels):
            return {"levels": list(levels)}
    return None


def from_described(said: Described) -> Quantizer | None:
    """The quantizer that `described` gave this for."""
    if said is None:
        return None
    if not isinstance(said, dict):
        return Uniform(said)
    if "levels" in said:
        return Codebook(tuple(said["levels"]))
    grid = PerChannel(tuple(said["steps"])) if "steps" in said else Uniform(said["step"][0])
    return Affine(grid, int(said["bits"][0]), tuple(map(int, said["zero_points"]))) if "bits" in said else grid


def power_of_two(exponent: int) -> Uniform:
    """The grid of step 2^exponent."""
    return Uniform(math.ldexp(1.0, exponent))


def bits_for(integers: np.ndarray) -> int:
    """Bits of the fewest that hold every integer with its sign: 1 + ⌈log₂(max|q| + 1)⌉, at least 2."""
    largest = int(np.abs(integers).max(initial=0))
    return max(2, 1 + math.ceil(math.log2(largest + 1)))


def bits_on(quantizer: Quantizer, indices: np.ndarray) -> int:
    """Bits of a tensor of indices: those that an affine quantizer has, else what the largest needs."""
    return quantizer.bits if isinstance(quantizer, Affine) else bits_for(indices)


def _checked(step: float) -> float:
    """A step as float32 holds it."""
    if 2.0 ** STEP_EXPONENTS[0] <= step <= 2.0**STEP_EXPONENTS.stop:
        found = float(np.float32(step))
        if found < 2.0**STEP_EXPONENTS.stop:
            return found
    raise DecisionError(f"a grid step is at least 2**{STEP_EXPONENTS[0]} and below 2**{STEP_EXPONENTS.stop}: {step}")
