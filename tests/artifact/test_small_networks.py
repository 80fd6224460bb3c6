"""From a module to a file and back: what is decoded computes what the masked module does, in all runtimes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.analysis.decisions.norms import with_norms_on_grids
from pyro_compress.analysis.decisions.structure import remove_dead, remove_dead_spread
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import DecisionError, NetworkError
from pyro_compress.models.tracing.operations import MODULES
from pyro_compress.models.tracing.rules import as_module
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.further_layers import Concatenate, Standardize
from pyro_compress.network.layers import Activation, ChannelAffine, Conv2d
from pyro_compress.network.quantizers import PerChannel
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.pipeline.as_layers import as_it_is, checked
from pyro_compress.pipeline.compressing import compress
from pyro_compress.report.micronet import micronet_score, products
from tests.analysis.decisions.masked_networks import clear, decide, in_float32, inputs, masked, put, randomise, run
from tests.artifact.small_networks import SMALL

TOLERANCE = 1e-5


def pruned(network: nn.Module, generator: np.random.Generator, step: float | None) -> Decision:
    """Some single weights, inputs and outputs of every layer gone; biases in float32, as they take folds."""
    masks = {}
    for name, parameter in network.named_parameters():
        mask = generator.random(parameter.shape) < 0.8
        for axis in range(2) if parameter.ndim > 1 else ():
            along = [1] * parameter.ndim
            along[axis] = -1
            mask &= (generator.random(parameter.shape[axis]) < generator.choice([0.5, 0.9])).reshape(along)
        # a divisor stays
        masks[name] = mask | (name == "temperature")
    decision = decide(network, masks, step)
    return decision.with_sites({n: in_float32(s) for n, s in decision.sites.items() if s.value.ndim == 1})


def assert_runs_as(stored: StoredNetwork, x: torch.Tensor, expected: torch.Tensor) -> None:
    """In float64 nearly to the digit, and decoded from its file in torch, numpy and ONNX Runtime."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(run(stored, x), expected, rtol=0, atol=1e-6 * scale)
    found = decode(encode(stored))
    session = onnxruntime.InferenceSession(to_onnx(found), providers=["CPUExecutionProvider"])
    given = x.numpy() if found.architecture.tokens is None else x.long().numpy()
    with torch.no_grad():
        outputs = to_torch(found)(x).numpy(), forward(found)(x.numpy()), session.run(None, {"input": given})[0]
    for output in outputs:
        np.testing.assert_allclose(output, expected.numpy(), rtol=0, atol=TOLERANCE * scale)
    for output in (to_torch(found)(x[:0]), forward(found)(x[:0].numpy())):
        assert output.shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", range(5))
def test_pruned_networks_run_as_their_masked_modules(name: str, seed: int) -> None:
    make, shape = SMALL[name]
    generator = np.random.default_rng(seed)
    network = make().eval()
    randomise(network, generator)
    decision = pruned(network, generator, 2.0**-7 if seed % 2 else None)
    stored = remove_dead(trace(network, shape), decision)
    x = inputs(network, shape, 4, generator)
    assert_runs_as(stored, x, masked(network, decision, x))


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_scored_as_they_are(name: str) -> None:
    make, shape = SMALL[name]
    network = make().eval()
    randomise(network, np.random.default_rng(9))
    stored = as_it_is(network, shape)
    x = inputs(network, shape, 3, np.random.default_rng(0))
    with torch.no_grad():
        expected = network.double()(x.double())
    torch.testing.assert_close(run(stored, x), expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))
    assert checked(network.float(), shape) == trace(network, shape)
    assert sum(cost.multiplies for cost in micronet_score(stored).layers) >= sum(products(stored).values()) > 0


