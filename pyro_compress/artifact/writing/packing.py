"""Tensors as somebody has them → what a file stores of them: exactly, or rounded by a rule."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from pyro_compress.artifact.format.coding import LARGEST
from pyro_compress.artifact.writing.exact_grids import BITS, estimated_bits, on_grid
from pyro_compress.errors import ArtifactError, DecisionError
from pyro_compress.network.quantizers import MOST_BITS, STEP_EXPONENTS, PerChannel, Uniform, bits_for
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import WHOLE, Given, StoredWeights, WeightTensor

LEAST_BITS = 2
# share of a tensor's largest number that float32 loses beside it
NEGLIGIBLE = 2.0**-24


def packed(
    given: Mapping[str, Given], *, bits: int | None = None, step: float | None = None, float16: bool = False
) -> StoredWeights:
    """What a file stores of these tensors.

    Without a rule all numbers come back exactly (but for the sign of a zero): on a grid where they lie on one and that
    takes fewer bytes, else as they are.  A rule rounds floating tensors of two axes or more, the matrices and filters,

        bits b     q = rint(w / Δ_c),  Δ_c = max |w_c| / (2^(b−1) − 1)     c the index along the first axis
        step Δ     q = rint(w / Δ)

    where they do not lie on a grid of at most so many bits, or of that step, already.  Other tensors, biases, norms and
    their statistics, stay exact, and so does a matrix so small that Δ_c would be below 2⁻⁶⁴, the least step of a file.

    Args:
        given: by name; names that hold the same object are tied, and stored once.
        bits: b, from 2 to 16.
        step: Δ > 0.
        float16: float32 tensors of no other rule, and on no grid that takes fewer bits, are rounded to float16; they
            come back as float32.  One that holds a number beyond float16's range stays as it is.

    Raises:
        DecisionError: both bits and step are given, or are out of range.
        ArtifactError: a tensor holds NaN, or numbers that its grid cannot hold.
    """
    if bits is not None and step is not None:
        raise DecisionError("give bits, with which each row has a step of its own, or one step for all, not both")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, Integral)):
        raise DecisionError(f"bits are a whole number, found {bits!r}")
    if bits is not None and not LEAST_BITS <= bits <= MOST_BITS:
        raise DecisionError(f"weights are rounded to {LEAST_BITS} to {MOST_BITS} bits, found {bits}")
    grid = None if step is None else Uniform(step)
    done: dict[int, WeightTensor] = {}
    for name, tensor in given.items():
        if id(tensor) not in done:
            if tensor.dtype not in WHOLE and np.isnan(tensor.numbers).any():
                raise ArtifactError(f"tensor {name} holds NaN: the network is damaged, or was never trained")
            done[id(tensor)] = _stored(name, tensor, bits, grid, float16=float16)
    return StoredWeights({name: done[id(tensor)] for name, tensor in given.items()})


def _stored(name: str, tensor: Given, bits: int | None, grid: Uniform | None, *, float16: bool) -> WeightTensor:
    numbers = tensor.numbers
    if tensor.dtype in WHOLE:
        return _whole(tensor)
    # masks that hold −∞ are no weights
    is_matrix = numbers.ndim > 1 and numbers.size > 0 and bool(np.isfinite(numbers).all())
    if is_matrix and grid is not None:
        return WeightTensor(tensor.dtype, _rounded(name, numbers, grid))
    halved = _halved(tensor) if float16 else None
    exact = on_grid(numbers, tensor.dtype, None if halved is None else BITS["float16"])
    if exact is not None and not (is_matrix and bits is not None and bits_for(_integers(exact)) > bits):
        return WeightTensor(tensor.dtype, exact)
    if is_matrix and bits is not None:
        quantizer = row_steps(name, numbers, bits)
        if quantizer is not None:
            return WeightTensor(tensor.dtype, _rounded(name, numbers, quantizer))
        if exact is not None:
            return WeightTensor(tensor.dtype, exact)
    return WeightTensor(tensor.dtype, numbers if halved is None else halved)


def _halved(tensor: Given) -> np.ndarray | None:
    """float32 numbers as float16, None of those of other types or where one would become infinite."""
    if tensor.dtype != "float32":
        return None
    with np.errstate(over="ignore"):
        halved = tensor.numbers.astype(np.float16)
    return halved if np.array_equal(np.isfinite(halved), np.isfinite(tensor.numbers)) else None


def row_steps(name: str, numbers: np.ndarray, bits: int) -> PerChannel | None:
    """The steps at which the largest number of each row is the largest integer of so many bits; 1 for rows of zeros.

    None where one is below the least that a file holds, and its row counts beside the largest.
    """
    largest = np.abs(numbers.astype(np.float64)).reshape(len(numbers), -1).max(axis=1)
    steps = np.where(largest > 0, largest / ((1 << bits - 1) - 1), 1.0)
    if not steps.max() < 2.0**STEP_EXPONENTS.stop:
        raise ArtifactError(f"tensor {name} holds numbers up to {largest.max():g}: it cannot be rounded to a grid")
    least = 2.0 ** STEP_EXPONENTS[0]
    if largest[steps < least].max(initial=0) > NEGLIGIBLE * largest.max():
        return None
    return PerChannel(tuple(np.maximum(steps, least).tolist()))


def _rounded(name: str, numbers: np.ndarray, quantizer: Uniform | PerChannel) -> StoredTensor:
    integers = quantizer.index(numbers.astype(np.float64))
    if not np.abs(integers).max(initial=0) <= LARGEST:
        raise ArtifactError(f"tensor {name} has multiples of the step beyond ±{LARGEST}: take a larger step")
    return StoredTensor(integers.astype(np.int32), quantizer)


def _whole(tensor: Given) -> WeightTensor:
    """Integers, unless they are too large for that, or take fewer bits as they are."""
    numbers = tensor.numbers
    if not numbers.size or -LARGEST <= int(numbers.min()) <= int(numbers.max()) <= LARGEST:
        found = StoredTensor(numbers.astype(np.int32), Uniform(1.0))
        if not numbers.any() or estimated_bits(found) < 8 * numbers.nbytes:
            return WeightTensor(tensor.dtype, found)
    return WeightTensor(tensor.dtype, numbers)


def _integers(tensor: StoredTensor) -> np.ndarray:
    assert tensor.integers is not None
    return tensor.integers
