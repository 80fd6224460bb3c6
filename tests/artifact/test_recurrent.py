"""Recurrent modules as layers: every runtime computes what the pruned and rounded module does, without dead units."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError, UnstorableError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.quantizers import Uniform
from pyro_compress.network.sequence_layers import Recurrent
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.report.micronet import micronet_score
from tests.artifact import networks

PLACES, FEATURES, HIDDEN = 6, 5, 6


class Reads(nn.Module):
    """One recurrent module and a dense layer over what is taken of it."""

    def __init__(self, module: nn.RNNBase, take: str) -> None:
        super().__init__()
        self.states, self.take = module, take
        self.out = nn.Linear(HIDDEN * (1 + (module.bidirectional and take != "one direction")), 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.states.batch_first
        outputs, last = self.states(x if first else x.transpose(0, 1))
        if isinstance(self.states, nn.LSTM):
            last = last[0]
        if self.take == "outputs":
            taken = outputs if first else outputs.transpose(0, 1)
        elif self.take == "last":
            taken = outputs[:, -1] if first else outputs[-1]
        elif self.take == "mean":
            taken = outputs.mean(1 if first else 0)
        elif self.take == "one direction":
            taken = last[-1]
        elif self.states.bidirectional:
            taken = torch.cat([last[-2], last[-1, :, :]], dim=1)
        else:
            taken = last.squeeze(0) if self.states.num_layers == 1 else last[-1]
        found: Tensor = self.out(taken)
        return found


KINDS: dict[str, Any] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
# of the module, and what is taken of it
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "last output": ({"batch_first": True}, "last"),
    "both directions": ({"num_layers": 2, "bidirectional": True, "dropout": 0.3}, "states"),
    "one direction": ({"bidirectional": True, "batch_first": True}, "one direction"),
    "all places": ({"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3}, "outputs"),
    "without bias": ({"batch_first": True, "bias": False}, "states"),
    "places first": ({}, "mean"),
}


def decided(network: nn.Module, seed: int) -> Decision:
    """Weights and biases gone one by one, by inputs and by units; steps that differ from tensor to tensor."""
    random, sites = np.random.default_rng(seed), {}
    for name, parameter in network.named_parameters():
        shape = tuple(parameter.shape)
        value = 0.7 * random.normal(size=shape).astype(np.float32)
        kept = random.random(shape) < 0.8
        if len(shape) > 1:
            kept &= random.random(shape[1]) < 0.5
            if "states" in name:
                kept &= np.tile(random.random(HIDDEN) < 0.8, shape[0] // HIDDEN)[:, None]
        exponent = -5 if len(shape) > 1 else -8 if "hh" in name else -6
        bits = np.where(kept, 8, 0).astype(np.uint8)
        sites[name] = SiteDecision(value, np.zeros_like(value), bits, Uniform(2.0**exponent))
    return Decision(sites)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_runtime_computes_what_the_module_does(kind: str, form: str) -> None:
    torch.manual_seed(0)
    options, take = FORMS[form]
    network = Reads(KINDS[kind](FEATURES, HIDDEN, **options), take).eval()
    architecture, decision = trace(network, (PLACES, FEATURES)), decided(network, len(form))
    reduced = remove_dead(architecture, decision)
    units = [
        sum(layer.hidden for layer in a.layers if isinstance(layer, Recurrent))
        for a in (architecture, reduced.architecture)
    ]
    assert 0 < units[1] < units[0]
    network.load_state_dict({name: torch.from_numpy(site.stored()) for name, site in decision.sites.items()})
    x = torch.randn(5, PLACES, FEATURES)
    with torch.no_grad():
        expected = network(x).numpy()
    held = decode(encode(reduced))
    networks.assert_same(held, reduced)
    with torch.no_grad():
        found = [to_torch(held)(x).numpy(), forward(held)(x.numpy())]
    found += onnxruntime.InferenceSession(to_onnx(held)).run(None, {"input": x.numpy()})
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)


def test_units_that_others_need_stay_and_constant_ones_go() -> None:
    """Unit 2 feeds unit 1, which feeds unit 0, which alone is read; unit 3 feeds nothing, unit 4 is 0 for ever."""
    network = Reads(nn.GRU(FEATURES, HIDDEN, batch_first=True), "last").eval()
    values = {name: np.zeros(tuple(p.shape), np.float32) for name, p in network.named_parameters()}
    rows = np.arange(3 * HIDDEN).reshape(3, HIDDEN)
    for unit in (0, 1, 2, 3):
        values["states.weight_ih_l0"][rows[2, unit]] = 0.5
    for gate, to, of in ((2, 0, 1), (0, 1, 2), (2, 0, 4)):
        values["states.weight_hh_l0"][rows[gate, to], of] = 0.25
    # the gates of unit 4 do something, but its candidate is 0
    values["states.bias_hh_l0"][rows[1, 4]] = 1.0
    values["out.weight"][:, 0] = 1.0
    bits = {name: np.where(value != 0, 32, 0).astype(np.uint8) for name, value in values.items()}
    decision = Decision({name: SiteDecision(v, np.zeros_like(v), bits[name]) for name, v in values.items()})
    reduced = remove_dead(trace(network, (PLACES, FEATURES)), decision)
    (states,) = (layer for layer in reduced.architecture.layers if isinstance(layer, Recurrent))
    assert states.hidden == 3
    np.testing.assert_array_equal(np.argwhere(reduced.tensors[f"{states.name}.weight"].dense()), [[1, 2], [6, 1]])


def test_a_bias_that_can_is_added_to_that_of_the_layer_in_front() -> None:
    network = Reads(nn.GRU(FEATURES, HIDDEN, batch_first=True), "last")
    values = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    sites = {n: SiteDecision(v, np.zeros_like(v), np.full(v.shape, 32, np.uint8)) for n, v in values.items()}
    tensors = remove_dead(trace(network, (PLACES, FEATURES)), Decision(sites)).tensors
    given, own = values["states.bias_ih_l0"], values["states.bias_hh_l0"]
    front = np.concatenate([(given + own)[: 2 * HIDDEN], given[2 * HIDDEN :]])
    np.testing.assert_allclose(tensors["states.ih_l0.bias"].dense(), front, rtol=1e-6)
    np.testing.assert_array_equal(tensors["states.hh_l0.bias"].dense(), own[2 * HIDDEN :])


class Given(Reads):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.states(x, x[:, :, 0].unsqueeze(0))[0][:, -1])
        return found


class Cells(Reads):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.states(x)[1][1][-1])
        return found


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (
            Given(nn.GRU(FEATURES, HIDDEN, batch_first=True), ""),
            r"'states' \(GRU\) starts from a state that it is given",
        ),
        (Cells(nn.LSTM(FEATURES, HIDDEN, batch_first=True), ""), "supported are its outputs and the last state of h"),
        (Reads(nn.LSTM(FEATURES, 9, batch_first=True, proj_size=HIDDEN), "last"), "projects its states"),
    ],
    ids=["a state", "cells", "projection"],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_what_no_layer_describes_is_refused(network: nn.Module, sentence: str) -> None:
    with pytest.raises(UnstorableError, match=sentence):
        trace(network, (PLACES, FEATURES))


def test_a_sequence_that_is_too_long_is_refused_before_memory_is_taken() -> None:
    layers = (Recurrent("recurrent1", "rnn_relu", 1),)
    tensors = {"recurrent1.weight": StoredTensor(floats=np.ones((1, 1), np.float32))}
    allowed = encode(StoredNetwork(Architecture((1, 1, 2**16), layers), tensors))
    assert decode(allowed).architecture.input_shape == (1, 1, 2**16)
    with pytest.raises(ArtifactError, match="goes through 65537 positions, more than 65536"):
        encode(StoredNetwork(Architecture((1, 1, 2**16 + 1), layers), tensors))


def test_products_with_states_count_at_every_place() -> None:
    """An RNN of 2 units over 6 places: 3 weights that are not zero, a product and a sum for each, and a maximum."""
    weight = StoredTensor(np.array([[1, 0], [2, -1]], np.int32), Uniform(0.5))
    network = StoredNetwork(Architecture((2, 1, 6), (Recurrent("states1", "rnn_relu", 2),)), {"states1.weight": weight})
    (cost,) = micronet_score(network, "cifar-100").layers
    assert (cost.multiplies, cost.additions) == (6 * (3 + 2), 6 * 3)
