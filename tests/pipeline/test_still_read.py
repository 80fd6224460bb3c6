"""Trained on the grid is what kept weights lead from: a narrower network that learns what the masked one does."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import read
from pyro_compress.network.numbers import Numbers
from pyro_compress.pipeline.fine_tuning import still_read
from tests.models.test_narrowing import Concatenated, Residual, Written


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


MAKERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense, (6,)),
    "convolution": (convolution, (2, 9, 8)),
    "residual": (Residual, (2, 8, 8)),
    "concatenated": (Concatenated, (2, 8, 8)),
}


def masked(kind: str, seed: int) -> tuple[nn.Module, Architecture, Decision]:
    """A random network with whole rows and columns pruned, weights inside the rest too; pruned ones are zero in it."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    make, shape = MAKERS[kind]
    network = make()
    sites = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().numpy().copy()
        mask = np.ones(value.shape, bool)
        if value.ndim > 1:
            mask = generator.random(value.shape) < 0.7
            mask[:, generator.random(value.shape[1]) < 0.4] = False
            if name != "head.weight":
                mask[generator.random(value.shape[0]) < 0.4] = False
        sites[name] = SiteDecision(value, np.zeros_like(value), np.where(mask, 32, 0).astype(np.uint8))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(sites[name].stored()))
    buffers = {name: buffer.numpy().copy() for name, buffer in network.named_buffers() if buffer.is_floating_point()}
    return network, trace(network, shape), Decision(sites, buffers)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(4))
def test_outputs_and_gradients_are_those_of_the_masked_network(kind: str, seed: int) -> None:
    """A narrower network gives the same; weights that it leaves out and that are kept have no gradient."""
    network, architecture, decision = masked(kind, seed)
    left = still_read(network, architecture, decision)
    small, whole = (dict(module.named_parameters()) for module in (left.network, network))
    assert sum(part.numel() for part in small.values()) < sum(part.numel() for part in whole.values())
    # batch norms of both see the same batch
    x, y = torch.randn(16, *architecture.input_shape), torch.randint(3, (16,))
    made, expected = left.network.train()(x), network.train()(x)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)
    cross_entropy(expected, y).backward()
    cross_entropy(made, y).backward()
    for name, site in decision.sites.items():
        gradient, of_whole = small[name].grad, whole[name].grad
        assert gradient is not None and of_whole is not None
        put_back = left.put_back(name, gradient.numpy(), site.value.shape)
        kept = site.kept()
        np.testing.assert_allclose(put_back[kept], of_whole.numpy()[kept], rtol=1e-3, atol=1e-5)


def test_what_leads_to_no_output_goes_and_biases_alone_keep_nothing() -> None:
    _, architecture, decision = masked("dense", 0)
    kept = {name: np.ones(site.value.shape, np.float32) for name, site in decision.sites.items()}
    # unit 1 of the second layer leads nowhere, so that neither does unit 2 of the first, which only it reads
    kept["c.weight"][:, 1] = 0.0
    kept["b.weight"][:, 2] = 0.0
    kept["b.weight"][1, 2] = 1.0
    # unit 3 of the first layer is read, and stays: its bias is trained, though no weight reaches it
    kept["a.weight"][3] = 0.0
    masks = [np.flatnonzero(~mask).tolist() for mask in read(architecture, Numbers(kept, {}))]
    assert masks == [[], [2], [2], [1], [1], []]


def test_a_layer_without_any_weight_keeps_one_unit() -> None:
    network, architecture, decision = masked("dense", 1)
    weight = decision.sites["b.weight"]
    decision = decision.with_sites({"b.weight": SiteDecision(weight.value, weight.variance, 0 * weight.bits)})
    network.get_parameter("b.weight").data.zero_()
    left = still_read(network, architecture, decision)
    assert left.network.get_parameter("b.weight").shape[1] == 1
    x = torch.randn(4, 6)
    with torch.no_grad():
        torch.testing.assert_close(left.network(x), network(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_put_back_is_the_way_back_of_take(kind: str) -> None:
    network, architecture, decision = masked(kind, 2)
    left = still_read(network, architecture, decision)
    for name, site in decision.sites.items():
        taken = left.take(name, site.value)
        whole = left.put_back(name, taken, site.value.shape)
        assert np.array_equal(left.take(name, whole), taken)
        assert np.array_equal(whole[whole != 0], site.value[whole != 0])
        assert (whole != 0).sum() == (taken != 0).sum()


def test_a_network_that_cannot_be_narrower_is_trained_whole_and_is_a_copy() -> None:
    network = Written("view")
    sites = {
        name: SiteDecision(value.detach().numpy(), np.zeros(value.shape, np.float32), np.zeros(value.shape, np.uint8))
        for name, value in network.named_parameters()
    }
    left = still_read(network, trace(network, (1, 6, 6)), Decision(sites))
    assert not left.index and left.network is not network
    assert [p.shape for p in left.network.parameters()] == [p.shape for p in network.parameters()]


def test_what_is_frozen_stays_frozen() -> None:
    network, architecture, decision = masked("convolution", 3)
    network.get_parameter("b.weight").requires_grad_(False)
    left = still_read(network, architecture, decision)
    frozen = [name for name, parameter in left.network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["b.weight"] and "b.weight" in left.index
