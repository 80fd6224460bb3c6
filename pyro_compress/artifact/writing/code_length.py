"""What integers of a decision take in its file, by the entropy coder's own models.

The coder learns as it goes: how likely a weight is not zero follows from what was coded before it in its row, column,
channel and place in the image, and how likely a size from those counted so far (`FORMAT.md`, parts 3.3 and 3.4).  What
it expects of every weight while it codes the integers of a decision is the price of an integer in that file, and gives
a differentiable estimate of its length, once prices between integers are interpolated (`inference.finetuning.grid`).
"""

from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.artifact.format.coding import SMALL_TOKENS, UNIT, Values, split, token_range
from pyro_compress.artifact.format.header import ALL_ZERO, code_of
from pyro_compress.artifact.format.layout import Columns
from pyro_compress.artifact.format.pattern import code_matrix
from pyro_compress.artifact.format.stream import RangeWriter, tensor_models
from pyro_compress.artifact.writing.encode import choose_code, first_code
from pyro_compress.artifact.writing.rate_distortion import what_is_left
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.quantizers import Quantizer, stored_as
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.unlayered import Unlayered

SIGN_BITS = 1.0


@dataclass(frozen=True, eq=False)
class CodeLength:
    """Bits that integers of one tensor of shape S take.

    Attributes:
        zero: float64, S: of 0.
        one: float64, S: of ±1, with its sign and its size.
        further: float64, (K,): what k + 1 takes more than k, for k from 1 on; beyond K as the last.
    """

    zero: np.ndarray
    one: np.ndarray
    further: np.ndarray


def code_lengths(architecture: Architecture | Unlayered, decision: Decision) -> dict[str, CodeLength]:
    """By name of the parameter, of those that are on grids and whose integers are not all zero.

    Weights that are not in the file, since nothing reads their unit or it reads nothing, are as dear as the dearest of
    their tensor.
    """
    tensors, index, columns = what_is_left(architecture, decision)
    names = {name: architecture.parameter(name) for name in index} if isinstance(architecture, Architecture) else {}
    found = {}
    for name, where in index.items():
        parameter, tensor = names.get(name, name), tensors[name]
        quantizer = decision.sites[parameter].quantizer
        if quantizer is not None and tensor.integers is not None and tensor.integers.any():
            here = _of_matrix(tensor, quantizer, columns[name])
            found[parameter] = _in_place(here, decision.sites[parameter].value.shape, where)
    return found


def _of_matrix(tensor: StoredTensor, quantizer: Quantizer, columns: Columns) -> CodeLength:
    """Of what is in the file, (rows, columns)."""
    assert tensor.integers is not None
    matrix = np.ascontiguousarray(tensor.integers.reshape(len(tensor.integers), -1), np.int32)
    code = first_code(matrix, code_of(stored_as(quantizer)), choose_code(tensor, columns).strength)
    assert code.density != ALL_ZERO
    if code.top_token + 1 < SMALL_TOKENS:
        # one size more than there is, so that it has a price
        code = replace(code, top_token=code.top_token + 1)
    pattern, values = tensor_models(code, columns)
    ones = np.empty(matrix.shape)

    def note(block: slice, part: np.ndarray, likely: np.ndarray) -> None:
        ones[block, part] = likely / UNIT

    code_matrix(RangeWriter(), len(matrix), columns, pattern, values, matrix.copy(), note)
    sizes = _size_bits(values, int(np.abs(matrix).max()))
    return CodeLength(-np.log2(1 - ones), -np.log2(ones) + SIGN_BITS + sizes[0], np.diff(sizes))


def _size_bits(values: Values, largest: int) -> np.ndarray:
    """Of |q| = 1, 2, … up to one more than the largest; never falling, so that no weight is paid for growing."""
    token_bits = -np.log2(values.size_frequencies())
    sizes = np.arange(largest + 1)
    token = np.minimum(split(sizes)[0], len(token_bits) - 1)
    return np.maximum.accumulate(token_bits[token] + token_range(token)[1])


def _in_place(here: CodeLength, shape: tuple[int, ...], where: tuple[np.ndarray, ...]) -> CodeLength:
    """In the shape of the original tensor."""
    zero, one = np.zeros(shape), np.full(shape, here.one.max())
    zero[where] = here.zero.reshape(zero[where].shape)
    one[where] = here.one.reshape(one[where].shape)
    return CodeLength(zero, one, here.further)
