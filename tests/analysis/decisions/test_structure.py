"""Structured removal: the smaller network computes what the masked one does, and is exactly as small as it can be."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.errors import DecisionError
from pyro_compress.models.networks import digits_cnn, lenet_5, lenet_300_100, vgg_16
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import (
    Activation,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    Select,
    Unflatten,
    Weighted,
    weight_shape,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Quantizer, Uniform, power_of_two
from pyro_compress.network.stored import architecture_left, format_architecture
from tests.analysis.decisions.masked_networks import (
    ACTIVATIONS,
    clear,
    decide,
    in_float32,
    masked,
    put,
    random_masks,
    randomise,
    run,
)


def dense(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(9), nn.Linear(9, 7), nn.ELU(0.7), nn.Linear(7, 6, bias=False), nn.Softplus(), nn.BatchNorm1d(6),
        nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.GELU(), nn.Linear(5, 3, bias=False),
    )  # fmt: skip


def convolutional(seed: int) -> nn.Module:
    """Padding, stride, dilation, all pools and partial flattening, in turn with and without biases."""
    padding = seed % 2
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=padding, bias=seed % 3 > 0), nn.BatchNorm2d(6), nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(6, 5, 3, dilation=2, padding=2 * padding), nn.LeakyReLU(0.2),
        nn.AvgPool2d(2, 1, padding=seed // 2 % 2), nn.Conv2d(5, 6, (1, 2), stride=(1, 2), bias=False), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(36, 8), nn.SiLU(), nn.Linear(8, 4),
    )  # fmt: skip


def sloped(seed: int) -> nn.Module:
    """Slopes for each channel and for all features, and functions that make constants of constants."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 5, 3, padding=seed % 2), nn.Hardswish(), nn.PReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.LazyLinear(8), nn.PReLU(8), nn.SELU(), nn.Linear(8, 6), nn.Mish(),
        nn.Hardtanh(-0.7, 2), nn.Linear(6, 4),
    )  # fmt: skip


def grouped(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6, padding=seed % 2), nn.Tanh(),
        nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=4, bias=False),
        nn.Conv2d(8, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 10, 3, groups=5), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


def decoding(seed: int) -> nn.Module:
    """Features to images, with transposed convolutions of every kind, and back to features."""
    more = seed % 2
    return nn.Sequential(
        nn.Linear(9, 24, bias=seed % 3 > 0), nn.ReLU(), nn.Unflatten(1, (6, 2, 2)),
        nn.ConvTranspose2d(6, 5, 3, stride=2, padding=more, output_padding=more), nn.BatchNorm2d(5), nn.ReLU(),
        nn.ConvTranspose2d(5, 5, 2, groups=5, bias=seed % 5 > 0), nn.Sigmoid(), nn.Upsample(scale_factor=(1, 2)),
        nn.Conv2d(5, 6, 3, padding=more), nn.ReLU(), nn.ConvTranspose2d(6, 4, (1, 2), groups=2, dilation=2), nn.Tanh(),
        nn.ConvTranspose2d(4, 3, 1, bias=False), nn.Flatten(), nn.LazyLinear(8), nn.Tanh(),
        nn.Unflatten(1, (4, 1, 2)), nn.Conv2d(4, 2, 1),
    )  # fmt: skip


