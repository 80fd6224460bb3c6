"""Coupled channels of residual networks: decision → smaller dense network → file → torch."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18
from torchvision.models.resnet import BasicBlock, ResNet

import pyro_compress as pc
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.norms import with_norms_on_grids
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import DecisionError, NetworkError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Linear, Weighted
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.pipeline.coupled import CoupledChannels, coupled_channels
from tests.analysis.decisions.masked_networks import decide, masked

SHAPE = (3, 64, 64)
NETWORKS: list[Callable[..., nn.Module]] = [resnet18, mobilenet_v2]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda make: make.__name__)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return prepared(request.param)


def prepared(make: Callable[..., nn.Module]) -> nn.Module:
    """Random weights, batch norms that scale and shift, and statistics of random examples."""
    torch.manual_seed(0)
    network: nn.Module = make(num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    return seen(network)


def seen(network: nn.Module) -> nn.Module:
    """The network with batch-norm statistics of random examples."""
    with torch.no_grad():
        network.train()(torch.randn(16, *SHAPE))
    return network.eval()


def halved(decision: Decision, groups: tuple[CoupledChannels, ...]) -> tuple[Decision, list[np.ndarray]]:
    """The half of every group that has the smaller magnitude goes; also which channels these were."""
    gone = [np.argsort(group.magnitude(decision))[: group.size // 2] for group in groups]
    for group, channels in zip(groups, gone, strict=True):
        decision = group.off(decision, channels)
    return decision, gone


def test_from_a_decision_to_a_smaller_network_in_a_file(network: nn.Module) -> None:
    decision, _ = halved(decide(network), coupled_channels(network, SHAPE))
    before = sum(parameter.numel() for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in through_a_file(network, decision).parameters()) < 0.31 * before


@pytest.mark.parametrize(
    "make",
    [
        partial(ResNet, BasicBlock, [1, 1, 1, 1]),
        partial(mobilenet_v2, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]),
    ],
    ids=["resnet", "mobilenet"],
)
def test_so_do_integers(make: Callable[..., nn.Module]) -> None:
    network = prepared(make)
    decision = decide(network, step=2.0**-7)
    for group in coupled_channels(network, SHAPE):
        decision = group.off(decision, range(4, group.size))
    stored = {name: torch.from_numpy(site.stored()) for name, site in decision.sites.items()}
    network.load_state_dict(stored, strict=False)
    seen(network)
    through_a_file(network, replace(decision, buffers=decide(network).buffers))


def through_a_file(network: nn.Module, decision: Decision) -> nn.Module:
    """The decoded network, after checking that it computes what the masked one does, batch norms on their grids."""
    artifact = pc.compress(network, decision, SHAPE)
    assert encode(artifact.network) == artifact.data
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    expected = masked(network, with_norms_on_grids(trace(network, SHAPE), decision), x)
    assert float(expected.std(0).max()) > 1e-2 * float(expected.abs().max())  # they depend on the examples
    with torch.no_grad():
        small = artifact.to_torch()
        torch.testing.assert_close(small(x).double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    return small


def test_the_smaller_network_has_the_shapes_that_torch_pruning_gives(network: nn.Module) -> None:
    """Its own surgery on the module is a second opinion on what is coupled."""
    groups = coupled_channels(network, SHAPE)
    decision, gone = halved(decide(network), groups)
    pruned, theirs = copy.deepcopy(network), pytest.importorskip("torch_pruning")
    graph = theirs.DependencyGraph().build_dependency(pruned, example_inputs=torch.zeros(2, *SHAPE))
    for group, channels in zip(groups, gone, strict=True):
        first = group.makers[0].name.removesuffix(".weight")
        module = pruned.get_submodule(first)
        prune = theirs.prune_linear_out_channels if isinstance(module, nn.Linear) else theirs.prune_conv_out_channels
        graph.get_pruning_group(module, prune, idxs=channels.tolist()).prune()
    expected = trace(pruned, SHAPE).weighted()
    found = remove_dead(trace(network, SHAPE), decision).architecture.weighted()
    assert [sizes(layer) for layer in found] == [sizes(layer) for layer in expected]


def sizes(layer: Weighted) -> tuple[str, int, int]:
    if isinstance(layer, Linear):
        return layer.name, layer.in_features, layer.out_features
    return layer.name, layer.in_channels, layer.out_channels


def test_integers_of_the_decision_are_cut_and_not_changed(network: nn.Module) -> None:
    groups = coupled_channels(network, SHAPE)
    decision, gone = halved(decide(network, step=2.0**-12), groups)
    stored = remove_dead(trace(network, SHAPE), decision)
    for group, channels in zip(groups, gone, strict=True):
        left = np.setdiff1d(np.arange(group.size), channels)
        for part in group.readers:
            integers = np.take(decision.sites[part.name].integers(), part.of(left), axis=part.axis)
            rows = integers.any(axis=tuple(range(1, integers.ndim)))
            assert stored.tensors[part.name].quantizer == power_of_two(-12)
            held = stored.tensors[part.name].integers
            assert held is not None
            np.testing.assert_array_equal(held, integers[rows])


def test_a_residual_network_is_fitted_decided_and_compressed() -> None:
    torch.manual_seed(0)
    block = ResNet(BasicBlock, [1, 1, 1, 1]).layer1[0]
    network = nn.Sequential(nn.Conv2d(1, 64, 3, 4, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(network, prior=pc.models.GroupHorseshoe(), likelihood=pc.models.Categorical())
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=1, batch_size=512))
    decision = pc.analysis.prune(posterior, snr=0.1) & pc.analysis.bit_widths(posterior)
    # float32 biases, which take constants as they are and not rounded to a grid
    biases = {
        name: replace(site, quantizer=None, bits=np.where(site.kept(), 32, 0).astype(np.uint8))
        for name, site in decision.sites.items()
        if site.value.ndim == 1
    }
    decision = decision.with_sites(biases)
    artifact = pc.compress(network, decision, data.input_shape)
    x = data.test_x[:20]
    expected = masked(network, with_norms_on_grids(trace(network, data.input_shape), decision), x)
    with torch.no_grad():
        torch.testing.assert_close(artifact.to_torch()(x).double(), expected, rtol=1e-4, atol=1e-5)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2)
    )


def test_parts_of_a_group() -> None:
    network = small()
    random_state = torch.random.get_rng_state()
    groups = sorted(coupled_channels(network, (1, 4, 4)), key=lambda group: group.size)
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    assert [group.size for group in groups] == [2, 3]
    makers, readers = groups[0].makers, groups[0].readers
    assert sorted(part.name for part in makers) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert [(part.name, part.axis) for part in readers] == [("4.weight", 1)]
    assert readers[0].of(np.array([1])).tolist() == [4, 5, 6, 7]


def test_magnitude_is_the_norm_of_all_that_makes_or_reads_a_channel() -> None:
    network = small()
    decision = decide(network)
    group = min(coupled_channels(network, (1, 4, 4)), key=lambda group: group.size)
    state = network.state_dict()
    squares = state["0.weight"].square().sum((1, 2, 3)) + state["4.weight"].reshape(3, 2, 4).square().sum((0, 2))
    np.testing.assert_allclose(group.magnitude(decision), squares.sqrt().numpy(), rtol=1e-6)
    off = group.off(decision, [1])
    assert group.magnitude(off)[1] == 0 and group.magnitude(off)[0] == group.magnitude(decision)[0]
    assert not off.sites["1.bias"].kept()[1] and off.sites["4.bias"].kept().all()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    group = min(coupled_channels(network, (1, 4, 4)), key=lambda group: group.size)
    with pytest.raises(DecisionError, match="channels 0 to 2 given, the group has 0 to 1"):
        group.off(decide(network), [0, 2])
    with pytest.raises(DecisionError, match=r"site .* is missing from the decision"):
        group.off(Decision({}), [0])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(NetworkError, match="pip install 'pyro-compress\\[graphs\\]'"):
        coupled_channels(network, (1, 4, 4))


def test_channels_of_grouped_convolutions_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 2, 1))
    assert [group.size for group in coupled_channels(network, (1, 2, 2))] == [3]
