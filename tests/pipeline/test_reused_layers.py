"""Networks that call a layer several times, from a fit to a file."""

import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.errors import DecisionError, InferenceError, SharedDrawsWarning
from pyro_compress.network.architecture import Conv2d
from pyro_compress.network.stored import tied_weights

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
    kept = artifact.network.tensors["output.weight"].shape
    assert kept == artifact.network.tensors["embed.weight"].shape and kept[0] == 17
    module, found = artifact.to_torch(), forward(artifact.network)(data.test_x.numpy())
    torch.testing.assert_close(module(data.test_x), torch.from_numpy(found), rtol=1e-4, atol=1e-4)
    # the same weights in the module that was given, whose units are all there
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(decision.sites[name].stored()))
    torch.testing.assert_close(network.eval()(data.test_x), torch.from_numpy(found), rtol=1e-3, atol=1e-3)
    error = float((found.argmax(1) != data.test_y.numpy()).mean())
    assert error < 0.5 and pc.evaluate(artifact, data)["error_after_percent"] == pytest.approx(100 * error, abs=0.6)


def test_masks_of_dropout_are_of_modules_and_not_of_a_weight_of_several() -> None:
    model = pc.BayesianNetwork(Shared(), "normal")
    x = torch.randint(0, 17, (40, 6)).float()
    data = pc.data.as_data((x, x.long().amax(1)), classes=17)
    with pytest.raises(InferenceError, match=r"MC dropout cannot draw embed\.weight, which several modules have"):
        pc.fit(model, data, pc.inference.MCDropout(epochs=1))
    posterior = pc.fit(model, data, pc.inference.Dropout(epochs=1))
    assert posterior.parameters["embed.weight"].mean.shape == (17, 12)


def test_units_of_such_networks_are_not_ranked() -> None:
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(Steps(), "log-uniform", "categorical")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=1))
    with pytest.raises(DecisionError, match="this network is none"):
        pc.decide(posterior, model, data, pc.DecisionSettings(remove_units_percent=50.0, fine_tune_epochs=0))