FLAT = (dense, decoding)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**20),
    st.sampled_from([dense, convolutional, sloped, grouped, decoding]),
    st.sampled_from([None, 2.0**-7]),
)
def test_reduced_equals_masked_on_random_decisions(
    seed: int, make: Callable[[int], nn.Module], step: float | None
) -> None:
    generator = np.random.default_rng(seed)
    shape = (9,) if make in FLAT else (3, 16, 17)
    network = make(seed).eval()
    x = torch.from_numpy(generator.normal(size=(5, *shape))).float()
    network(x)
    randomise(network, generator)
    masks = random_masks(network, generator)
    decision = decide(network, masks, step)
    # Biases keep float32, so that rounding a folded one cannot hide a mistake; a test of its own covers it.
    floats = {n: in_float32(s) for n, s in decision.sites.items() if s.value.ndim == 1}
    decision = decision.with_sites(floats)
    reduced = remove_dead(trace(network, shape), decision)
    expected = masked(network, decision, x)
    found = run(reduced, x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lenet_300_100, (1, 28, 28)), (lenet_5, (1, 28, 28)), (digits_cnn, (1, 8, 8)), (vgg_16, (3, 32, 32))],
)
def test_reduced_equals_masked_on_the_registered_networks(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(5)
    network = make()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.from_numpy(generator.normal(scale=0.1, size=buffer.shape)))
    masks = {name: generator.random(p.shape) < 0.4 for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            masks[name][generator.random(parameter.shape[0]) < 0.6] = False
            masks[name][:, generator.random(parameter.shape[1]) < 0.5] = False
    decision = decide(network, masks)
    reduced = remove_dead(trace(network, shape), decision)
    x = torch.from_numpy(generator.normal(size=(3, *shape))).float()
    expected = masked(network, decision, x)
    torch.testing.assert_close(run(reduced, x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    before = sum(layer_size(layer) for layer in trace(network, shape).weighted())
    after = sum(layer_size(layer) for layer in reduced.architecture.weighted())
    assert after < 0.5 * before


def test_dead_channels_of_a_decoder_go_with_their_features_and_filters() -> None:
    network = nn.Sequential(
        nn.Linear(3, 12), nn.ReLU(), nn.Unflatten(1, (3, 2, 2)), nn.ConvTranspose2d(3, 4, 3), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Sigmoid(),
    )  # fmt: skip
    put(network, {"3.bias": [0.1, -0.1, 0.2, 0.3]})
    clear(network, "3.weight", 1)  # nothing reads channel 1, made of the features 4 to 7
    clear(network, "3.weight", slice(None), 1)  # channel 1 of 4 is ReLU(-0.1) = 0 everywhere
    clear(network, "3.weight", slice(None), 3)  # channel 3 of 4 is 0.3 everywhere, and is read unevenly
    clear(network, "5.weight", 2)  # nothing reads channel 2 of 4
    decision = decide(network)
    reduced = remove_dead(trace(network, (3,)), decision)
    linear, _, images, first, _, second, _ = reduced.architecture.layers
    assert (linear, images) == (Linear("0", 3, 8, True), Unflatten((2, 2)))
    assert isinstance(first, ConvTranspose2d) and isinstance(second, ConvTranspose2d)
    assert (first.in_channels, first.out_channels, second.in_channels, second.out_channels) == (2, 2, 2, 2)
    weight = network.get_parameter("3.weight").detach().numpy()
    np.testing.assert_array_equal(reduced.tensors["3.weight"].dense(), weight[[0, 2]][:, [0, 3]])
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(reduced, x), masked(network, decision, x), rtol=1e-6, atol=1e-6)


def test_a_channel_made_of_features_stays_whole() -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 1, 2)), nn.Flatten(), nn.Linear(4, 1, bias=False))
    put(network, {"3.weight": [[0.0, 0.0, 0.0, 2.0]]})  # the features 0 and 1 go together, 2 stays beside 3
    reduced = remove_dead(trace(network, (2,)), decide(network))
    layers = (Linear("0", 2, 2, True), Unflatten((1, 2)), Flatten(), Select((1,)), Linear("3", 1, 1, False))
    assert reduced.architecture.layers == layers


def layer_size(layer: Weighted) -> int:
    return math.prod(weight_shape(layer))


