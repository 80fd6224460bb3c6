"""Stored network → bytes, as `FORMAT.md` specifies; the same network always gives the same bytes."""

from dataclasses import replace
from math import isqrt

import numpy as np

from pyro_compress.artifact.format.codebook import codebook_of, places_in
from pyro_compress.artifact.format.coding import FALLS, LARGEST, UNIT, split
from pyro_compress.artifact.format.container import contained
from pyro_compress.artifact.format.descriptors import codebook_bits
from pyro_compress.artifact.format.deviations import DEVIATIONS_FLAG, code_deviations
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    LEVELS,
    Header,
    TensorCode,
    code_of,
    numbers_of,
)
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.header_writer import HeaderWriter
from pyro_compress.artifact.format.layout import Columns, tensor_columns
from pyro_compress.artifact.format.pattern import DENSITIES, STRENGTHS, density
from pyro_compress.artifact.format.stream import RangeWriter, code_selections, code_tensor
from pyro_compress.errors import ArtifactError
from pyro_compress.network.layers import Select, describe
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tied_weights

MANY_NONZERO = 4096
TRIAL_NUMBERS = 1 << 19
TYPICAL_FALL = FALLS.index(13)


def encode(network: StoredNetwork) -> bytes:
    """The compressed file of a network.

    Args:
        network: what to store.

    Raises:
        ArtifactError: the format cannot hold the network; the sentence says which part and why.
    """
    _check(network)
    # the numbers of a code have no places
    sides = [0] if network.architecture.code else _image_sides(network.architecture.input_shape)
    files = [_encode(network, side) for side in sides]
    return min(files, key=len)


def _encode(network: StoredNetwork, image_side: int) -> bytes:
    architecture = network.architecture
    columns = tensor_columns(architecture, image_side)
    flags = DEVIATIONS_FLAG if network.deviations else 0
    layers = list(architecture.layers)
    header = Header(architecture.input_shape, image_side, layers, flags=flags, code=architecture.code)
    for position, layer in enumerate(architecture.layers):
        if isinstance(layer, Select):
            header.selected[position] = len(layer.indices)
    tied = tied_weights(network)
    header.codes = {
        name: TensorCode(tied=tied[name]) if name in tied else choose_code(network.tensors[name], columns[name])
        for name in columns
    }
    return encode_with(header, network)


def encode_with(header: Header, network: StoredNetwork) -> bytes:
    """The file of a network under given settings: `encode` picks them, and a reader finds them in a file's header."""
    columns = tensor_columns(network.architecture, header.image_side)
    written = _write_header(header)
    coder = RangeWriter()
    code_selections(coder, header, network.architecture.layers)
    floats = bytearray()
    for name, code in header.codes.items():
        if code.tied:
            continue
        tensor = network.tensors[name]
        if tensor.integers is not None:
            matrix = _matrix(tensor.integers, columns[name])
            if code.codebook:
                matrix = places_in(matrix, code.codebook)
            code_tensor(coder, code, columns[name], len(matrix), matrix)
        held = tensor.floats if tensor.floats is not None else np.array(numbers_of(tensor.quantizer))
        floats += held.astype("<f4").tobytes()
    if header.flags & DEVIATIONS_FLAG:
        own = {name: network.tensors[name] for name in columns if not header.codes[name].tied}
        code_deviations(coder, own, columns, network.deviations)
    return contained(written + bytes(floats) + coder.finish())


def _matrix(integers: np.ndarray, columns: Columns) -> np.ndarray:
    return integers.reshape(len(integers), len(columns))


