"""The compact network that fine-tuning trains computes, and learns, what the masked one does."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pyro_compress.analysis.decisions.compaction import Compaction, can_compact, compact
from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Add, Architecture, Conv2d, Linear, Select

SHAPES = {"dense": (6,), "convolution": (2, 9, 8)}


def dense() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(a=nn.Linear(6, 5), r=nn.ReLU(), b=nn.Linear(5, 7, bias=False), t=nn.Tanh(), c=nn.Linear(7, 3))
    )


def convolution() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            a=nn.Conv2d(2, 6, 3, padding=1), r=nn.ReLU(), p=nn.MaxPool2d(2), b=nn.Conv2d(6, 5, 2), s=nn.ReLU(),
            f=nn.Flatten(), c=nn.Linear(45, 8), t=nn.ReLU(), d=nn.Linear(8, 3),
        )
    )  # fmt: skip


MAKERS = {"dense": dense, "convolution": convolution}


def masked(kind: str, seed: int) -> tuple[nn.Sequential, Architecture, Decision]:
    """A random network with whole rows and columns pruned, weights inside the rest too; pruned ones are zero in it."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = MAKERS[kind]()
    sites = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().numpy().copy()
        mask = np.ones(value.shape, bool)
        if value.ndim > 1:
            mask = generator.random(value.shape) < 0.7
            mask[:, generator.random(value.shape[1]) < 0.4] = False
            mask[generator.random(value.shape[0]) < 0.2] = False
        sites[name] = SiteDecision(value, np.zeros_like(value), np.where(mask, 32, 0).astype(np.uint8))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(sites[name].stored()))
    return network, trace(network, SHAPES[kind]), Decision(sites)


def names(made: Compaction) -> dict[str, str]:
    """Parameter name in `to_torch` of a compaction → original name."""
    return {
        f"{position}.{kind}": f"{layer.name}.{kind}"
        for position, layer in enumerate(made.network.architecture.layers)
        if isinstance(layer, Linear | Conv2d)
        for kind in ("weight", "bias")
        if f"{layer.name}.{kind}" in made.index
    }


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(6))
def test_output_equals_that_of_the_masked_network(kind: str, seed: int) -> None:
    network, architecture, decision = masked(kind, seed)
    made = compact(architecture, decision)
    x = torch.randn(4, *SHAPES[kind])
    with torch.no_grad():
        torch.testing.assert_close(to_torch(made.network)(x), network(x), rtol=1e-5, atol=1e-6)
    layers = [layer for layer in made.network.architecture.layers if isinstance(layer, Linear | Conv2d)]
    before = [decision.sites[f"{layer.name}.weight"].value.size for layer in layers]
    after = [made.network.tensors[f"{layer.name}.weight"].dense().size for layer in layers]
    assert sum(after) < 0.8 * sum(before)


def test_inputs_that_nothing_reads_are_left_out_by_a_selection() -> None:
    network, architecture, decision = masked("dense", 0)
    weight = decision.sites["a.weight"]
    bits = weight.bits.copy()
    bits[:, [0, 3]], bits[0, [1, 2, 4, 5]] = 0, 32
    decision = decision.with_sites({"a.weight": SiteDecision(weight.value, weight.variance, bits)})
    with torch.no_grad():
        network.get_parameter("a.weight").copy_(torch.from_numpy(decision.sites["a.weight"].stored()))
    made = compact(architecture, decision)
    assert made.network.architecture.layers[0] == Select((1, 2, 4, 5))
    x = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(to_torch(made.network)(x), network(x), rtol=1e-5, atol=1e-6)


def test_a_layer_without_any_weight_keeps_one_unit() -> None:
    network, architecture, decision = masked("dense", 1)
    weight = decision.sites["b.weight"]
    decision = decision.with_sites({"b.weight": SiteDecision(weight.value, weight.variance, 0 * weight.bits)})
    network.get_parameter("b.weight").data.zero_()
    made = compact(architecture, decision)
    assert made.network.tensors["b.weight"].shape[1] == 1
    x = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(to_torch(made.network)(x), network(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_put_back_is_the_way_back_of_take(kind: str) -> None:
    _, architecture, decision = masked(kind, 2)
    made = compact(architecture, decision)
    for name, site in decision.sites.items():
        taken = made.take(name, site.value)
        assert np.array_equal(made.take(name, made.put_back(name, taken, site.value.shape)), taken)
        whole = made.put_back(name, taken, site.value.shape)
        assert np.array_equal(whole[whole != 0], site.value[whole != 0])
        assert (whole == 0).sum() == site.value.size - taken.size


@pytest.mark.parametrize("kind", MAKERS)
def test_training_it_is_training_the_masked_network(kind: str) -> None:
    """Gradients of the compact network are those of the masked one; weights that it leaves out have none."""
    network, architecture, decision = masked(kind, 3)
    made = compact(architecture, decision)
    small = to_torch(made.network).train()
    x, y = torch.randn(16, *SHAPES[kind]), torch.randint(3, (16,))
    cross_entropy(network(x), y).backward()
    cross_entropy(small(x), y).backward()
    for own, original in names(made).items():
        gradient, whole = small.get_parameter(own).grad, network.get_parameter(original).grad
        assert gradient is not None and whole is not None
        kept = made.take(original, decision.sites[original].kept())
        expected = made.take(original, whole.numpy())
        assert gradient.numpy()[kept] == pytest.approx(expected[kept], rel=1e-4, abs=1e-6)
        outside = np.ones(whole.shape, bool)
        outside[made.index[original]] = False
        if original.endswith("weight"):
            assert not decision.sites[original].kept()[outside & (whole.numpy() != 0)].any()


def test_it_is_refused_where_units_cannot_be_left_out() -> None:
    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert not can_compact(trace(normed, (4,)))
    assert not can_compact(trace(grouped, (4, 2, 2)))
    assert not can_compact(Architecture((2,), (Linear("a", 2, 2, True), Add(0))))
    assert can_compact(trace(dense(), (6,))) and can_compact(trace(convolution(), (2, 9, 8)))