def small_mlp() -> nn.Sequential:
    """2-3-2: unit 1 has no incoming weight and bias 0.7, unit 2 has no outgoing weight."""
    network = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), act=nn.ReLU(), b=nn.Linear(3, 2)))
    put(network, {"a.weight": [[1.0, -2.0], [0.0, 0.0], [3.0, 4.0]], "a.bias": [0.25, 0.7, 0.5]})
    put(network, {"b.weight": [[2.0, 5.0, 0.0], [1.0, -3.0, 0.0]], "b.bias": [0.5, 1.0]})
    return network


def test_constant_unit_goes_into_the_next_bias_and_unread_unit_goes() -> None:
    reduced = remove_dead(trace(small_mlp(), (2,)), decide(small_mlp()))
    assert reduced.architecture.layers == (Linear("a", 2, 1, True), Activation("relu"), Linear("b", 1, 2, True))
    numbers = {name: tensor.dense().tolist() for name, tensor in reduced.tensors.items()}
    assert numbers["a.weight"] == [[1, -2]]
    assert numbers["a.bias"] == [0.25]
    assert numbers["b.weight"] == [[2], [1]]
    assert numbers["b.bias"] == pytest.approx([0.5 + 5 * 0.7, 1 - 3 * 0.7])


def any_quantizer(kind: str, value: np.ndarray) -> Quantizer:
    """Of a kind, for values of about size one."""
    channels = len(value)
    each: dict[str, Quantizer] = {
        "step": Uniform(0.3),
        "steps": PerChannel(tuple((0.05 + 0.1 * np.arange(channels) % 0.7).tolist())),
        "levels": Codebook((-1.7, -0.6, 0.4, 0.9, 50.0)),
    }
    return each[kind]


@pytest.mark.parametrize("kind", ["step", "steps", "levels"])
@pytest.mark.parametrize("make", [dense, convolutional, sloped, grouped, decoding])
@pytest.mark.parametrize("seed", [1, 2])
def test_reduced_equals_masked_on_every_quantizer(seed: int, make: Callable[[int], nn.Module], kind: str) -> None:
    generator = np.random.default_rng(seed)
    shape = (9,) if make in FLAT else (3, 16, 17)
    network = make(seed).eval()
    x = torch.from_numpy(generator.normal(size=(5, *shape))).float()
    network(x)
    randomise(network, generator)
    decision = decide(network, random_masks(network, generator))
    on = {n: s.on(any_quantizer(kind, s.value)) for n, s in decision.sites.items() if s.value.ndim > 1}
    decision = decision.with_sites(on)
    reduced = remove_dead(trace(network, shape), decision)
    expected = masked(network, decision, x)
    torch.testing.assert_close(run(reduced, x), expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))
    for name in on:
        tensor = reduced.tensors[name]
        assert type(tensor.quantizer) is type(on[name].quantizer)
        if isinstance(tensor.quantizer, Codebook):  # only the levels that are left
            assert sorted(set(tensor.dense().ravel().tolist()) - {0.0}) == list(tensor.quantizer.levels)


@pytest.mark.parametrize(("kind", "grid"), [("step", True), ("steps", True), ("levels", False)])
def test_a_folded_bias_stays_on_a_grid_and_leaves_a_codebook(kind: str, grid: bool) -> None:
    decision = decide(small_mlp())
    biases = {n: s.on(any_quantizer(kind, s.value)) for n, s in decision.sites.items() if s.value.ndim == 1}
    reduced = remove_dead(trace(small_mlp(), (2,)), decision.with_sites(biases | {"a.bias": decision.sites["a.bias"]}))
    bias = reduced.tensors["b.bias"]
    exact = remove_dead(trace(small_mlp(), (2,)), decision).tensors["b.bias"].dense()
    assert (bias.integers is not None) == grid
    if bias.quantizer is not None:
        spacing = float(bias.quantizer.spacing(1).max())
        # rounded before the fold and after it
        np.testing.assert_allclose(bias.dense(), exact, atol=spacing + 1e-6)