def test_layers_that_compute_something_else_are_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a rule were wrong."""
    network = nn.Sequential(nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 2))
    randomise(network, np.random.default_rng(0))
    assert compress(network, decide(network), (4,)).network.architecture == trace(network, (4,))
    monkeypatch.setitem(MODULES, nn.ELU, as_module(lambda before: [Activation("relu")]))
    with pytest.raises(NetworkError, match=r"compute something else: outputs of up to .* differ by .*; please report"):
        compress(network, decide(network), (4,))


@pytest.mark.parametrize("name", ["normalised", "unet", "series", "encoder", "channels last", "rezero"])
def test_weights_and_biases_of_norms_stand_on_grids(name: str) -> None:
    """What the search judges in the module is what the file holds, also where a norm has no running statistics."""
    make, shape = SMALL[name]
    generator = np.random.default_rng(7)
    network, architecture = make().eval(), trace(make(), shape)
    randomise(network, generator)
    decision = pruned(network, generator, 2.0**-7)
    judged = with_norms_on_grids(architecture, decision)
    stored = stored_network(architecture, decision)
    x = torch.from_numpy(generator.normal(size=(4, *shape))).float()
    assert_runs_as(stored, x, masked(network, judged, x))
    norms = [layer for layer in stored.architecture.layers if isinstance(layer, ChannelAffine)]
    assert norms and all(stored.tensors[f"{layer.name}.scale"].integers is not None for layer in norms)


def with_variance(network: nn.Module) -> Decision:
    """Weights with a step for each of their channels, and a variance that rounding counts for little against."""
    found = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().numpy().copy()
        site = SiteDecision(value, np.full_like(value, 0.01), np.full(value.shape, 32, np.uint8))
        many = value.ndim > 1
        found[name] = site.on(PerChannel(tuple(0.05 + 0.01 * np.arange(len(value)) % 0.03))) if many else site
    return Decision(found, {n: b.numpy().copy() for n, b in network.named_buffers() if "running" in n})


def test_filters_over_positions_are_refined_and_keep_their_deviations() -> None:
    """They have three axes in the posterior and the decision, four in the file."""
    network = SMALL["series"][0]().eval()
    randomise(network, np.random.default_rng(8))
    architecture, decision = trace(network, (2, 16)), with_variance(network)
    refined = refine(architecture, decision, 0.5)
    weight, other = decision.sites["first.weight"], refined.sites["first.weight"]
    assert other.value.shape == weight.value.shape == (6, 2, 5)
    assert np.abs(other.integers()).sum() < np.abs(weight.integers()).sum()
    stored = stored_network(architecture, refined, keep_deviations=True)
    assert stored.deviations["first.weight"].shape == stored.tensors["first.weight"].shape
    assert stored.tensors["first.weight"].shape[2] == 1
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, with_norms_on_grids(architecture, refined), x))


def test_a_dead_channel_of_a_dense_block_goes_from_all_its_readers() -> None:
    network = SMALL["dense"][0]().eval()
    randomise(network, np.random.default_rng(0))
    # the first convolution of the block makes the channels 5, 6 and 7: nobody reads 6, the head alone does not read 7
    for name, reads in (("convs.1.weight", 6), ("convs.2.weight", 6), ("head.weight", 6), ("head.weight", 7)):
        clear(network, name, slice(None), reads)
    decision = decide(network)
    stored = remove_dead(trace(network, (3, 6, 7)), decision)
    convolutions = {layer.name: layer for layer in stored.architecture.layers if isinstance(layer, Conv2d)}
    assert [convolutions[f"convs.{k}"].out_channels for k in range(3)] == [2, 3, 3]
    assert [convolutions[f"convs.{k}"].in_channels for k in range(3)] == [5, 7, 10]
    assert stored.architecture.weighted()[-1].in_features == 12  # type: ignore[union-attr]
    assert sum(isinstance(layer, Concatenate) for layer in stored.architecture.layers) == 3
    x = torch.randn(3, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


def test_a_closed_gate_takes_its_channel_away() -> None:
    """What is multiplied with the constant 0 is not made."""
    network = SMALL["gated"][0]()
    randomise(network, np.random.default_rng(1))
    for name in ("both.weight", "both.bias"):
        clear(network, name, [2, 5])  # values of the units 2 and 5
    decision = decide(network)
    stored = remove_dead(trace(network, (6,)), decision)
    both, back, _ = stored.architecture.weighted()
    assert (both.out_features, back.in_features) == (12, 6)  # type: ignore[union-attr]
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


def test_what_a_mean_and_variance_are_made_of_stays() -> None:
    """Unit 1 is unread behind the norm, unit 2 constant in front of it: both count for the others."""
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2))
    randomise(network, np.random.default_rng(2))
    clear(network, "0.weight", 2)
    put(network, {"0.bias": [0.3, 0.1, 0.7, 0.2]})
    clear(network, "3.weight", slice(None), 1)
    decision = decide(network)
    stored = remove_dead(trace(network, (3,)), decision)
    first, last = stored.architecture.weighted()
    assert (first.out_features, last.in_features) == (4, 3)  # type: ignore[union-attr]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


def test_whole_groups_of_a_group_norm_go() -> None:
    network = nn.Sequential(nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten())
    randomise(network, np.random.default_rng(3))
    clear(network, "3.weight", slice(None), [2, 3, 4])  # the second group, and half of the third
    decision = decide(network)
    stored = remove_dead(trace(network, (2, 3, 4)), decision)
    first, last = stored.architecture.weighted()
    assert (first.out_channels, last.in_channels) == (4, 3)  # type: ignore[union-attr]
    assert Standardize(2, 1e-5) in stored.architecture.layers
    assert ChannelAffine("1", 3) in stored.architecture.layers
    x = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


def test_a_constant_group_is_a_constant_behind_its_norm() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1), nn.Flatten())
    randomise(network, np.random.default_rng(4))
    clear(network, "0.weight", [2, 3])
    decision = decide(network)
    stored = remove_dead(trace(network, (2, 3, 4)), decision)
    assert [layer.out_channels for layer in stored.architecture.weighted()] == [2, 2]  # type: ignore[union-attr]
    x = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_constant_channel_is_folded_through_padding_that_keeps_it(mode: Any) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1, padding_mode=mode))
    put(network, {"0.bias": 0.7})
    clear(network, "0.weight", 1)
    decision = decide(network)
    stored = remove_dead(trace(network, (1, 5, 6)), decision)
    first = stored.architecture.weighted()[0]
    assert first.out_channels == (2 if mode == "zeros" else 1)  # type: ignore[union-attr]
    x = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


class Gate(nn.Module):
    """A gate of one channel for an image, one number for a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.body = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 1, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.share, self.head = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.tanh(self.body(x * torch.sigmoid(self.gate(x)))).mean((2, 3))
        return self.head(x * torch.sigmoid(self.share(x)))


