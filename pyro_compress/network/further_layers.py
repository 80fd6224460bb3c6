"""Layers of networks that are no chain of convolutions: what combines earlier outputs, pads, resizes or normalises.

They are plain data as those of `layers.py` are, which speaks of all of them as layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from pyro_compress.network.sequence_layers import SequenceLayer, shape_after_sequence

Shape = tuple[int, ...]
Pair = tuple[int, int]
# (is it so, what else is expected) → None, or raise
Expect = Callable[[bool, str], None]

PAD_MODES = ("zeros", "reflect", "replicate", "circular")
RESIZE_MODES = ("nearest", "nearest-exact", "bilinear", "aligned")
# How often runtimes subtract the mean in a `Standardize`: that of numbers which are nearly the same is off by rounding,
# which dividing by their deviation would make large.
CENTRINGS = 2


@dataclass(frozen=True)
class Concatenate:
    """Entries of axis 1 of output number `source`, then those of the output before this layer; other axes are equal."""

    source: int


@dataclass(frozen=True)
class Multiply:
    """Multiply output number `source` with the output before this layer: each axis is equal, or 1 in one of them."""

    source: int


@dataclass(frozen=True)
class Pad:
    """Rows and columns around an image: (above, left) in `before`, (below, right) in `after`.

    They are zeros, or what lies inside: mirrored about the border line of pixels (reflect), the border itself
    (replicate), or what follows on the other side (circular).
    """

    before: Pair
    after: Pair
    mode: str = "zeros"


@dataclass(frozen=True)
class View:
    """The same entries of axis 1, each with its numbers in another shape: (C, *any) → (C, *size), row major."""

    size: Shape


@dataclass(frozen=True)
class Standardize:
    """y = (x − m) / √(v + ε) with mean and variance of each example's groups of entries, all their places together.

    Axis 1 is cut into `groups` parts of one size.  Without `centred` m = 0 and v is the mean square.  With `by_place`
    every place has a mean and a variance of its own.
    """

    groups: int
    eps: float
    centred: bool = True
    by_place: bool = False


@dataclass(frozen=True)
class Softmax:
    """e^x_k / Σ_j e^x_j over axis 1, at every place by itself; with `log` its logarithm, x_k − ln Σ_j e^x_j."""

    log: bool = False


@dataclass(frozen=True)
class Squeeze:
    """One number for each example: (1,) → ()."""


@dataclass(frozen=True)
class Resize:
    """Height and width become `size` by interpolation; `interpolation` has the matrices of the four modes."""

    size: Pair
    mode: str


@dataclass(frozen=True)
class AdaptiveMaxPool2d:
    output_size: Pair


FurtherLayer = (
    Concatenate | Multiply | Pad | View | Standardize | Softmax | Squeeze | Resize | AdaptiveMaxPool2d | SequenceLayer
)
_IMAGE = "(channels, height, width)"


def fit_together(first: Shape, second: Shape) -> bool:
    """Whether two outputs can be added or multiplied: each axis is equal, or 1 in one of them."""
    return len(first) == len(second) and all(a == b or 1 in (a, b) for a, b in zip(first, second, strict=True))


def together(first: Shape, second: Shape) -> Shape:
    """The shape of a sum or product of two outputs that fit together."""
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def shape_after(layer: FurtherLayer, shape: Shape, earlier: Shape | None, expect: Expect) -> Shape:
    """Shape of one example after a layer; `earlier` is that of the output that it refers to."""
    if isinstance(layer, SequenceLayer):
        return shape_after_sequence(layer, shape, expect)
    match layer:
        case Concatenate() if earlier is not None:
            same = bool(shape) and bool(earlier) and shape[1:] == earlier[1:]
            expect(same, f"a shape that differs from {earlier} along its first axis only")
            return (earlier[0] + shape[0], *shape[1:])
        case Multiply() if earlier is not None:
            expect(fit_together(shape, earlier), f"the shape {earlier}, or axes of 1 for one of them")
            return together(shape, earlier)
        case View(size=size):
            expect(len(shape) > 1 and prod(shape[1:]) == prod(size), f"{prod(size)} numbers for each entry of axis 1")
            return (shape[0], *size)
        case Standardize(groups=groups):
            expect(bool(shape) and shape[0] % groups == 0, f"entries that make {groups} groups of one size")
            return shape
        case Squeeze():
            expect(shape == (1,), "a vector of one number")
            return ()
        case Softmax():
            expect(bool(shape) and shape[0] > 0, "at least one entry")
            return shape
        case Resize(size=size) | AdaptiveMaxPool2d(output_size=size):
            expect(len(shape) == 3 and min(shape[1:]) > 0, _IMAGE)
            return (shape[0], *size)
        case Pad(before=before, after=after, mode=mode):
            expect(len(shape) == 3, _IMAGE)
            most = max(before[0], after[0]), max(before[1], after[1])
            room = [extent - (mode == "reflect") for extent in shape[1:]]
            fits = mode == "zeros" or all(pad <= extent for pad, extent in zip(most, room, strict=True))
            if mode == "replicate":
                fits = min(shape[1:]) > 0
            expect(fits, f"an image that has enough to be padded by {most}")
            return (shape[0], before[0] + shape[1] + after[0], before[1] + shape[2] + after[1])
    raise ValueError(f"{layer} refers to nothing")


def interpolation(extent: int, count: int, mode: str) -> np.ndarray:
    """float32 (count, extent): the matrix that makes `count` places of `extent` along one axis.

    Place i lies at u = i · extent / count and takes the number at ⌊u⌋ (nearest) or ⌊u + extent / (2 count)⌋
    (nearest-exact), or weighs ⌊u⌋ and its follower, at most the last, by 1 − λ and λ = u − ⌊u⌋ with
    u = max((i + ½) · extent / count − ½, 0) (bilinear) or u = i (extent − 1) / (count − 1), 0 for one place (aligned).
    """
    matrix = np.zeros((count, extent))
    for place in range(count):
        if mode in ("nearest", "nearest-exact"):
            half = mode == "nearest-exact"
            matrix[place, (2 * place + half) * extent // (2 * count)] = 1
            continue
        if mode == "bilinear":
            at = max((place + 0.5) * extent / count - 0.5, 0.0)
        else:
            at = place * (extent - 1) / (count - 1) if count > 1 else 0.0
        first = min(int(at), extent - 1)
        share = at - first
        matrix[place, first] += 1 - share
        matrix[place, min(first + 1, extent - 1)] += share
    return matrix.astype(np.float32)
