"""Networks with parameters that are a single number, such as a factor of a branch, from a fit to a file."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.network.layers import ChannelAffine


class Branch(nn.Module):
    """x + a f(x) with one a for all channels, and outputs over a temperature t."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 10)
        self.a, self.t = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.a * torch.relu(self.branch(x))
        logits: Tensor = self.head(x.amax((2, 3))) * self.t
        return logits


@pytest.mark.parametrize("kind", ["runnable", "weights"])
def test_the_file_has_the_number_that_was_fitted(kind: str) -> None:
    torch.manual_seed(0)
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(Branch(), "log-uniform", "categorical")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=20, batch_size=64, learning_rate=1e-2, kl_weight=0.1))
    assert posterior.parameters["a"].mean.shape == () and abs(posterior.parameters["a"].mean - 0.1) > 1e-3
    decision = pc.decide(posterior, model, data, pc.DecisionSettings(fine_tune_epochs=2, rate_weights=(0.1,)))
    assert decision.sites["a"].value.shape == ()
    made = pc.compress(model, decision, data=data, kind=kind)
    network = Branch()
    if kind == "weights":
        made.load_into(network)
        np.testing.assert_allclose(network.a.item(), decision.sites["a"].stored(), rtol=1e-2)
        outputs = network(data.test_x).detach().numpy()
    else:
        scales = [layer for layer in made.network.architecture.layers if isinstance(layer, ChannelAffine)]
        assert [layer.name for layer in scales] == ["a", "t"]
        for layer in scales:
            scale = made.network.tensors[f"{layer.name}.scale"].dense()
            np.testing.assert_allclose(scale, float(decision.sites[layer.name].stored().item()), rtol=1e-2)
        outputs = forward(made.network)(data.test_x.numpy())
    assert float((outputs.argmax(1) == data.test_y.numpy()).mean()) > 0.7
