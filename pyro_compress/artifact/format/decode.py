"""Bytes → stored network, as `FORMAT.md` specifies.

Needs numpy, constriction and the standard library only, never torch.  Whatever is wrong with the bytes ends in an
`ArtifactError` with a sentence; nothing in a file is ever executed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pyro_compress.artifact.format.codebook import levels_at
from pyro_compress.artifact.format.container import unwrap
from pyro_compress.artifact.format.deviations import DEVIATIONS_FLAG, code_deviations
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    WEIGHTS_MARK,
    Header,
    quantizer_of,
)
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.layout import tensor_columns
from pyro_compress.artifact.format.stream import RangeReader, code_selections, code_tensor
from pyro_compress.errors import ArtifactError, printable
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes

SLACK_BYTES = 16
NUMBERS_PER_BYTE_BITS = 19
NO_LAYERS = (
    "the file holds weights and no layers, so nothing can run it by itself: put them into your own module, "
    "pc.load(file).load_into(module), or read them with pc.unpack(file)"
)


@dataclass(frozen=True)
class Section:
    """What one part of a file costs.

    Attributes:
        name: "container", "header", "selections", a tensor's name or "deviations".
        shape: the tensor's shape; () for the other parts.
        nonzero: how many of its numbers are not zero.
        distinct: how many different numbers it holds.
        file_bytes: its share of the file, fractions included; all sections sum to the file's length.
        entropy_bytes: order-0 entropy of its integers, the size of an ideal coder that knows their histogram and
            nothing else; 4 bytes per number for float32; the same as file_bytes for parts without numbers.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    distinct: int
    file_bytes: float
    entropy_bytes: float


def decode(data: bytes) -> StoredNetwork:
    """The network that a compressed file holds.

    Raises:
        ArtifactError: `data` is not a complete and intact file of this format and version, or holds weights alone.
    """
    return _decode(data, None)


def decode_sections(data: bytes) -> tuple[StoredNetwork, list[Section]]:
    """The network, and what each part of the file costs."""
    sections: list[Section] = []
    return _decode(data, sections), sections


def _decode(data: bytes, sections: list[Section] | None) -> StoredNetwork:
    """The network; what each part of the file costs goes into `sections`, if that is given."""
    body = unwrap(data)
    if body.startswith(WEIGHTS_MARK):
        raise ArtifactError(NO_LAYERS)
    reader = HeaderReader(body)
    header = reader.header()
    floats, start = _floats(header, body, reader.position)
    shapes = header.shapes
    coded = sum(prod(shapes[name]) for name, code in header.codes.items() if code.density != ALL_ZERO)
    check_plausible(coded, len(body) - start)
    tied = {name: code.tied for name, code in header.codes.items() if code.tied}
    coder = RangeReader(body[start:])
    bits = [coder.used_bits()]
    try:
        architecture = Architecture(header.input_shape, code_selections(coder, header, None), header.code)
        bits.append(coder.used_bits())
        columns = tensor_columns(architecture, header.image_side)
        tensors: dict[str, StoredTensor] = {}
        for name, shape in tensor_shapes(architecture).items():
            code = header.codes[name]
            if code.tied:
                tensors[name] = tensors[code.tied].reshaped(shape)
            elif code.is_float:
                tensors[name] = StoredTensor(floats=floats[name].reshape(shape))
            else:
                numbers = code_tensor(coder, code, columns[name], shape[0], None)
                if code.codebook:
                    numbers = levels_at(numbers, code.codebook)
                tensors[name] = StoredTensor(numbers.reshape(shape), quantizer_of(code, floats[name]))
            bits.append(coder.used_bits())
        deviations: dict[str, np.ndarray] = {}
        if header.flags & DEVIATIONS_FLAG:
            own = {name: tensor for name, tensor in tensors.items() if name not in tied}
            deviations = code_deviations(coder, own, columns, None)
            for name, first in tied.items():
                if first in deviations:
                    deviations[name] = deviations[first].reshape(tensors[name].shape)
        bits.append(coder.used_bits())
        coder.check_end()
        network = StoredNetwork(architecture, tensors, deviations)
    except (ValueError, MemoryError) as error:
        raise ArtifactError(f"the file does not hold a network that fits together: {error}") from error
    if sections is not None:
        sections += _sections(network, len(data), reader.position, np.diff(bits) / 8, floats, tied)
    return network


