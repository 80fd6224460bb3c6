"""The optional section that keeps the posterior: a power of two near the standard deviation of every stored weight.

`FORMAT.md`, part 3.6, is the specification.  Encoder and decoder run this same code.
"""

from collections.abc import Mapping

import numpy as np

from pyro_compress.artifact.format.coding import UNIT, Coder, frequencies
from pyro_compress.artifact.format.layout import Columns, row_blocks
from pyro_compress.errors import ArtifactError
from pyro_compress.network.quantizers import STEP_EXPONENTS
from pyro_compress.network.stored import StoredTensor

DEVIATIONS_FLAG = 1
LEVEL_BITS = 5
EXPONENT_BITS = 7


def code_deviations(
    coder: Coder,
    tensors: Mapping[str, StoredTensor],
    columns: Mapping[str, Columns],
    given: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """Code the exponents of all tensors that have them, int8 in the tensor's shape; `given` is None for a reader.

    Raises:
        ArtifactError: the section says something in another way than a writer does, or nothing.
    """
    found = {}
    for name, tensor in tensors.items():
        nonzero = (tensor.dense() != 0).reshape(len(tensor.dense()) if tensor.shape else 1, -1)
        if not nonzero.any():
            continue
        has = None if given is None else int(name in given)
        if _number(coder, 1, has):
            wanted = None if given is None else given[name].reshape(nonzero.shape)
            found[name] = _tensor(coder, name, nonzero, wanted).reshape(tensor.shape)
    if not found:
        raise ArtifactError("the file declares deviations and holds none")
    return found


def _tensor(coder: Coder, name: str, nonzero: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    held = None if given is None else (int(given[nonzero].min()), int(given[nonzero].max()))
    if held is not None and held[1] - held[0] >= 1 << LEVEL_BITS:
        raise ArtifactError(f"deviations of {name} go from 2**{held[0]} to 2**{held[1]}, {1 << LEVEL_BITS} octaves fit")
    start = STEP_EXPONENTS.start
    lowest = start + _number(coder, EXPONENT_BITS, None if held is None else held[0] - start)
    levels = 1 + _number(coder, LEVEL_BITS, None if held is None else held[1] - held[0])
    if lowest + levels - 1 not in STEP_EXPONENTS:
        raise ArtifactError(
            f"deviations of {name} reach 2**{lowest + levels - 1}, 2**{STEP_EXPONENTS[-1]} is the limit"
        )
    counts = np.zeros((levels + 1, levels), np.int64)
    prior = np.full(levels, 1 / levels)
    last = np.zeros(nonzero.shape[1], np.int64)
    out = np.zeros(nonzero.shape, np.int8)
    for block in row_blocks(*nonzero.shape) if levels > 1 else []:
        row, column = np.nonzero(nonzero[block])
        context, here = last[column], (row + block.start, column)
        token = coder.tokens(frequencies(counts, prior), context, None if given is None else given[here] - lowest)
        counts += np.bincount(context * levels + token, minlength=counts.size).reshape(counts.shape)
        last[column] = token + 1  # of several in a column the lowest row counts
        out[here] = token
    if levels > 1 and not (counts[:, 0].any() and counts[:, -1].any()):
        raise ArtifactError(f"the range of the deviations of {name} is wider than they are")
    return ((out + np.int8(lowest)) * nonzero).astype(np.int8)


def _number(coder: Coder, bits: int, value: int | None) -> int:
    """An integer in so many bits of probability one half, the highest first."""
    places = np.arange(bits - 1, -1, -1)
    wanted = None if value is None else (value >> places & 1).astype(bool)
    return int((coder.bits(np.full(bits, UNIT // 2), wanted).astype(np.int64) << places).sum())