def _image_sides(shape: tuple[int, ...]) -> list[int]:
    """Readings of the input worth trying: no images (0), and for a flat input one or three square channels."""
    sides = [0]
    if len(shape) == 1:
        for channels in (1, 3):
            side = isqrt(shape[0] // channels)
            if side > 1 and channels * side * side == shape[0]:
                sides.append(side)
    return sides


def choose_code(tensor: StoredTensor, columns: Columns) -> TensorCode:
    """The settings under which a tensor, or the first rows of a large one, takes the fewest bits.

    A codebook is tried where the integers leave out some that lie between them.
    """
    kind = code_of(tensor.quantizer)
    if tensor.integers is None:
        return kind
    matrix = _matrix(tensor.integers, columns)
    code, bits = _settings(matrix, kind, columns)
    codebook = codebook_of(matrix) if kind.form != LEVELS else ()
    if codebook:
        other, other_bits = _settings(places_in(matrix, codebook), kind, columns)
        if other_bits + codebook_bits(codebook) < bits:
            return replace(other, codebook=codebook)
    return code


def _settings(matrix: np.ndarray, kind: TensorCode, columns: Columns) -> tuple[TensorCode, int]:
    """Strengths are tried, then falls, which matter for few numbers only; the best ones, and what they take in bits."""
    code = first_code(matrix, kind)
    if code.density == ALL_ZERO:
        return code, 0
    trial = matrix[: max(1, TRIAL_NUMBERS // len(columns))]

    def bits(code: TensorCode) -> int:
        coder = RangeWriter()
        code_tensor(coder, code, columns, len(trial), trial)
        return coder.used_bits()

    tried = {code: bits(code) for code in (replace(code, strength=index) for index in range(len(STRENGTHS)))}
    code = min(tried, key=tried.__getitem__)
    if code.top_token and np.count_nonzero(matrix) <= MANY_NONZERO:
        tried |= {other: bits(other) for other in (replace(code, fall=index) for index in range(len(FALLS)))}
        code = min((replace(code, fall=index) for index in range(len(FALLS))), key=tried.__getitem__)
    taken = tried[code] * len(matrix) // len(trial)
    return (code if code.top_token else replace(code, fall=0)), taken


def first_code(matrix: np.ndarray, kind: TensorCode, strength: int = 0) -> TensorCode:
    """A kind with the settings that the numbers themselves give: their density and the token of the largest."""
    nonzero = int(np.count_nonzero(matrix))
    if not nonzero:
        return replace(kind, density=ALL_ZERO)
    start = min(range(DENSITIES), key=lambda index: abs(density(index) * matrix.size - nonzero * UNIT))
    top = int(split(np.abs(matrix).max(keepdims=True).ravel() - 1)[0][0])
    return replace(kind, density=start, strength=strength, top_token=top, fall=TYPICAL_FALL)


def _check(network: StoredNetwork) -> None:
    """Refuse what neither the header nor the models can hold."""
    try:
        shapes = network.architecture.shapes()
    except ValueError as error:
        raise ArtifactError(f"the network does not fit together: {error}") from error
    code = network.architecture.code
    if code is not None and (len(shapes[0]) != 1 or shapes[0][0] < code.least_width):
        raise ArtifactError(
            f"a {code.kind} code is a vector of at least {code.least_width} numbers, and the input has the shape "
            f"{shapes[0]}"
        )
    for layer, shape in zip(network.architecture.layers, shapes, strict=False):
        if isinstance(layer, Select):
            edges = np.array([-1, *layer.indices, shape[0]])
            if not (np.diff(edges) > 0).all():
                raise ArtifactError(f"a selection's indices must increase strictly from 0 on and stay below {shape[0]}")
    for name, tensor in network.tensors.items():
        if tensor.integers is not None and np.abs(tensor.integers.astype(np.int64)).max(initial=0) > LARGEST:
            raise ArtifactError(f"tensor {name} holds integers beyond ±{LARGEST}: use a larger grid step or float32")
        if tensor.floats is not None and not np.isfinite(tensor.floats).all():
            raise ArtifactError(f"tensor {name} holds NaN or infinite values, and every number in a file is finite")


def _write_header(header: Header) -> bytes:
    """The header's bytes, after checking that a reader finds the same in them."""
    try:
        written = HeaderWriter().header(header)
        layers = HeaderReader(written).header().layers
    except (ArtifactError, ValueError) as error:
        raise ArtifactError(f"the format cannot hold this network: {error}") from error
    for layer, found in zip(header.layers, layers, strict=True):
        if layer != found and not isinstance(layer, Select):
            raise ArtifactError(f"the format cannot hold {describe(layer)}: it would come back as {describe(found)}")
    return written
