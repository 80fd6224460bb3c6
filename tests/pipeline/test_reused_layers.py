"""Networks that call a layer several times, from a fit to a file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.errors import DecisionError, InferenceError, NetworkError, SharedDrawsWarning
from pyro_compress.network.layers import Conv2d
from pyro_compress.network.stored import tied_weights
from tests.pipeline.conftest import cli

pytestmark = pytest.mark.filterwarnings("ignore::pyro_compress.errors.SharedDrawsWarning")


class Steps(nn.Module):
    """A residual step, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.step, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for _ in range(3):
            x = x + torch.relu(self.step(x))
        return self.head(x.amax((2, 3)))


def test_the_file_has_the_layer_at_all_its_places() -> None:
    torch.manual_seed(0)
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(Steps(), "log-uniform", "categorical")
    # noise of a sum would be another one at every place, where the weight is one
    with pytest.warns(SharedDrawsWarning, match=r"drawn once per step, for all examples together: step\.weight;"):
        posterior = pc.fit(model, data, pc.inference.SVI(epochs=20, batch_size=64, learning_rate=1e-2))
    decision = pc.decide(posterior, model, data, pc.DecisionSettings(fine_tune_epochs=2, rate_weights=(1.0,)))
    network = pc.compress(model, decision, data=data).network
    layers = [layer for layer in network.architecture.layers if isinstance(layer, Conv2d)]
    assert [layer.name for layer in layers] == ["stem", "step", "step", "step"]
    outputs = forward(network)(data.test_x.numpy())
    assert float((outputs.argmax(1) != data.test_y.numpy()).mean()) < 0.3


class Shared(nn.Module):
    """Tokens whose embedding is the output's weight, and two dense layers of one weight between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Embedding(17, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.output = nn.Linear(12, 17)
        self.second.weight, self.output.weight = self.first.weight, self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.long()).mean(1)
        logits: torch.Tensor = self.output(torch.relu(self.second(torch.relu(self.first(x)))))
        return logits


@pytest.mark.parametrize("prior", ["log-uniform", "group-horseshoe"])
def test_weights_of_several_modules_are_one_parameter_and_once_in_the_file(prior: str) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 17, (900, 6)).float()
    data = pc.data.as_data((x[:700], x[:700].long().amax(1)), validation=100, test=(x[700:], x[700:].long().amax(1)))
    network = Shared()
    model = pc.BayesianNetwork(network, prior)
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=30, batch_size=50, learning_rate=1e-2, kl_weight=0.1))
    assert {name for name in posterior.parameters if "weight" in name} == {"embed.weight", "first.weight"}
    decision = pc.decide(posterior, network, data, pc.DecisionSettings(fine_tune_epochs=3, rate_weights=(1.0,)))
    artifact = pc.compress(network, decision, data=data)
    assert tied_weights(artifact.network) == {"second.weight": "first.weight", "output.weight": "embed.weight"}
    # biases of modules whose weight has another name are on grids too
    assert all(site.quantizer is not None for name, site in decision.sites.items() if "bias" in name)
    kept = artifact.network.tensors["output.weight"].shape
    assert kept == artifact.network.tensors["embed.weight"].shape and kept[0] == 17
    module, found = artifact.to_torch(), forward(artifact.network)(data.test_x.numpy())
    torch.testing.assert_close(module(data.test_x), torch.from_numpy(found), rtol=1e-4, atol=1e-4)
    # trained further they stay one
    held = dict(module.named_parameters())
    assert sum(name.endswith("weight") for name in held) == 2
    shared = [part for part in module if getattr(part, "weight", None) is not None]
    assert len(shared) == 4 and len({id(part.weight) for part in shared}) == 2
    # the same weights in the module that was given, whose units are all there
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(decision.sites[name].stored()))
    torch.testing.assert_close(network.eval()(data.test_x), torch.from_numpy(found), rtol=1e-3, atol=1e-3)
    error = float((found.argmax(1) != data.test_y.numpy()).mean())
    assert error < 0.5 and pc.evaluate(artifact, data)["error_after_percent"] == pytest.approx(100 * error, abs=0.6)


def test_the_command_line_counts_the_weights_once_and_reads_files_of_any_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sharing.py").write_text(
        "import torch, pyro_compress as pc\n"
        "from tests.pipeline.test_reused_layers import Shared as net\n"
        "def data():\n"
        "    x = torch.randint(0, 17, (300, 6), generator=torch.Generator().manual_seed(0)).float()\n"
        "    y = x.long().amax(1)\n"
        "    parts = dict(validation=50, test=(x[200:], y[200:]), classes=17)\n"
        "    return pc.data.as_data((x[:200], y[:200]), **parts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    network = Shared()
    save_model(network, "given.safetensors")  # which leaves names out
    options = ("--network", "sharing:net", "--data", "sharing:data", "--prior", "normal", "--threads", "1")
    called = cli(
        "run", *options, "--weights", "given.safetensors", "--epochs", "10", "--pretrain-epochs", "10", "--out", "run",
        "--set", "method.learning_rate=0.02", "--kl-weight", "0.01", "--set", "decision.fine_tune_epochs=0",
    )  # fmt: skip
    assert called.code == 0, called.err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 50 < found["weights_left_percent"] <= 100
    state = {name: value.clone() for name, value in network.state_dict().items()}
    save_file({**state, "second.weight": state["second.weight"] + 1}, "two.safetensors")
    with pytest.raises(NetworkError, match=r"first\.weight and second\.weight are one parameter of the network"):
        pc.models.load_weights(network, "two.safetensors")
    save_file({name: value for name, value in state.items() if "output" not in name}, "less.safetensors")
    with pytest.raises(NetworkError, match=r"the file lacks output\.bias$"):
        pc.models.load_weights(network, "less.safetensors")


def test_masks_of_dropout_are_of_modules_and_not_of_a_weight_of_several() -> None:
    model = pc.BayesianNetwork(Shared(), "normal")
    x = torch.randint(0, 17, (40, 6)).float()
    data = pc.data.as_data((x, x.long().amax(1)), classes=17)
    with pytest.raises(InferenceError, match=r"MC dropout cannot draw embed\.weight, which several modules have"):
        pc.fit(model, data, pc.inference.MCDropout(epochs=1))
    posterior = pc.fit(model, data, pc.inference.Dropout(epochs=1))
    assert posterior.parameters["embed.weight"].mean.shape == (17, 12)


@pytest.mark.filterwarnings("ignore:on validation the posterior mean does no better")
def test_units_of_such_networks_are_not_ranked() -> None:
    torch.manual_seed(0)
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(Steps(), "log-uniform", "categorical")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=1))
    with pytest.raises(DecisionError, match="this network is none"):
        pc.decide(posterior, model, data, pc.DecisionSettings(remove_units_percent=50.0, fine_tune_epochs=0))
