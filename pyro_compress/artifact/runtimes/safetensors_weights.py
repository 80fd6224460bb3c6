"""Tensors of any element type from and to safetensors, without torch.

safetensors' own functions for numpy know no bfloat16, so its reader's raw parts are taken, and the file is put together
here: 8 bytes for the length of the header, little endian, the header as JSON, and the tensors' bytes.
"""

import json
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, deserialize

from pyro_compress.errors import ArtifactError
from pyro_compress.network.stored_weights import ELEMENT_TYPES, Given, StoredWeights, item_bytes

CODES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I64": "int64",
    "BOOL": "bool",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
}
ALIGNMENT = 8


def read_safetensors(data: bytes) -> dict[str, Given]:
    """Tensors by name, in the order of the names.

    Raises:
        ArtifactError: the data are no safetensors file, or a tensor's type is none of `ELEMENT_TYPES`.
    """
    try:
        parts = dict(deserialize(data))
    except SafetensorError as error:
        raise ArtifactError(f"not a safetensors file: {error}") from error
    found = {}
    for name, part in sorted(parts.items()):
        if part["dtype"] not in CODES:
            raise ArtifactError(
                f"tensor {name} is of type {part['dtype']}, and a file holds {', '.join(CODES)}: convert it first"
            )
        dtype = CODES[part["dtype"]]
        if dtype == "bfloat16":
            numbers = (np.frombuffer(part["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            kind = np.dtype(ELEMENT_TYPES[dtype])
            numbers = np.frombuffer(part["data"], kind.newbyteorder("<")).astype(kind)
        found[name] = Given(dtype, numbers.reshape(part["shape"]))
    return found


def write_safetensors(weights: StoredWeights) -> bytes:
    """A safetensors file; the same weights give the same bytes.  Tied tensors are there under each of their names."""
    held = {name: (tensor.dtype, _bytes(tensor.dtype, tensor.numbers())) for name, tensor in weights.tensors.items()}
    # of large elements first, so that all are aligned
    order = sorted(held, key=lambda name: -item_bytes(held[name][0]))
    codes = {dtype: code for code, dtype in CODES.items()}
    header, at = {}, 0
    for name in order:
        dtype, data = held[name]
        shape = list(weights.tensors[name].shape)
        header[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + b"".join(held[name][1] for name in order)


def _bytes(dtype: str, numbers: np.ndarray) -> bytes:
    if dtype == "bfloat16":
        return (np.ascontiguousarray(numbers).view(np.uint32) >> 16).astype("<u2").tobytes()
    return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def as_given(tensors: Mapping[str, np.ndarray]) -> dict[str, Given]:
    """numpy arrays by name with their element types.

    Raises:
        ArtifactError: an array's type is none of `ELEMENT_TYPES`.
    """
    found = {}
    for name, numbers in tensors.items():
        dtype = numbers.dtype.newbyteorder("=")
        if dtype.name not in ELEMENT_TYPES:
            raise ArtifactError(
                f"tensor {name} is of type {dtype.name}, and a file holds {', '.join(ELEMENT_TYPES)}: convert it first"
            )
        found[name] = Given(dtype.name, np.asarray(numbers, dtype))
    return found
