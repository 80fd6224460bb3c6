"""Structured removal through residual connections: coupled channels go together, and nothing else changes."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.structure import numbers_of, remove_dead
from pyro_compress.analysis.modes.symmetries import hidden_spaces
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Activation, Add, Conv2d, Flatten, Linear, Recall, Select
from pyro_compress.network.liveness import signals
from pyro_compress.network.stored import architecture_left
from tests.analysis.decisions.masked_networks import (
    clear,
    decide,
    in_float32,
    masked,
    put,
    random_masks,
    randomise,
    run,
)

Maker = Callable[[int], nn.Module]


class Sum(nn.Module):
    """Both branches of what reaches it, added; an empty branch is the identity."""

    def __init__(self, *left: nn.Module, right: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(*left), nn.Sequential(*right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x) + self.right(x)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


def basic(seed: int) -> nn.Module:
    """A stem, a block with an identity, one with a branch that halves the image, as in ResNet-18."""
    bias = seed % 2 > 0
    return nn.Sequential(
        conv(2, 6, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        Sum(conv(6, 6), nn.BatchNorm2d(6), nn.ReLU(inplace=True), conv(6, 6, bias=bias), nn.BatchNorm2d(6)), nn.ReLU(),
        Sum(conv(6, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.BatchNorm2d(8),
            right=(conv(6, 8, 1, 2), nn.BatchNorm2d(8))), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((1, 1)) if seed % 3 else nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


def inverted(seed: int) -> nn.Module:
    """Depthwise convolutions between two 1 × 1 ones, and no activation behind the sum, as in MobileNetV2."""
    wide = lambda: [  # noqa: E731
        conv(5, 9, 1), nn.BatchNorm2d(9), nn.ReLU6(),
        conv(9, 9, groups=9), nn.BatchNorm2d(9), nn.ReLU6(), conv(9, 5, 1), nn.BatchNorm2d(5),
    ]  # fmt: skip
    return nn.Sequential(
        conv(2, 5, stride=2), nn.BatchNorm2d(5), nn.ReLU6(), Sum(*wide()), Sum(*wide()), conv(5, 7, 1),
        nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(7, 3),
    )  # fmt: skip


def odd(seed: int) -> nn.Module:
    """References to the input, into a dense part, from a layer in front of a norm, and through grouped convolutions."""
    return nn.Sequential(
        Sum(conv(2, 2, bias=True), nn.Tanh()), Sum(conv(2, 4, bias=True), right=(conv(2, 4, 1),)),
        conv(4, 4, 1, bias=True), Sum(nn.BatchNorm2d(4), nn.ReLU()), Sum(conv(4, 4, groups=2), nn.SiLU()),
        nn.AvgPool2d(3, 2, padding=seed % 2),
        Sum(Sum(nn.ELU(), conv(4, 4)), right=(nn.Sigmoid(), conv(4, 4, bias=True))), nn.Flatten(), nn.LazyLinear(6),
        Sum(nn.ReLU(), nn.Linear(6, 6)), Sum(nn.BatchNorm1d(6), right=(nn.Linear(6, 6, bias=False),)), nn.Linear(6, 3),
    )  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.sampled_from([basic, inverted, odd]), st.sampled_from([None, 2.0**-7]))
def test_reduced_equals_masked_on_random_decisions(seed: int, make: Maker, step: float | None) -> None:
    generator = np.random.default_rng(seed)
    network, shape = make(seed).eval(), (2, 12, 13)
    x = torch.from_numpy(generator.normal(size=(4, *shape))).float()
    network(x)
    randomise(network, generator)
    masks = random_masks(network, generator)
    decision = decide(network, masks, step)
    floats = {n: in_float32(s) for n, s in decision.sites.items() if s.value.ndim == 1}
    decision = decision.with_sites(floats)
    reduced = remove_dead(trace(network, shape), decision)
    expected, found = masked(network, decision, x), run(reduced, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))
    artifact = Artifact.of(reduced)
    with torch.no_grad():
        decoded = artifact.to_torch()(x).double()
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.abs().max())))
    assert Artifact.of(artifact.network).data == artifact.data


def stem_and_block() -> nn.Sequential:
    """1 → 3 channels, one residual block with an inner width of 4, and a 1 × 1 convolution that reads the sum."""
    block = Sum(conv(3, 4, bias=True), nn.ReLU(), conv(4, 3, bias=True))
    return nn.Sequential(OrderedDict(stem=conv(1, 3, 1, bias=True), act=nn.ReLU(), block=block, head=conv(3, 2, 1)))


def reduced_sizes(network: nn.Module, decision: Decision) -> list[int]:
    """Filters left of stem, block and head, after checking that the outputs are those of the masked network."""
    reduced = remove_dead(trace(network, (1, 6, 6)), decision)
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(reduced, x), masked(network, decision, x), rtol=1e-5, atol=1e-5)
    return architecture_left(reduced)


def test_a_channel_that_nobody_reads_leaves_both_branches() -> None:
    network = stem_and_block()
    clear(network, "block.left.0.weight", slice(None), 1)
    assert reduced_sizes(network, decide(network)) == [3, 4, 3, 2]  # the head reads it
    clear(network, "head.weight", slice(None), 1)
    assert reduced_sizes(network, decide(network)) == [2, 4, 2, 2]


def test_a_channel_that_nobody_makes_leaves_both_branches() -> None:
    network = stem_and_block()
    for name in ("stem.weight", "stem.bias", "block.left.2.weight"):
        clear(network, name, 1)
    put(network, {"block.left.2.bias": [0.5, 0.0, -0.5]})
    assert reduced_sizes(network, decide(network)) == [2, 4, 2, 2]


def test_a_constant_sum_is_folded_where_nothing_pads_it() -> None:
    """The channel is 0.75 everywhere: the head, of size 1 × 1, can take that into its bias, and gains one."""
    network = stem_and_block()
    for name in ("stem.weight", "stem.bias", "block.left.2.weight"):
        clear(network, name, 1)
    put(network, {"block.left.2.bias": [0.5, 0.75, -0.5]})
    assert reduced_sizes(network, decide(network)) == [2, 4, 2, 2]
    put(network, {"stem.bias": [0.1, 0.25, 0.1]})  # now the padded convolution of the branch reads a constant
    assert reduced_sizes(network, decide(network)) == [3, 4, 3, 2]
    clear(network, "block.left.0.weight", slice(None), 1)
    assert reduced_sizes(network, decide(network)) == [2, 4, 2, 2]


def test_a_dead_branch_leaves_one_filter_and_the_identity() -> None:
    network = stem_and_block()
    clear(network, "block.left.2.weight")
    assert reduced_sizes(network, decide(network)) == [3, 1, 3, 2]


@pytest.mark.parametrize("shift", [-0.25, 0.0, 0.5])
def test_a_filter_of_zeros_with_a_batch_norm_shift(shift: float) -> None:
    """In front of a ReLU only a shift above zero is left of it, which stays under padding and goes elsewhere."""
    for size, left in ((1, 2), (3, 3 if shift > 0 else 2)):
        block = Sum(conv(1, 3), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 1, size), nn.BatchNorm2d(1))
        network = nn.Sequential(block, nn.Conv2d(1, 1, 1)).eval()
        put(network, {"0.left.1.bias": shift, "0.left.4.bias": 0.5, "0.left.1.running_mean": 0.0})
        clear(network, "0.left.0.weight", 1)
        assert reduced_sizes(network, decide(network)) == [left, 1, 1]


def test_a_shift_below_a_sum_keeps_its_channel() -> None:
    """All filters of one channel are zero, and each branch adds a shift of its own: what is read is their sum."""
    left, right = (conv(1, 2), nn.BatchNorm2d(2)), (conv(1, 2, 1), nn.BatchNorm2d(2))
    network = nn.Sequential(Sum(*left, right=right), nn.ReLU(), conv(2, 2)).eval()
    put(network, {"0.left.1.bias": [0.0, 1.0], "0.right.1.bias": [0.5, -0.75]})
    for branch in ("left", "right"):
        clear(network, f"0.{branch}.0.weight", 1)
    assert reduced_sizes(network, decide(network)) == [2, 2, 2]
    put(network, {"0.right.1.bias": [0.5, -1.0]})
    assert reduced_sizes(network, decide(network)) == [1, 1, 2]


def test_references_are_those_of_the_reduced_network() -> None:
    """A selection in front of everything, and one behind a grouped convolution, move all numbers up."""
    block = Sum(nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.ReLU())
    network = nn.Sequential(conv(3, 4, 1), block, nn.Flatten(), nn.Linear(4, 2))
    clear(network, "0.weight", slice(None), 1)
    clear(network, "3.weight", slice(None), 2)
    reduced = remove_dead(trace(network, (3, 1, 1)), decide(network))
    convolution = Conv2d("1.left.0", 4, 4, (1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert reduced.architecture.layers == (
        Select((0, 2)),
        Conv2d("0", 2, 4, (1, 1), (1, 1), (0, 0), (1, 1), 1, False),
        convolution,
        Activation("relu"),
        Add(2),
        Flatten(),
        Select((0, 1, 3)),
        Linear("3", 3, 2, True),
    )


def test_live_and_kept_of_coupled_outputs() -> None:
    """Channel 0 is read by the block only, channel 1 by the head only, channel 2 by none: two stay, coupled."""
    network = stem_and_block()
    clear(network, "block.left.0.weight", slice(None), 1)
    clear(network, "head.weight", slice(None), 0)
    for name in ("block.left.0.weight", "head.weight"):
        clear(network, name, slice(None), 2)
    architecture = trace(network, (1, 6, 6))
    assert [type(layer).__name__ for layer in architecture.layers].index("Add") == 5
    found = signals(architecture, numbers_of(decide(network)))
    assert found[2].live.tolist() == [True, True, False]  # the identity, before the block
    assert found[5].live.tolist() == [False, True, False]  # the branch, before the sum
    assert found[6].live.tolist() == [False, True, False]
    assert all(found[number].kept.tolist() == [True, True, False] for number in (1, 2, 5, 6))


def test_units_along_a_residual_connection_are_not_renamed() -> None:
    network = stem_and_block()
    assert [space.factors for space in hidden_spaces(trace(network, (1, 6, 6)))] == [
        ("block.left.0.weight", "block.left.2.weight")
    ]
    branched = nn.Sequential(Sum(conv(1, 3), right=(conv(1, 3), nn.ReLU())), nn.ReLU(), conv(3, 1))
    architecture = trace(branched, (1, 6, 6))
    assert Recall(0) in architecture.layers
    assert hidden_spaces(architecture) == ()