def _sections(
    network: StoredNetwork,
    file_bytes: int,
    header_bytes: int,
    stream_bytes: np.ndarray,
    floats: Mapping[str, np.ndarray],
    tied: Collection[str],
) -> list[Section]:
    """What each part costs; `stream_bytes` are those of the selections, of every tensor, and of the deviations."""
    selections, *each, last = map(float, stream_bytes)
    sections = [Section("header", (), 0, 0, header_bytes, header_bytes)]
    sections.append(Section("selections", (), 0, 0, selections, selections))
    for (name, tensor), size in zip(network.tensors.items(), each, strict=True):
        found = _section(name, tensor, size + floats[name].nbytes)
        sections.append(replace(found, entropy_bytes=0.0) if name in tied else found)
    if network.deviations:
        sections.append(_deviations_section(network.tensors, network.deviations, last))
    rest = file_bytes - sum(section.file_bytes for section in sections)
    return [Section("container", (), 0, 0, rest, rest), *sections]


def _floats(header: Header, body: bytes, start: int) -> tuple[dict[str, np.ndarray], int]:
    """The float32 numbers of each tensor, of its quantizer or its own, and where the stream starts."""
    found: dict[str, np.ndarray] = {}
    for name, shape in header.shapes.items():
        count = header.codes[name].floats(shape)
        if start + 4 * count > len(body):
            raise ArtifactError(
                f"the file ends inside tensor {printable(name)}: {4 * count} bytes expected, {len(body) - start} left"
            )
        found[name] = np.frombuffer(body, "<f4", count, start).astype(np.float32)
        if not np.isfinite(found[name]).all():
            raise ArtifactError(
                f"tensor {printable(name)} holds NaN or infinite values: the file was written by a faulty program"
            )
        start += 4 * count
    return found, start


def check_plausible(numbers: int, stream_bytes: int) -> None:
    """Refuse early what the stream cannot hold: a number costs at least −log₂(1 − 2⁻¹⁶) bits, over 2⁻¹⁶."""
    if numbers > (stream_bytes + SLACK_BYTES) << NUMBERS_PER_BYTE_BITS:
        raise ArtifactError(f"the file declares {numbers} coded numbers, more than its {stream_bytes} bytes can hold")


def section_of(name: str, numbers: np.ndarray, file_bytes: float, *, is_coded: bool) -> Section:
    """Of a tensor: integers if it is coded, else the numbers that stand as they are."""
    nonzero = int(np.count_nonzero(numbers))
    if not is_coded:
        return Section(name, numbers.shape, nonzero, len(np.unique(numbers)), file_bytes, file_bytes)
    return Section(name, numbers.shape, nonzero, *_spread(numbers, file_bytes))


def _section(name: str, tensor: StoredTensor, file_bytes: float) -> Section:
    numbers = tensor.integers if tensor.integers is not None else tensor.floats
    assert numbers is not None
    return section_of(name, numbers, file_bytes, is_coded=tensor.integers is not None)


def _deviations_section(
    tensors: Mapping[str, StoredTensor], deviations: Mapping[str, np.ndarray], stream_bytes: float
) -> Section:
    held = np.concatenate([exponents[tensors[name].dense() != 0] for name, exponents in deviations.items()])
    return Section("deviations", (), held.size, *_spread(held, stream_bytes))


def _spread(integers: np.ndarray, file_bytes: float) -> tuple[int, float, float]:
    """How many different ones there are, the bytes they took, and the bytes of their order-0 entropy."""
    counts = np.unique(integers, return_counts=True)[1]
    share = counts / max(1, counts.sum())
    return len(counts), file_bytes, float(-(counts * np.log2(share)).sum() / 8)
