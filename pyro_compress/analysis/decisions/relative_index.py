"""The size that Deep Compression computes of a pruned network with shared weights: a formula, no file.

A layer stores its weights that are not zero, in row-major order, each with the distance to the one before, which b bits
reach up to 2^b; where it is larger, filler zeros are stored on the way, like weights.  With n stored numbers (fillers
among them) of k different values,

    pruned     n (32 + b)
    quantised  n (⌈log₂ k⌉ + b) + 32 k
    huffman    H(values) + H(distances) + 32 k

bits, H the length in a Huffman code of its own, whose table is not counted.  Layers without a quantizer have
numbers of 32 bits and no codebook.  All other parameters, such as biases, count 32 bits each.  Headers and shapes are
not counted (Han et al. 2016, sections 2 to 4 and tables 4 and 5).
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision

CONVOLUTION_INDEX_BITS, DENSE_INDEX_BITS = 8, 5


@dataclass(frozen=True)
class DeepCompressionBytes:
    """Bytes, rounded up, after each of the paper's three stages."""

    pruned: int
    quantised: int
    huffman: int


def deep_compression_bytes(
    decision: Decision, *, convolution_bits: int = CONVOLUTION_INDEX_BITS, dense_bits: int = DENSE_INDEX_BITS
) -> DeepCompressionBytes:
    """The paper's size of what a decision stores.

    Args:
        decision: of the original network, from which nothing but zeros is left out.
        convolution_bits, dense_bits: b, the bits of a distance.
    """
    totals = np.zeros(3, dtype=np.int64)
    for site in decision.sites.values():
        if site.value.ndim > 1:
            totals += _layer_bits(site, convolution_bits if site.value.ndim > 2 else dense_bits)
        else:
            totals += FLOAT_BITS * site.value.size
    return DeepCompressionBytes(*(math.ceil(bits / 8) for bits in totals.tolist()))


def _layer_bits(site: SiteDecision, index_bits: int) -> np.ndarray:
    """(3,) bits of one weight tensor."""
    numbers, distances = with_fillers(site.stored().ravel(), index_bits)
    count, indices = len(numbers), huffman_bits(distances)
    pruned = count * (FLOAT_BITS + index_bits)
    if site.quantizer is None:
        return np.array([pruned, pruned, count * FLOAT_BITS + indices])
    values = np.unique(numbers).size
    book, each = FLOAT_BITS * values, math.ceil(math.log2(max(values, 1)))
    return np.array([pruned, count * (each + index_bits) + book, huffman_bits(numbers) + indices + book])


def with_fillers(numbers: np.ndarray, index_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """What a relative index stores of (weights,) numbers: those that are not zero and fillers, and their distances.

    Fillers come last in both, since their order is of no matter to a code of single symbols.
    """
    places = np.flatnonzero(numbers)
    gaps = np.diff(places, prepend=-1)
    fillers = (gaps - 1) >> index_bits
    total = int(fillers.sum())
    stored = np.concatenate([numbers[places], np.zeros(total, dtype=numbers.dtype)])
    return stored, np.concatenate([gaps - (fillers << index_bits), np.full(total, 1 << index_bits)])


def huffman_bits(symbols: np.ndarray) -> int:
    """Total length of `symbols` (any shape) in their own Huffman code, without its table.

    The sum of the weights of all inner nodes of the code's tree; one distinct symbol takes one bit each time.
    """
    counts = np.unique(symbols, return_counts=True)[1].tolist()
    if len(counts) == 1:
        return int(counts[0])
    heapq.heapify(counts)
    total = 0
    while len(counts) > 1:
        merged = heapq.heappop(counts) + heapq.heappop(counts)
        total += merged
        heapq.heappush(counts, merged)
    return int(total)