def test_channels_go_beside_a_gate_of_one() -> None:
    network = Gate().eval()
    randomise(network, np.random.default_rng(5))
    for name in ("gate.weight", "body.weight"):
        clear(network, name, slice(None), [1, 4])
    clear(network, "body.weight", slice(None), 2)  # which the gate reads
    clear(network, "head.weight", slice(None), 3)  # which the share reads
    decision = decide(network)
    stored = remove_dead(trace(network, (2, 5, 4)), decision)
    assert [stored.tensors[f"{name}.weight"].shape[:2] for name in ("stem", "gate", "body", "share", "head")] == [
        *((4, 2), (1, 4), (4, 4), (1, 4), (3, 4)),
    ]
    x = torch.randn(5, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, decision, x))


def test_learned_numbers_are_stored_as_they_are_decided() -> None:
    """One number for all channels takes no grid of a norm: what is judged is what was decided, to float32."""
    network = SMALL["scalars"][0]().eval()
    architecture = trace(network, (2, 6, 5))
    randomise(network, np.random.default_rng(3))
    decision = pruned(network, np.random.default_rng(3), 2.0**-7)
    own = ("before", "behind", "share", "logarithm", "temperature")
    put(network, dict.fromkeys(own, 0.3))
    decision = decision.with_sites({name: decide(network).sites[name] for name in own})
    judged, stored = with_norms_on_grids(architecture, decision), stored_network(architecture, decision)
    assert all(judged.sites[name] is decision.sites[name] for name in own)
    x = torch.randn(4, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    assert_runs_as(stored, x, masked(network, judged, x))
    shares = stored.tensors["share.scale"].dense(), stored.tensors["share_1.scale"].dense()
    np.testing.assert_allclose(shares[0] + shares[1], 1, rtol=1e-6)
    assert stored.tensors["temperature.scale"].integers is not None
    np.testing.assert_allclose(stored.tensors["temperature.scale"].dense(), 1 / 0.3, rtol=1e-6)


def test_spreads_of_functions_of_a_parameter_are_those_of_their_derivatives() -> None:
    network = SMALL["scalars"][0]().eval()
    put(network, dict.fromkeys(("share", "logarithm", "temperature"), 0.3))
    sites = {
        name: replace(site, variance=np.full_like(site.value, 1e-4)) for name, site in decide(network).sites.items()
    }
    _, spread = remove_dead_spread(trace(network, (2, 6, 5)), Decision(sites, {}))
    sigmoid = 1 / (1 + math.exp(-0.3))
    slopes = {"share": sigmoid * (1 - sigmoid), "logarithm": math.exp(0.3), "temperature": -1 / 0.09}
    for name, slope in slopes.items():
        np.testing.assert_allclose(spread[f"{name}.scale"], 1e-4 * slope**2, rtol=1e-2)
    np.testing.assert_allclose(spread["more.scale"], 1e-4, rtol=1e-5)
    np.testing.assert_allclose(spread["each.shift"], 1e-4, rtol=1e-5)


def test_a_divisor_that_is_pruned_is_refused() -> None:
    network = SMALL["scalars"][0]().eval()
    put(network, {"temperature": 0.0})
    sentence = r"decision on temperature stores 0, and what is made of that by the network \(reciprocal\) is not finite"
    with pytest.raises(DecisionError, match=sentence):
        remove_dead(trace(network, (2, 6, 5)), decide(network))
