"""Weights → bytes, as `FORMAT.md` specifies; `encode.py` is for networks, and chooses the settings of a tensor."""

from math import isqrt

import numpy as np

from pyro_compress.artifact.format.codebook import places_in
from pyro_compress.artifact.format.coding import LARGEST
from pyro_compress.artifact.format.container import contained
from pyro_compress.artifact.format.descriptors import DescriptorReader
from pyro_compress.artifact.format.header import TensorCode, code_of, numbers_of
from pyro_compress.artifact.format.layout import Columns
from pyro_compress.artifact.format.stream import RangeWriter, code_tensor
from pyro_compress.artifact.format.weights_header import (
    HALVED,
    LEAST_SIDE,
    TYPES,
    Entry,
    WeightsHeader,
    columns_of,
    read_header,
    width,
    write_header,
)
from pyro_compress.artifact.writing.encode import choose_code, first_code
from pyro_compress.errors import ArtifactError
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import StoredWeights, WeightTensor

# Numbers of a matrix on which image sides are tried, and the strength that they are tried under.
SIDE_TRIAL_NUMBERS = 1 << 16
SIDE_TRIAL_STRENGTH = 1
# What a side must save there, so that chance seldom chooses one.
LEAST_SAVED_BITS = 16


def encode_weights(weights: StoredWeights) -> bytes:
    """The compressed file of weights; the same weights always give the same bytes.

    Raises:
        ArtifactError: the format cannot hold them; the sentence says which tensor and why.
    """
    _check(weights)
    entries: dict[str, Entry | str] = {}
    first = {id(tensor): name for name, tensor in reversed(weights.tensors.items())}
    for name, tensor in weights.tensors.items():
        entries[name] = _entry(tensor) if first[id(tensor)] == name else first[id(tensor)]
    return encode_weights_with(WeightsHeader(entries), weights)


def encode_weights_with(header: WeightsHeader, weights: StoredWeights) -> bytes:
    """The file of weights under given settings: `encode_weights` picks them, and a reader finds them in the header."""
    written = _write_header(header)
    coder, held = RangeWriter(), bytearray()
    for name, entry in header.single():
        tensor = weights.tensors[name]
        held += _in_body(tensor, entry)
        if tensor.integers is not None and entry.is_coded:
            matrix = _matrix(tensor.integers, entry.shape)
            matrix = places_in(matrix, entry.code.codebook) if entry.code.codebook else matrix
            code_tensor(coder, entry.code, entry.columns(), len(matrix), matrix)
    return contained(written + bytes(held) + coder.finish())


def _entry(tensor: WeightTensor) -> Entry:
    type_ = next(place for place, (dtype, _) in enumerate(TYPES) if dtype == tensor.dtype)
    if isinstance(tensor.held, np.ndarray):
        halved = tensor.dtype == "float32" and tensor.held.dtype == np.float16
        return Entry(HALVED if halved else type_, tensor.shape, TensorCode())
    integers = tensor.held.integers
    assert integers is not None
    if not integers.any():
        return Entry(type_, tensor.shape, code_of(tensor.held.quantizer))
    side = _side(integers) if integers.ndim == 2 else 0
    matrix = StoredTensor(_matrix(integers, tensor.shape), tensor.held.quantizer)
    return Entry(type_, tensor.shape, choose_code(matrix, columns_of(tensor.shape, side)), side)


def _matrix(integers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return integers.reshape(shape[0] if shape else 1, width(shape))


def _side(matrix: np.ndarray) -> int:
    """The side of square images that the columns of a matrix are most likely to be; 0 if they look like none."""
    columns = matrix.shape[1]
    sides = [side for side in range(LEAST_SIDE, isqrt(columns) + 1) if columns % side**2 == 0]
    trial = matrix[: max(1, SIDE_TRIAL_NUMBERS // columns)]
    if not sides or not trial.any():
        return 0
    bits = {side: _trial_bits(trial, columns_of(matrix.shape, side)) for side in (0, *sides)}
    best = min(bits, key=bits.__getitem__)
    return best if bits[best] + LEAST_SAVED_BITS < bits[0] else 0


def _trial_bits(matrix: np.ndarray, columns: Columns) -> int:
    coder = RangeWriter()
    code_tensor(coder, first_code(matrix, TensorCode(0), SIDE_TRIAL_STRENGTH), columns, len(matrix), matrix)
    return coder.used_bits()


def _in_body(tensor: WeightTensor, entry: Entry) -> bytes:
    """The numbers that stand among those of the body: its own, or those of its quantizer."""
    if isinstance(tensor.held, StoredTensor):
        return np.array(numbers_of(tensor.held.quantizer)).astype(entry.body_type).tobytes()
    if tensor.dtype == "bfloat16":
        return (np.ascontiguousarray(tensor.held).view(np.uint32) >> 16).astype(entry.body_type).tobytes()
    return tensor.held.astype(entry.body_type).tobytes()


def _check(weights: StoredWeights) -> None:
    """Refuse what neither the header nor the models can hold."""
    for name, tensor in weights.tensors.items():
        integers = tensor.integers
        if integers is not None and np.abs(integers.astype(np.int64)).max(initial=0) > LARGEST:
            raise ArtifactError(f"tensor {name} holds integers beyond ±{LARGEST}: store its numbers as they are")


def _write_header(header: WeightsHeader) -> bytes:
    """The header's bytes, after checking that a reader finds the same in them."""
    try:
        written = write_header(header)
        found = read_header(DescriptorReader(written), written)
    except (ArtifactError, ValueError) as error:
        raise ArtifactError(f"the format cannot hold these weights: {error}") from error
    if list(found.entries.items()) != list(header.entries.items()):
        raise ArtifactError("the format cannot hold these weights: they would come back as others")
    return written
