"""What other ways of storing make of the same numbers.

Each is given what the compressed file holds: the tensors that structured removal left, as integers where the decision
has a grid, and which inputs are kept.  None is charged for architecture, names, shapes and grid steps, which ours pays.
"""

import heapq
import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import zstandard

from pyro_compress.network.layers import Select
from pyro_compress.network.stored import StoredNetwork

GAP_BITS = range(2, 9)
LENGTH_BITS = 5

NNCODEC = """
import json, sys
import numpy as np
from nncodec import nnc
tensors = dict(np.load(sys.argv[1]))
sizes = []
for row_skipping in (True, False):
    for param_opt in (True, False):
        stream = nnc.compress(tensors, bitstream_path=sys.argv[1] + ".nnc", use_dq=False, return_bitstream=True,
                              row_skipping=row_skipping, param_opt=param_opt)
        back = nnc.decompress(stream)
        assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items()), "not the same integers"
        sizes.append(len(stream))
print(json.dumps(min(sizes)))
"""


def integers_of(network: StoredNetwork) -> dict[str, np.ndarray]:
    """The tensors that are on a grid."""
    return {name: tensor.integers for name, tensor in network.tensors.items() if tensor.integers is not None}


def floats_of(network: StoredNetwork) -> bytes:
    """The tensors that are not, raw."""
    return b"".join(tensor.floats.tobytes() for tensor in network.tensors.values() if tensor.floats is not None)


def masks_of(network: StoredNetwork) -> list[np.ndarray]:
    """Which entries each selection keeps, as 0 and 1."""
    masks = []
    for layer, shape in zip(network.architecture.layers, network.architecture.shapes(), strict=False):
        if isinstance(layer, Select):
            masks.append(np.zeros(shape[0], np.int32))
            masks[-1][list(layer.indices)] = 1
    return masks


def int8_zstd(network: StoredNetwork) -> int:
    """Bytes of a zstd frame at level 19: integers as int8 (or int16, int32 if they must), float32, packed masks."""
    content = bytearray()
    for integers in integers_of(network).values():
        largest = int(np.abs(integers).max(initial=0))
        kind = np.int8 if largest < 128 else np.int16 if largest < 2**15 else np.int32
        content += integers.astype(kind).tobytes()
    content += floats_of(network)
    for mask in masks_of(network):
        content += np.packbits(mask.astype(bool)).tobytes()
    return len(zstandard.ZstdCompressor(level=19, write_content_size=False).compress(bytes(content)))


def relative_index(network: StoredNetwork) -> int:
    """Bytes of Deep Compression's coding (Han et al. 2016): gaps between non-zero numbers, Huffman on gaps and values.

    Gaps have a fixed number of bits; where one does not fit, a zero is stored in between.  Each tensor takes the
    number of bits, and the plain or the sparse form, that suit it best.  A table of a Huffman code counts 5 bits of
    code length per entry, and for values their number in the smallest width that holds all.
    """
    bits = sum(_tensor_bits(integers.ravel()) for integers in integers_of(network).values())
    bits += sum(min(len(mask), _tensor_bits(mask, values=False)) for mask in masks_of(network))
    return -(-bits // 8) + len(floats_of(network))


def _tensor_bits(numbers: np.ndarray, values: bool = True) -> int:
    plain = _huffman_bits(numbers, True) if values else len(numbers)
    places = np.flatnonzero(numbers)
    return min([plain, *(_sparse_bits(numbers, places, gap_bits, values) for gap_bits in GAP_BITS)])


def _sparse_bits(numbers: np.ndarray, places: np.ndarray, gap_bits: int, values: bool) -> int:
    gaps, longest = np.diff(places, prepend=-1) - 1, 1 << gap_bits
    fillers = gaps // longest
    gap_symbols = np.concatenate([gaps % longest, np.full(int(fillers.sum()), longest - 1)])
    bits = 32 + _huffman_bits(gap_symbols, False) + longest * LENGTH_BITS  # 32: how many there are
    if values or fillers.any():
        bits += _huffman_bits(np.concatenate([numbers[places], np.zeros(int(fillers.sum()), np.int32)]), True)
    return bits


def _huffman_bits(symbols: np.ndarray, table: bool) -> int:
    """Bits of the symbols under their Huffman code, and of a table with values and code lengths if one is needed."""
    distinct, counts = np.unique(symbols, return_counts=True)
    if len(distinct) == 0:
        return 0
    order, total = count(), 0
    heap = [(int(number), next(order)) for number in counts]
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap)[0] + heapq.heappop(heap)[0]
        total += joined
        heapq.heappush(heap, (joined, next(order)))
    width = int(np.abs(distinct).max()).bit_length() + 1
    return total + (len(distinct) * (width + LENGTH_BITS) if table else 0)


def nncodec(network: StoredNetwork, python: Path) -> int:
    """Bytes of the ISO/IEC 15938-17 codec for the integers, which come back exactly; the rest as in `int8_zstd`.

    Args:
        python: an interpreter that has `nncodec`, which needs another numpy than we do.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integers.npz"
        np.savez(path, **integers_of(network))  # type: ignore[arg-type]
        done = subprocess.run([python, "-c", NNCODEC, path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nncodec failed under {python}: {done.stderr.strip().splitlines()[-1]}")
    rest = floats_of(network) + b"".join(np.packbits(mask.astype(bool)).tobytes() for mask in masks_of(network))
    packed = len(zstandard.ZstdCompressor(level=19, write_content_size=False).compress(rest)) if rest else 0
    return int(json.loads(done.stdout.strip().splitlines()[-1])) + min(len(rest), packed)


def competitors(nncodec_python: Path | None) -> dict[str, Callable[[StoredNetwork], int]]:
    """Name → bytes of a network; nncodec only if there is an interpreter for it."""
    found: dict[str, Callable[[StoredNetwork], int]] = {"int8 + zstd -19": int8_zstd, "CSR + Huffman": relative_index}
    return found | ({"nncodec": partial(nncodec, python=nncodec_python)} if nncodec_python else {})