def test_folded_bias_is_rounded_to_its_own_grid() -> None:
    decision = decide(small_mlp(), step=0.25)
    decision = decision.with_sites({"a.bias": in_float32(decision.sites["a.bias"])})
    reduced = remove_dead(trace(small_mlp(), (2,)), decision)
    bias, weight = reduced.tensors["b.bias"], reduced.tensors["b.weight"]
    assert bias.integers is not None and weight.integers is not None
    assert (bias.quantizer, bias.integers.tolist()) == (power_of_two(-2), [16, -4])  # 4.0 and -1.1 in quarters
    assert (weight.quantizer, weight.integers.tolist()) == (power_of_two(-2), [[8], [4]])
    assert np.abs(bias.dense() - np.array([4.0, -1.1])).max() <= 0.25 / 2


def test_layer_without_bias_gains_one_only_if_the_constant_is_not_zero() -> None:
    for bias, gains in ((0.7, True), (-0.7, False)):
        network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        put(network, {"0.weight": [[1.0], [0.0]], "0.bias": bias})
        reduced = remove_dead(trace(network, (1,)), decide(network))
        assert reduced.architecture.layers[-1] == Linear("2", 1, 1, gains)


def test_a_chain_of_dead_units_vanishes_in_one_go() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    identity = np.eye(3, dtype="f4")
    put(network, {"0.weight": identity, "2.weight": identity, "4.weight": [[0.0, 1.0, 1.0]]})
    reduced = remove_dead(trace(network, (3,)), decide(network))
    assert reduced.architecture.layers[0] == Select((1, 2))
    assert reduced.architecture.weighted() == tuple(
        Linear(name, 2, outputs, True) for name, outputs in (("0", 2), ("2", 2), ("4", 1))
    )


@pytest.mark.parametrize(("padding", "bias", "channels"), [(0, 0.7, 1), (1, 0.7, 2), (1, -0.7, 1), (1, 0.0, 1)])
def test_constant_channel_under_zero_padding_stays_unless_it_is_zero(padding: int, bias: float, channels: int) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=padding))
    put(network, {"0.bias": bias})
    clear(network, "0.weight", 1)
    decision = decide(network)
    reduced = remove_dead(trace(network, (1, 6, 6)), decision)
    assert architecture_left(reduced)[0] == channels
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(reduced, x), masked(network, decision, x), rtol=1e-5, atol=1e-6)


def test_unused_input_channels_and_flattened_positions_are_selected() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 1))
    clear(network, "0.weight", slice(None), 1)
    put(network, {"2.weight": [[0.0, 1, 0, 2, 0, 0, 3, 0]]})
    reduced = remove_dead(trace(network, (3, 2, 2)), decide(network))
    kinds = [type(layer).__name__ for layer in reduced.architecture.layers]
    assert kinds == ["Select", "Conv2d", "Flatten", "Select", "Linear"]
    assert reduced.architecture.layers[0] == Select((0, 2))
    assert reduced.architecture.layers[3] == Select((1, 3, 6))
    assert reduced.tensors["2.weight"].dense().tolist() == [[1, 2, 3]]


def test_batch_norm_takes_the_bias_in_front_and_the_fold() -> None:
    network = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0.0)).eval()
    put(network, {"0.weight": [[1.0], [0.0]], "0.bias": [0.0, 0.5], "2.weight": [[1.0, 2.0]], "2.bias": 0.25})
    put(network, {"3.weight": 3.0, "3.bias": 0.125, "3.running_mean": 1.0, "3.running_var": 4.0})
    reduced = remove_dead(trace(network, (1,)), decide(network, step=2.0**-10))
    assert reduced.architecture.layers[2:] == (Linear("2", 1, 1, False), ChannelAffine("3", 1))
    assert reduced.tensors["3.scale"].dense() == pytest.approx([1.5])
    assert reduced.tensors["3.shift"].dense() == pytest.approx([0.125 + 1.5 * (0.25 + 2 * np.tanh(0.5) - 1.0)])


