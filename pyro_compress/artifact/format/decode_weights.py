"""Bytes → weights of any module, as `FORMAT.md` specifies; `decode.py` is for networks.  Without torch, as that."""

from math import prod

import numpy as np

from pyro_compress.artifact.format.codebook import levels_at
from pyro_compress.artifact.format.container import unwrap
from pyro_compress.artifact.format.decode import Section, check_plausible, decode, section_of
from pyro_compress.artifact.format.descriptors import DescriptorReader
from pyro_compress.artifact.format.header import WEIGHTS_MARK, quantizer_of
from pyro_compress.artifact.format.stream import RangeReader, code_tensor
from pyro_compress.artifact.format.weights_header import Entry, WeightsHeader, read_header
from pyro_compress.errors import ArtifactError, printable
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.network.stored_weights import ELEMENT_TYPES, StoredWeights, WeightTensor


def decode_any(data: bytes) -> StoredNetwork | StoredWeights:
    """What a file of either kind holds.

    Raises:
        ArtifactError: `data` is not a complete and intact file of this format and version.
    """
    body = unwrap(data)
    return _decode(body)[0] if body.startswith(WEIGHTS_MARK) else decode(data)


def decode_weights(data: bytes) -> StoredWeights:
    """The weights that a file holds.

    Raises:
        ArtifactError: as for `decode_any`, or it holds a network.
    """
    return _decode(unwrap(data))[0]


def decode_weights_sections(data: bytes) -> tuple[StoredWeights, list[Section]]:
    """The weights, and what each part of the file costs; tied tensors are there once."""
    weights, header_bytes, body_bytes, bits = _decode(unwrap(data))
    sections = [Section("header", (), 0, 0, header_bytes, header_bytes)]
    for (name, tensor), floats, before, after in zip(weights.single(), body_bytes, bits[:-1], bits[1:], strict=True):
        numbers = tensor.numbers() if tensor.integers is None else tensor.integers
        sections.append(section_of(name, numbers, floats + (after - before) / 8, is_coded=tensor.integers is not None))
    rest = len(data) - sum(section.file_bytes for section in sections)
    return weights, [Section("container", (), 0, 0, rest, rest), *sections]


def _decode(body: bytes) -> tuple[StoredWeights, int, list[int], list[int]]:
    """The weights, bytes of the header, of each tensor's numbers in the body, and bits read of the stream so far."""
    reader = DescriptorReader(body)
    header = read_header(reader, body)
    held, start = _held(header, body, reader.position)
    coded = sum(prod(entry.shape) for _, entry in header.single() if entry.is_coded)
    check_plausible(coded, len(body) - start)
    coder = RangeReader(body[start:])
    bits, tensors = [coder.used_bits()], dict[str, WeightTensor]()
    try:
        for name, entry in header.entries.items():
            if isinstance(entry, str):
                tensors[name] = tensors[entry]
                continue
            tensors[name] = _tensor(coder, entry, held[name])
            bits.append(coder.used_bits())
        coder.check_end()
    except (ValueError, MemoryError) as error:
        raise ArtifactError(f"the file does not hold weights: {error}") from error
    return StoredWeights(tensors), reader.position, [numbers.nbytes for numbers in held.values()], bits


def _tensor(coder: RangeReader, entry: Entry, held: np.ndarray) -> WeightTensor:
    if entry.code.is_float:
        return WeightTensor(entry.dtype, _numbers(held, entry).reshape(entry.shape))
    if entry.is_coded:
        integers = code_tensor(coder, entry.code, entry.columns(), entry.rows, None)
    else:
        integers = np.zeros(entry.shape, np.int32)
    if entry.code.codebook:
        integers = levels_at(integers, entry.code.codebook)
    return WeightTensor(entry.dtype, StoredTensor(integers.reshape(entry.shape), quantizer_of(entry.code, held)))


def _numbers(held: np.ndarray, entry: Entry) -> np.ndarray:
    """What stands in the body, as the type that numpy has for it."""
    if entry.dtype == "bfloat16":
        return (held.astype(np.uint32) << 16).view(np.float32)
    if entry.dtype == "bool" and held.max(initial=0) > 1:
        raise ArtifactError(f"a truth value is 0 or 1, found {held.max()}")
    return held.astype(np.float16 if held.dtype == "<f2" else ELEMENT_TYPES[entry.dtype])


def _held(header: WeightsHeader, body: bytes, start: int) -> tuple[dict[str, np.ndarray], int]:
    """What stands in the body of each tensor, its own numbers or those of its quantizer, and where the stream starts.

    Its own may be anything, as masks hold −∞; those of a quantizer are finite.
    """
    found: dict[str, np.ndarray] = {}
    for name, entry in header.single():
        count, kind = entry.body_count, entry.body_type
        if start + kind.itemsize * count > len(body):
            raise ArtifactError(
                f"the file ends inside tensor {printable(name)}: {kind.itemsize * count} bytes expected, "
                f"{len(body) - start} left"
            )
        found[name] = np.frombuffer(body, kind, count, start)
        start += found[name].nbytes
        if not entry.code.is_float:
            found[name] = found[name].astype(np.float32)
            if not np.isfinite(found[name]).all():
                raise ArtifactError(
                    f"the steps or levels of tensor {printable(name)} are NaN or infinite: a faulty program wrote it"
                )
    return found, start
