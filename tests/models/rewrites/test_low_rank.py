"""Layers of low rank: Eckart and Young's error, the same function at full rank, and ranks as they are asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import NetworkError
from pyro_compress.models.rewrites.low_rank import LowRank
from pyro_compress.models.rewrites.vbmf import evbmf


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def convolutions(**how: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, (3, 5), **how), nn.Flatten())


CONVOLUTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"stride": (2, 1), "padding": (1, 2), "bias": False},
    {"dilation": (2, 1), "padding": (0, 3)},
    {"padding": "same"},
    {"padding": "valid", "stride": (1, 3)},
)


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_a_convolution_at_full_rank_computes_the_same(scheme: str, how: dict[str, Any]) -> None:
    network = convolutions(**how)
    full = min(5, 45) if scheme == "channel" else min(25, 9)
    found: Any = LowRank(rank=full, scheme=scheme)(network)
    x = torch.randn(2, 3, 11, 9)
    torch.testing.assert_close(found(x), network(x), rtol=1e-5, atol=1e-5)
    first, second = found[0].first, found[0].second
    assert (tuple(first.kernel_size), tuple(second.kernel_size)) == (
        ((3, 5), (1, 1)) if scheme == "channel" else ((3, 1), (1, 5))
    )
    assert first.bias is None and (second.bias is None) == (network[0].bias is None)


def test_a_dense_network_at_full_rank_computes_the_same() -> None:
    network = pc.models.digits_mlp().eval()
    found = LowRank(rank={"fc1": 64, "fc2": 50, "fc3": 10})(network)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(found(x), network(x), rtol=1e-5, atol=1e-5)
    assert list(found.state_dict())[:3] == ["fc1.first.weight", "fc1.second.weight", "fc1.second.bias"]
    assert not found.training
    pc.models.trace(found, (1, 8, 8))


def whole(pair: Any, scheme: str) -> torch.Tensor:
    """The one weight that the two layers amount to."""
    first, second = pair.first.weight, pair.second.weight
    if first.ndim == 2:
        return torch.mm(second, first)
    return torch.einsum("oruv,rcyx->ocyx" if scheme == "channel" else "orux,rcyv->ocyx", second, first)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    ("network", "scheme"), [(nn.Linear(7, 6), "channel"), (convolutions(), "channel"), (convolutions(), "spatial")]
)
def test_the_error_is_the_tail_of_singular_values(network: nn.Module, scheme: str, rank: int) -> None:
    layer: Any = network if isinstance(network, nn.Linear) else network.get_submodule("0")
    found: Any = LowRank(rank=rank, scheme=scheme)(network)
    pair = found if isinstance(network, nn.Linear) else found.get_submodule("0")
    weight = layer.weight.detach()
    matrix = weight.permute(0, 3, 1, 2).reshape(25, 9) if scheme == "spatial" else weight.flatten(1)
    tail = np.linalg.svd(matrix.numpy(), compute_uv=False)[rank:]
    error = float((whole(pair, scheme) - weight).detach().square().sum())
    assert error == pytest.approx(float((tail**2).sum()), rel=1e-4)
    # both have weights of one size
    torch.testing.assert_close(pair.first.weight.square().sum(), pair.second.weight.square().sum())


def test_what_is_given_stays_as_it_is_and_frozen_layers_stay_frozen() -> None:
    network: Any = pc.models.digits_mlp()
    network.fc2.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found: Any = LowRank(rank=4)(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    frozen = {name for name, parameter in found.named_parameters() if not parameter.requires_grad}
    assert frozen == {"fc2.first.weight", "fc2.second.weight", "fc2.second.bias"}
    assert torch.equal(found.fc1.second.bias, network.fc1.bias)


def test_energy_takes_the_smallest_rank_that_keeps_it() -> None:
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        left, _ = torch.linalg.qr(torch.randn(30, 30))
        right, _ = torch.linalg.qr(torch.randn(40, 30))
        values = torch.tensor([4.0, 2.0, 2.0, 1.0] + [1e-4] * 26)
        layer.weight.copy_(left * values @ right.T)
    network = nn.Sequential(layer)
    # of 25: 16, 20, 24, 25
    for energy, rank in ((0.5, 1), (0.63, 1), (0.65, 2), (0.79, 2), (0.9, 3), (0.95, 3), (0.97, 4)):
        assert LowRank(energy=energy).ranks(network) == {"0": rank}
    # at full rank two layers have more weights than one
    assert LowRank(energy=1.0).ranks(network) == {}
    assert isinstance(LowRank(energy=1.0)(network).get_submodule("0"), nn.Linear)


def test_without_a_rank_variational_bayes_says_it() -> None:
    network: Any = pc.models.digits_mlp()
    with torch.no_grad():
        network.fc1.weight.copy_(torch.randn(100, 5) @ torch.randn(5, 64) + 0.5 * torch.randn(100, 64))
    found = LowRank(layers=("fc1", "fc2")).ranks(network)
    values = np.linalg.svd(network.fc2.weight.detach().double().numpy(), compute_uv=False)
    assert found == {"fc1": 5, "fc2": max(1, evbmf(values, (50, 100)).rank)}


def test_a_size_is_reached_and_not_by_much() -> None:
    network: Any = pc.models.digits_mlp()
    layers = {"fc1": (100, 64), "fc2": (50, 100), "fc3": (10, 50)}
    weights = sum(rows * columns for rows, columns in layers.values())
    before: dict[str, int] = {}
    for size in (0.1, 0.3, 0.6, 0.9):
        ranks = LowRank(size=size).ranks(network)
        left = sum(ranks[name] * sum(shape) for name, shape in layers.items())
        assert size * weights - 164 < left <= size * weights
        assert all(ranks[name] >= before.get(name, 1) for name in layers)
        before = ranks
    with pytest.raises(NetworkError, match=r"size 0.01 is out of reach: rank 1 everywhere has 0.031 of the weights"):
        LowRank(size=0.01)(network)


def test_a_size_goes_where_components_keep_most() -> None:
    """fc1 has one component that counts, fc2 has all alike: after the first, weights go to fc2."""
    network: Any = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20))
    with torch.no_grad():
        network[0].weight.copy_(torch.outer(torch.randn(20), torch.randn(20)) + 1e-3 * torch.randn(20, 20))
        network[2].weight.copy_(torch.linalg.qr(torch.randn(20, 20))[0])
    assert LowRank(size=0.5).ranks(network) == {"0": 1, "2": 9}


def test_layers_that_do_not_fit_are_left_alone_or_refused_by_name() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6, 3))
    assert set(LowRank(rank=2).ranks(network)) == {"1", "3"}
    with pytest.raises(NetworkError, match="layer 0 is a convolution in 2 groups, expected one: leave it out"):
        LowRank(rank=2, layers=("0",))(network)
    with pytest.raises(NetworkError, match="layer 0 pads by 'reflect', expected zeros"):
        LowRank(rank={"0": 2})(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")))

    class Own(nn.Linear):
        pass

    with pytest.raises(NetworkError, match="layer 0 is a Own, expected a plain Linear or Conv2d"):
        LowRank(layers=("0",))(nn.Sequential(Own(3, 4)))
    with pytest.raises(NetworkError, match="no dense layer or convolution that fits"):
        LowRank()(nn.Sequential(nn.ReLU()))
    with pytest.raises(NetworkError, match=r"'conv\*' matches no dense layer or convolution: there are 0, 1, 3"):
        LowRank(layers=("conv*",))(network)


def test_layers_that_an_encoder_reads_by_name_are_left_alone_or_refused_by_name() -> None:
    network = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 16)).eval()
    found, x = LowRank(rank=2)(network), torch.randn(2, 3, 16)
    assert set(LowRank(rank=2).ranks(network)) == {"1"}
    with torch.no_grad():
        torch.testing.assert_close(found.get_submodule("0")(x), network[0](x))
    with pytest.raises(NetworkError, match=r"layer 0.linear1 has a weight that torch's TransformerEncoderLayer reads"):
        LowRank(rank=2, layers=("0.linear1",))(network)


def test_ranks_above_full_are_refused_by_layer() -> None:
    with pytest.raises(
        NetworkError, match=r"rank 20 of layer fc3 is above 10, the full rank of its weight, a 10 × 50 matrix"
    ):
        LowRank(rank=20)(pc.models.digits_mlp())
    with pytest.raises(NetworkError, match=r"rank: 'fc\*' and '\*1' both match dense layer or convolution fc1: make"):
        LowRank(rank={"fc*": 2, "*1": 3})(pc.models.digits_mlp())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 2, "energy": 0.5}, "one of rank, energy and size, found rank and energy"),
        ({"rank": 0}, "rank is at least 1, found 0"),
        ({"rank": {"fc1": 0}}, "rank of fc1 is at least 1, found 0"),
        ({"rank": 2.5}, "option 'rank' of LowRank must be a whole number or a mapping"),
        ({"energy": 1.5}, "energy is a share above 0 and at most 1, found 1.5"),
        ({"size": 0.0}, "size is a share above 0 and at most 1"),
        ({"scheme": "tucker"}, "unknown scheme of low rank 'tucker': known are channel, spatial"),
        ({"rank": {"fc1": 2}, "layers": ("fc1",)}, "rank says by name which layers are taken"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        LowRank(**options)  # type: ignore[arg-type]


def test_networks_that_would_lose_something_are_refused() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(NetworkError, match=r"0.weight and 1.weight are one parameter, and a rewrite"):
        LowRank(rank=1)(tied)
    twice = nn.Linear(4, 4)
    with pytest.raises(NetworkError, match=r"0.weight and 2.weight are one parameter, and a rewrite"):
        LowRank(rank=1)(nn.Sequential(twice, nn.ReLU(), twice))
    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NetworkError, match="has forward hooks"):
        LowRank(rank=1)(hooked)