def test_depthwise_channels_go_and_grouped_channels_stay() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    clear(network, "2.weight", slice(None), 2)
    clear(network, "5.weight", slice(None), 0)
    reduced = remove_dead(trace(network, (1, 3, 3)), decide(network))
    convolutions = [layer for layer in reduced.architecture.layers if isinstance(layer, Conv2d)]
    assert [(c.in_channels, c.out_channels, c.groups) for c in convolutions] == [
        (1, 3, 1),
        (3, 3, 3),
        (3, 4, 1),
        (4, 4, 2),
    ]
    assert Select((1, 2, 3)) in reduced.architecture.layers
    assert not reduced.tensors["3.weight"].dense()[0].any()


@pytest.mark.parametrize("bias", [-0.6, 0.9])
@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_constants_pass_through_every_activation(kind: str, bias: float) -> None:
    layers = (Linear("a", 1, 1, True), Activation(kind, 0.3), Linear("b", 1, 1, False))
    numbers = {"a.weight": [[0.0]], "a.bias": [bias], "b.weight": [[1.0]]}
    sites = {name: np.array(values, "f4") for name, values in numbers.items()}
    decision = Decision({n: SiteDecision(v, np.zeros_like(v), np.full(v.shape, 32, "u1")) for n, v in sites.items()})
    reduced = remove_dead(Architecture((1,), layers), decision)
    expected = float(ACTIVATIONS[kind](torch.tensor(bias, dtype=torch.float64), 0.3))
    assert run(reduced, torch.ones(1, 1)).item() == pytest.approx(expected, rel=1e-6)
    assert not reduced.tensors["b.weight"].dense().any()
    assert expected == 0 or reduced.tensors["b.bias"].dense() == pytest.approx([expected], rel=1e-6)


def test_batch_norm_channel_of_scale_zero_is_a_constant() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False)).eval()
    put(network, {"1.weight": [0.0, 1.0], "1.bias": [0.5, 0.0], "2.weight": [[3.0, 1.0]]})
    reduced = remove_dead(trace(network, (2,)), decide(network))
    assert reduced.architecture.layers == (Linear("0", 2, 1, False), ChannelAffine("1", 1), Linear("2", 1, 1, True))
    assert reduced.tensors["2.bias"].dense().tolist() == [1.5]


@pytest.mark.parametrize(
    "dead", [["conv1.weight"], ["conv2.weight"], ["fc1.weight"], ["fc2.weight"], ["conv2.weight", "fc1.weight"]]
)
def test_a_dead_layer_leaves_one_unit_of_zeros_and_constant_outputs(dead: list[str]) -> None:
    network = digits_cnn()
    network.get_parameter("conv1.bias").data.fill_(-1.0)  # so that conv1, when dead, leaves zeros that can be folded
    masks = {name: np.zeros(network.get_parameter(name).shape, dtype=bool) for name in dead}
    decision = decide(network, masks)
    reduced = remove_dead(trace(network, (1, 8, 8)), decision)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = masked(network, decision, x)
    torch.testing.assert_close(run(reduced, x), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(expected, expected[:1].expand_as(expected))
    assert architecture_left(reduced) == [1, 1, 1, 1]
    assert {name for name, tensor in reduced.tensors.items() if tensor.dense().any()} == {"fc2.bias"}


def test_tokens_stay_where_nothing_of_them_is_read() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.read, self.head = nn.Embedding(7, 4), nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.read(self.tokens(x.long()))[0][:, -1])

    network = Reader().eval()
    masks = {name: np.ones(parameter.shape, bool) for name, parameter in network.named_parameters()}
    masks["head.weight"][:] = False
    decision = decide(network, masks)
    x = torch.randint(0, 7, (3, 5)).double()
    torch.testing.assert_close(run(remove_dead(trace(network, (5,)), decision), x), masked(network, decision, x))


