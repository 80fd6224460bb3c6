"""Whether numbers lie on a grid, found out exactly: what comes back is the numbers themselves, or nothing.

Tried are a step that is a power of two, any other step, a step for each entry of the first axis, and a codebook.  Of
those that fit the one that takes the fewest bytes is taken, unless the numbers as they are take fewer.  The sign of a
zero is not kept.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from pyro_compress.artifact.format.coding import LARGEST, split, token_range
from pyro_compress.artifact.format.descriptors import codebook_bits
from pyro_compress.artifact.format.header import numbers_of
from pyro_compress.network.quantizers import (
    MOST_LEVELS,
    STEP_EXPONENTS,
    Codebook,
    PerChannel,
    Stored,
    Uniform,
    power_of_two,
)
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import in_type

BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "float64": 64}
# A grid is looked for among so many different numbers at most, and its step among the least gap over these.
MOST_DISTINCT = 1 << 16
DIVISORS = (1, 2, 3, 4)
MANTISSA_BITS = 24
# Of float32 numbers next to the one that fits best, as many on either side are tried.
NEIGHBOURS = 3
# What a tensor's settings, and each different size of its numbers, add to a file, about.
SETTINGS_BITS = 24
TOKEN_BITS = 6


def on_grid(numbers: np.ndarray, dtype: str, bits_each: int | None = None) -> StoredTensor | None:
    """Integers and a quantizer that stand for exactly these numbers; None if there are none that take fewer bits.

    Args:
        numbers: of a floating type, as `Given.numbers`.
        dtype: the name of that type.
        bits_each: what a number takes where they stand as they are; those of its type if not given.
    """
    single = numbers.astype(np.float32)
    if not np.isfinite(single).all() or not np.array_equal(single, numbers):
        return None
    raw_bits = prod(numbers.shape) * (bits_each or BITS[dtype])
    best: StoredTensor | None = None
    least = float(raw_bits)
    if not single.any():
        return StoredTensor(np.zeros(single.shape, np.int32), power_of_two(0)) if raw_bits else None
    for quantizer in _quantizers(single, dtype):
        integers = quantizer.index(single)
        if np.abs(integers).max() > LARGEST:
            continue
        found = StoredTensor(integers.astype(np.int32), quantizer)
        if not np.array_equal(in_type(found.dense(), dtype), single):
            continue
        bits = estimated_bits(found)
        if bits < least:
            best, least = found, bits
    return best


def _quantizers(numbers: np.ndarray, dtype: str) -> Iterator[Stored]:
    """All that may fit."""
    distinct = np.unique(numbers)
    distinct = distinct[distinct != 0]
    sides = int((distinct < 0).sum()), int((distinct > 0).sum())
    exponent = common_exponent(distinct)
    if exponent is not None:
        yield power_of_two(exponent)
    if len(distinct) <= MOST_DISTINCT:
        step = common_step(distinct, dtype)
        if step is not None:
            yield Uniform(step)
    if numbers.ndim > 1:
        steps = _steps(numbers, dtype)
        if steps is not None:
            yield PerChannel(steps)
    if max(sides) <= MOST_LEVELS:
        yield Codebook(tuple(distinct.tolist()))


def _steps(numbers: np.ndarray, dtype: str) -> tuple[float, ...] | None:
    """A step for each entry of the first axis, None as soon as one has none."""
    steps = []
    for row in numbers.reshape(len(numbers), -1):
        step = common_step(np.unique(row[row != 0]), dtype) if row.any() else 1.0
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def common_exponent(numbers: np.ndarray) -> int | None:
    """The largest e with which all these float32 numbers, none of them zero, are multiples of 2^e; None for none."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    whole = np.abs(np.ldexp(mantissa, MANTISSA_BITS)).astype(np.int64)
    zeros = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    found = min(int((exponent - MANTISSA_BITS + zeros).min()), STEP_EXPONENTS[-1])
    return found if found in STEP_EXPONENTS and np.ldexp(np.abs(numbers).max(), -found) <= LARGEST else None


def common_step(distinct: np.ndarray, dtype: str) -> float | None:
    """Δ with q · Δ, rounded to float32 and then to the type, equal to each of these numbers for some integer q.

    The least gap between magnitudes, zero among them, is a small multiple of Δ.  Least squares sharpen it, on small
    numbers first, as Δ has to be known the better the larger q is.
    """
    sizes = np.unique(np.abs(distinct)).astype(np.float64)
    gap = float(np.diff(sizes, prepend=0.0).min())
    for divisor in DIVISORS:
        step = _sharpened(sizes, gap / divisor)
        if step is None:
            continue
        near = np.float32(step)
        tried = [near]
        for side in (0.0, np.inf):
            other = near
            for _ in range(NEIGHBOURS):
                other = np.nextafter(other, np.float32(side))
                tried.append(other)
        for candidate in tried:
            if not 2.0 ** STEP_EXPONENTS[0] <= candidate < 2.0**STEP_EXPONENTS.stop:
                continue
            products = np.rint(sizes / np.float64(candidate)).astype(np.float32) * candidate
            if np.array_equal(in_type(products, dtype), sizes.astype(np.float32)):
                return float(candidate)
    return None


def _sharpened(sizes: np.ndarray, step: float) -> float | None:
    reach = 64 * step
    while step > 0 and sizes[-1] / step <= LARGEST:
        seen = sizes[: np.searchsorted(sizes, reach, side="right")]
        places = np.rint(seen / step)
        if places.any():
            step = float((seen * places).sum() / (places * places).sum())
        if len(seen) == len(sizes):
            return step
        reach *= 64
    return None


def estimated_bits(tensor: StoredTensor) -> float:
    """What a tensor of integers takes in a file, about: entropies of order 0, and what stands beside them."""
    integers = tensor.integers
    assert integers is not None
    held = 32 * len(numbers_of(tensor.quantizer)) + SETTINGS_BITS
    levels, counts = np.unique(integers, return_counts=True)
    nonzero = levels != 0
    token, _ = split(np.abs(levels[nonzero]).astype(np.int64) - 1)
    symbols = np.zeros(len(levels), np.int64)
    symbols[nonzero] = np.sign(levels[nonzero]) * (token + 1)
    extra = float((token_range(token)[1] * counts[nonzero]).sum())
    together = np.bincount(symbols - symbols.min(), weights=counts)
    bits = _entropy(together) + extra + TOKEN_BITS * int((together > 0).sum())
    book = tuple(levels[nonzero].tolist())
    if not isinstance(tensor.quantizer, Codebook) and len(book) <= MOST_LEVELS:
        bits = min(bits, _entropy(counts) + TOKEN_BITS * len(book) + codebook_bits(book))
    return held + bits


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
