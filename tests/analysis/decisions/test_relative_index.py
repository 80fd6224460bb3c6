"""Deep Compression's own size: a layer by hand, the paper's figure, and what it says of a whole decision."""

import numpy as np
import pytest

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.relative_index import deep_compression_bytes, with_fillers
from pyro_compress.analysis.decisions.weight_sharing import weight_sharing
from pyro_compress.network.quantizers import Codebook, Quantizer


def site(value: np.ndarray, quantizer: Quantizer | None = None) -> SiteDecision:
    bits = np.where(value != 0, 32, 0).astype(np.uint8)
    held = SiteDecision(value.astype(np.float32), np.zeros(value.shape, np.float32), bits)
    return held if quantizer is None else held.on(quantizer)


def test_the_figure_of_a_relative_index() -> None:
    """Figure 2 of Han et al. (2016): 3.4, 0.9 and 1.7 at 1, 4 and 15, differences of 3 bits, a filler on the way."""
    numbers = np.zeros(17)
    numbers[[1, 4, 15]] = 3.4, 0.9, 1.7
    stored, distances = with_fillers(numbers[1:], 3)  # the figure counts from the entry at 0
    assert sorted(stored.tolist()) == [0.0, 0.9, 1.7, 3.4]
    assert sorted(distances.tolist()) == [1, 3, 3, 8]


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_positions_come_back_from_the_distances(bits: int) -> None:
    numbers = np.where(np.random.default_rng(bits).random(3000) < 0.03, 1.0, 0.0)
    stored, distances = with_fillers(numbers, bits)
    assert distances.min() >= 1 and distances.max() <= 1 << bits
    assert int((stored != 0).sum()) == int(numbers.sum())
    assert distances.sum() == np.flatnonzero(numbers).max() + 1
    longest = np.diff(np.flatnonzero(numbers), prepend=-1).max()
    assert ((stored == 0).any()) == bool(longest > 1 << bits)


def test_a_layer_by_hand() -> None:
    """Values 5, 5, 2, 0 (filler), 5 at distances 1, 4, 2, 32, 11; 100 biases of 32 bits."""
    value = np.zeros((2, 30))
    value.ravel()[[0, 4, 6, 49]] = 5, 5, 2, 5
    sites = {"w": site(value, Codebook((2.0, 5.0))), "b": site(np.ones(100))}
    found = deep_compression_bytes(Decision(sites))
    assert found.pruned == 400 + -(-5 * (32 + 5) // 8)
    assert found.quantised == 400 + -(-(5 * (2 + 5) + 3 * 32) // 8)
    # values in 1, 2, 2 bits; five different distances in 2, 2, 2, 3, 3
    assert found.huffman == 400 + -(-((3 * 1 + 2 + 2) + (3 * 2 + 2 * 3) + 3 * 32) // 8)
    as_floats = deep_compression_bytes(Decision({"w": site(value), "b": sites["b"]}))
    assert as_floats.quantised == as_floats.pruned == found.pruned
    assert as_floats.huffman == 400 + -(-(5 * 32 + 12) // 8)


def test_convolutions_have_an_index_of_their_own() -> None:
    value = np.zeros((1, 1, 10, 10))
    value.ravel()[[3, 93]] = 1
    decision = Decision({"conv": site(value, Codebook((1.0,)))})
    assert deep_compression_bytes(decision).pruned == 2 * (32 + 8) // 8
    assert deep_compression_bytes(decision, convolution_bits=5).pruned == -(-4 * (32 + 5) // 8)


def test_the_first_layer_of_lenet_300_100_as_printed() -> None:
    """235,200 weights of which 8 % are left, 64 values, 5 bits of distance: 3.1 % of the float32 size are printed."""
    random = np.random.default_rng(0)
    value = random.normal(size=(300, 784)) * (random.random((300, 784)) < 0.08)
    shared = weight_sharing(Decision({"ip1.weight": site(value)}), 64, real=True, start="linear")
    percent = 100 * deep_compression_bytes(shared).quantised / (4 * value.size)
    assert percent == pytest.approx(3.1, abs=0.2)
