"""The published rates: printed figures from printed architectures, codes and small networks by hand."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.rates import (
    LayerCount,
    coded_bits,
    description_length_bits,
    fast_prediction_rate,
    pruning_rate,
    published_rates,
    two_part_code_bits,
)
from pyro_compress.analysis.decisions.relative_index import huffman_bits
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Linear
from pyro_compress.network.quantizers import Uniform


@dataclass(frozen=True)
class Printed:
    """Weights per layer (outputs and what each reads) of a published architecture, and what the tables print."""

    original: int
    columns: tuple[int, ...]
    outputs: tuple[int, ...]
    bits: tuple[int, ...]
    pruning: int
    fast_prediction: int

    def dense(self) -> list[LayerCount]:
        rows = zip(self.columns, self.outputs, self.bits, strict=True)
        return [LayerCount(c * o, c * o, c, b) for c, o, b in rows]

    def sparse(self, kept: float) -> list[LayerCount]:
        """With kept weights of the original spread evenly over what is left."""
        share = kept * self.original / sum(layer.weights for layer in self.dense())
        return [LayerCount(x.weights, round(share * x.weights), x.columns, x.bits) for x in self.dense()]


LENET_300_100, LENET_5 = 784 * 300 + 300 * 100 + 100 * 10, 20 * 25 + 50 * 20 * 25 + 500 * 800 + 10 * 500
VGG_FILTERS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg_columns(filters: tuple[int, ...], dense: tuple[int, int]) -> tuple[int, ...]:
    return (*(9 * channels for channels in (3, *filters[:-1])), *dense)


def vgg(left: str, bits: str, pruning: int, fast_prediction: int) -> Printed:
    *filters, first, second = (int(size) for size in left.split("-"))
    original = sum(c * o for c, o in zip(vgg_columns(VGG_FILTERS, (512, 512)), (*VGG_FILTERS, 512, 10), strict=True))
    columns = vgg_columns(tuple(filters), (first, second))
    widths = tuple(int(width) for width in bits.split("-"))
    return Printed(original, columns, (*filters, second, 10), widths, pruning, fast_prediction)


GROUPS = {
    "GNJ LeNet-300-100": Printed(LENET_300_100, (278, 98, 13), (98, 13, 10), (8, 9, 14), 9, 36),
    "GHS LeNet-300-100": Printed(LENET_300_100, (311, 86, 14), (86, 14, 10), (13, 11, 10), 9, 23),
    "GHS LeNet-5": Printed(LENET_5, (25, 5 * 25, 76, 16), (5, 10, 16, 10), (10, 10, 14, 13), 156, 419),
    "GNJ VGG": vgg("63-64-128-128-245-155-63-26-24-20-14-12-11-11-15", "10-10-10-10-8-8-8-5-5-5-5-5-6-7-11", 14, 56),
    "GHS VGG": vgg("51-62-125-128-228-129-38-13-9-6-5-6-6-6-20", "11-12-9-14-10-8-5-5-6-6-6-8-11-17-10", 18, 59),
}
SPARSE_VD = {
    "LeNet-300-100": (Printed(LENET_300_100, (512, 114, 72), (114, 72, 10), (8, 11, 14), 21, 84), 0.022),
    "LeNet-5": (Printed(LENET_5, (25, 14 * 25, 242, 131), (14, 19, 131, 10), (13, 10, 8, 12), 63, 228), 0.007),
}


@pytest.mark.parametrize("printed", GROUPS.values(), ids=GROUPS)
def test_group_methods_come_out_as_printed(printed: Printed) -> None:
    assert math.floor(pruning_rate(printed.original, printed.dense())) == printed.pruning
    assert math.floor(fast_prediction_rate(printed.original, printed.dense())) == printed.fast_prediction


def test_the_one_group_result_that_its_printed_architecture_does_not_give() -> None:
    printed = Printed(LENET_5, (25, 8 * 25, 88, 13), (8, 13, 13, 10), (18, 10, 7, 9), 108, 361)
    assert pruning_rate(LENET_5, printed.dense()) == pytest.approx(430_500 / 4_074)
    assert pruning_rate(LENET_5, printed.dense()) == pytest.approx(printed.pruning, rel=0.025)
    assert fast_prediction_rate(LENET_5, printed.dense()) == pytest.approx(printed.fast_prediction, rel=0.02)


@pytest.mark.parametrize(("printed", "kept"), SPARSE_VD.values(), ids=SPARSE_VD)
def test_sparse_variational_dropout_is_counted_in_csc_format(printed: Printed, kept: float) -> None:
    assert math.floor(pruning_rate(printed.original, printed.sparse(kept))) == printed.pruning
    assert fast_prediction_rate(printed.original, printed.sparse(kept)) == pytest.approx(
        printed.fast_prediction, rel=0.04
    )


def test_csc_counts_values_row_indices_and_column_starts_only_where_that_is_less() -> None:
    assert LayerCount(weights=100, nonzero=10, columns=20).numbers == 2 * 10 + 20 + 1
    assert LayerCount(weights=100, nonzero=40, columns=20).numbers == 100


@pytest.mark.parametrize(
    ("counts", "bits"),
    [
        # lengths 1, 3, 3, 3, 4, 4 (Cormen et al., figure 16.3: 224,000 bits for 100,000 characters)
        ([45, 13, 12, 16, 9, 5], 224),
        ([4, 2, 1, 1], 4 * 1 + 2 * 2 + 1 * 3 + 1 * 3),
        ([7], 7),
        ([], 0),
    ],
)
def test_huffman_length(counts: list[int], bits: int) -> None:
    assert huffman_bits(np.repeat(np.arange(len(counts)), counts)) == bits


def test_huffman_length_is_within_a_bit_of_the_entropy() -> None:
    symbols = np.random.default_rng(0).geometric(0.3, 5_000)
    share = np.unique(symbols, return_counts=True)[1] / symbols.size
    entropy = -float((share * np.log2(share)).sum()) * symbols.size
    assert entropy <= huffman_bits(symbols) <= entropy + symbols.size


def test_a_dense_layer_is_coded_with_zero_as_a_cluster() -> None:
    clusters = np.tile([1, -1, 1, 0, 1, -1, 1, 2], 100)
    # 1: one bit, -1: two, 0 and 2: three; four clusters in the codebook
    assert coded_bits(clusters, 5) == 100 * (4 * 1 + 2 * 2 + 2 * 3) + 4 * 32


def test_a_sparse_layer_is_coded_by_distances_with_filler_zeros() -> None:
    clusters = np.zeros(200_000, dtype=np.int64)
    clusters[[0, 4, 4 + 70]] = 3
    # distances 1, 4, 70 = 32 + 32 + 6, so 3, 3, 0, 0, 3 are stored (a bit each) at 1, 4, 32, 32, 6 (two bits each);
    # the zeros after the last cost nothing
    assert coded_bits(clusters, 5) == 5 * 1 + 5 * 2 + 2 * 32


def test_a_distance_of_the_full_index_range_needs_no_filler() -> None:
    clusters = np.zeros(100_000, dtype=np.int64)
    clusters[[31, 63]] = 1
    assert coded_bits(clusters, 5) == 2 + 2 + 32
    clusters[[31, 63]] = 0
    clusters[[31, 64]] = 1
    # 32, 32 + 1: a filler at the first place, so three distances and two clusters
    assert coded_bits(clusters, 5) == 3 + 3 + 2 * 32


# ---- whole networks -------------------------------------------------------------------------------------------


def site(value: np.ndarray, variance: np.ndarray | float = 1e-4, pruned: np.ndarray | None = None) -> SiteDecision:
    value = value.astype(np.float32)
    bits = np.full(value.shape, 32, np.uint8)
    if pruned is not None:
        bits[pruned] = 0
    return SiteDecision(value, np.broadcast_to(np.float32(variance), value.shape), bits)


MLP = Architecture((6,), (Linear("a", 6, 4, False), Activation("relu"), Linear("b", 4, 2, False)))


def mlp_decision(dead_variance: float = 1.0) -> Decision:
    """Inputs 4 and 5 and hidden unit 3 off, the latter through `b` alone: what feeds it is noise that nobody reads."""
    off_a, off_b = np.zeros((4, 6), bool), np.zeros((2, 4), bool)
    off_a[:, 4:], off_b[:, 3] = True, True
    variance = np.full((4, 6), 1e-4)
    variance[3] = dead_variance
    return Decision(
        {"a.weight": site(np.full((4, 6), 0.75), variance, off_a), "b.weight": site(np.ones((2, 4)), 0.01, off_b)}
    )


def test_rates_of_a_small_network_by_hand() -> None:
    rates = published_rates(MLP, mlp_decision())
    # 2·1e-4 is below ½·2^{1−t} = 2^−t for t ≤ 12, 2·0.01 for t ≤ 5; one sign bit and one exponent bit
    assert rates.bits_per_layer == {"a": 14, "b": 7}
    assert rates.pruning == pytest.approx((24 + 8) / (3 * 4 + 2 * 3))
    assert rates.fast_prediction == pytest.approx(32 * 32 / (14 * 12 + 7 * 6))
    # one cluster per layer: a bit per weight and one number in the codebook; for `b` 7 · 6 bits + 32 > 6 + 32
    assert rates.maximum_compression == pytest.approx(32 * 32 / ((12 + 32) + (6 + 32)))


def test_rates_may_be_relative_to_another_network() -> None:
    own, other = published_rates(MLP, mlp_decision()), published_rates(MLP, mlp_decision(), original_weights=320)
    for rate in ("pruning", "fast_prediction", "maximum_compression"):
        assert getattr(other, rate) == pytest.approx(10 * getattr(own, rate))


def test_weights_that_nobody_reads_do_not_rule_the_bits() -> None:
    assert published_rates(MLP, mlp_decision(1.0)) == published_rates(MLP, mlp_decision(1e-6))


def test_a_weight_that_the_grid_rounds_to_zero_is_pruned() -> None:
    decision = mlp_decision()
    fine = decision.sites["a.weight"]
    value = fine.value.copy()
    value[:, 0] = 0.1
    coarse = SiteDecision(value, fine.variance, np.where(fine.bits > 0, 8, 0).astype(np.uint8), quantizer=Uniform(0.25))
    rates = published_rates(MLP, decision.with_sites({"a.weight": coarse}))
    assert rates.pruning == pytest.approx(32 / (3 * 3 + 2 * 3))


def test_everything_pruned_still_has_finite_rates() -> None:
    off = Decision(
        {f"{n}.weight": site(np.ones(s), pruned=np.ones(s, bool)) for n, s in (("a", (4, 6)), ("b", (2, 4)))}
    )
    rates = published_rates(MLP, off)
    assert rates.bits_per_layer == {"a": 1, "b": 1}
    assert math.isfinite(rates.maximum_compression)


def test_no_weights_at_all_is_refused() -> None:
    with pytest.raises(DecisionError, match="no dense or convolution layer"):
        published_rates(Architecture((3,), (Activation("relu"),)), Decision({}))


def conv(name: str, inputs: int, outputs: int, kernel: int, groups: int = 1) -> Conv2d:
    return Conv2d(name, inputs, outputs, (kernel, kernel), (1, 1), (0, 0), (1, 1), groups, True)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_dense_numbers_are_those_of_the_network_that_structured_removal_leaves(groups: int) -> None:
    layers = (
        conv("one", 1, 8, 3),
        Activation("relu"),
        conv("two", 8, 8, 3, groups),
        Activation("relu"),
        Flatten(),
        Linear("three", 8 * 4, 12, True),
        Activation("relu"),
        Linear("four", 12, 5, True),
    )
    architecture = Architecture((1, 6, 6), layers)
    generator = np.random.default_rng(groups)
    shapes = {"one": (8, 1, 3, 3), "two": (8, 8 // groups, 3, 3), "three": (12, 32), "four": (5, 12)}
    sites = {}
    for name, shape in shapes.items():
        off = np.zeros(shape, bool)
        off[generator.random(shape[0]) < 0.3] = name != "four"
        off |= (generator.random(shape[1]) < 0.3).reshape(1, -1, *(1,) * (len(shape) - 2))
        sites[f"{name}.weight"] = site(generator.standard_normal(shape), 1e-3, off)
        sites[f"{name}.bias"] = site(generator.standard_normal(shape[0]))
    decision = Decision(sites)
    smaller = remove_dead(architecture, decision)
    numbers = 0
    for name in shapes:
        weight = smaller.tensors[f"{name}.weight"].dense()
        numbers += LayerCount(weight.size, int(np.count_nonzero(weight)), weight[0].size).numbers
    original = sum(math.prod(shape) for shape in shapes.values())
    assert numbers < original
    assert published_rates(architecture, decision).pruning == pytest.approx(original / numbers)


def test_rates_grow_in_the_order_of_the_tables() -> None:
    generator = np.random.default_rng(1)
    value = generator.standard_normal((50, 200)) * 0.3
    architecture = Architecture((200,), (Linear("a", 200, 50, False),))
    rates = published_rates(architecture, Decision({"a.weight": site(value, 0.01, generator.random((50, 200)) < 0.9)}))
    assert 1 < rates.pruning < rates.fast_prediction < rates.maximum_compression


# ---- description lengths --------------------------------------------------------------------------------------


def test_description_length_is_in_bits_and_undefined_under_an_improper_prior() -> None:
    assert description_length_bits(1000 * math.log(2), proper_prior=True) == pytest.approx(1000)
    assert description_length_bits(1000.0, proper_prior=False) is None
    assert description_length_bits(None, proper_prior=True) is None


def test_two_part_code_of_uniform_labels_is_the_uniform_code() -> None:
    # 60,000 labels of ten classes: 199 kbits (Blier & Ollivier 2018)
    assert two_part_code_bits(0, 60_000 * math.log(10)) == pytest.approx(199_316, abs=1)
    assert two_part_code_bits(1_000, 0.0) == 8_000
