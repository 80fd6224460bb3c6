"""Networks that call a layer several times, from a fit to a file."""

import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.errors import DecisionError, SharedDrawsWarning
from pyro_compress.network.architecture import Conv2d

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


def test_units_of_such_networks_are_not_ranked() -> None:
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(Steps(), "log-uniform", "categorical")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=1))
    with pytest.raises(DecisionError, match="this network is none"):
        pc.decide(posterior, model, data, pc.DecisionSettings(remove_units_percent=50.0, fine_tune_epochs=0))