def test_the_published_notation() -> None:
    lenet = lenet_300_100()
    masks = {name: np.ones(parameter.shape, dtype=bool) for name, parameter in lenet.named_parameters()}
    masks["fc1.weight"][:, 311:] = masks["fc2.weight"][:, 86:] = masks["fc3.weight"][:, 14:] = False
    reduced = remove_dead(trace(lenet, (1, 28, 28)), decide(lenet, masks))
    assert format_architecture(architecture_left(reduced)) == "311-86-14"

    network = lenet_5()
    masks = {name: np.ones(parameter.shape, dtype=bool) for name, parameter in network.named_parameters()}
    masks["conv2.weight"][:, 5:] = masks["fc1.weight"][:, 160:] = masks["fc2.weight"][:, 16:] = False
    masks["fc1.weight"][:, [position for position in range(160) if position % 16 > 7 - (position >= 96)]] = False
    reduced = remove_dead(trace(network, (1, 28, 28)), decide(network, masks))
    assert format_architecture(architecture_left(reduced)) == "5-10-76-16"  # some of 16 positions of 10 filters


def test_nothing_pruned_changes_nothing() -> None:
    network = lenet_5()
    architecture = trace(network, (1, 28, 28))
    assert remove_dead(architecture, decide(network)).architecture == architecture


class TestRefusals:
    architecture = Architecture((2,), (Linear("a", 2, 1, True),))

    @staticmethod
    def site(*shape: int, value: float = 1.0, bits: int = 8, step: float | None = None) -> SiteDecision:
        grid = None if step is None else Uniform(step)
        return SiteDecision(np.full(shape, value, "f4"), np.zeros(shape, "f4"), np.full(shape, bits, "u1"), grid)

    @pytest.mark.parametrize(
        ("sites", "sentence"),
        [
            ({"a.weight": (1, 2)}, "site a.bias is missing from the decision"),
            ({"a.weight": (1, 2), "a.bias": (1,), "z": (1,)}, "site z is no parameter of the network"),
            ({"a.weight": (2, 1), "a.bias": (1,)}, r"site a.weight has shape \(2, 1\) in the decision, \(1, 2\)"),
        ],
    )
    def test_sites_that_do_not_fit(self, sites: dict[str, tuple[int, ...]], sentence: str) -> None:
        with pytest.raises(DecisionError, match=sentence):
            remove_dead(self.architecture, Decision({name: self.site(*shape) for name, shape in sites.items()}))

    @pytest.mark.parametrize(
        ("weight", "sentence"),
        [
            ({"value": np.nan}, "decision on a.weight stores NaN or infinite"),
            ({"bits": 8}, "decision on a.weight says 8 bits and no grid: combine it with bit_widths"),
            ({"step": 2.0**-40, "bits": 32}, "of a.weight is too fine: its integers exceed 24 bits"),
        ],
    )
    def test_numbers_that_cannot_be_stored(self, weight: dict[str, Any], sentence: str) -> None:
        with pytest.raises(DecisionError, match=sentence):
            remove_dead(self.architecture, Decision({"a.weight": self.site(1, 2, **weight), "a.bias": self.site(1)}))

    def test_batch_norm_without_statistics(self) -> None:
        network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        decision = decide(network)
        with pytest.raises(
            DecisionError, match=r"buffer 1.running_mean is missing from the decision: put the batch norm"
        ):
            remove_dead(trace(network, (2,)), Decision(decision.sites))

    def test_a_network_that_is_compressed_already(self) -> None:
        with pytest.raises(DecisionError, match=r"ChannelAffine\(.*\) occurs in compressed networks only"):
            remove_dead(Architecture((2,), (ChannelAffine("a", 2),)), Decision({}))


def test_a_negative_running_variance_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    whole = decide(network)
    buffers = {**whole.buffers, "1.running_var": np.array([1, 0, -0.25, 1], np.float32)}
    with pytest.raises(DecisionError, match=r"buffer 1\.running_var holds -0\.25, and no variance is negative"):
        remove_dead(trace(network, (3,)), replace(whole, buffers=buffers))
