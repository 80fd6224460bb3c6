"""Dynamic network surgery: masks by hand, gradients of what is off, and the road."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.dynamic_network_surgery import DynamicNetworkSurgery, spliced, threshold
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal


def test_masks_follow_the_weights_both_ways() -> None:
    weight = torch.tensor([[0.2, -0.4, 0.6, -0.8]])
    # m = 0.5, s = √0.05
    assert threshold(weight, 2.0) == pytest.approx(0.5 + 2 * 0.05**0.5)
    assert threshold(weight, -3.0) == 0.0
    on, off = torch.ones(1, 7, dtype=torch.bool), torch.zeros(1, 7, dtype=torch.bool)
    moved = torch.tensor([[0.0, 0.45, -0.451, 0.5, 0.55, -0.551, 0.9]])
    assert spliced(moved, on, 0.5).tolist() == [[False, False, True, True, True, True, True]]
    assert spliced(moved, off, 0.5).tolist() == [[False, False, False, False, False, True, True]]
    assert spliced(torch.tensor([[0.0, 1e-9]]), torch.tensor([[True, False]]), 0.0).tolist() == [[False, True]]


def line(weight: list[float], **how: Any) -> tuple[Any, Any, tuple[torch.Tensor, torch.Tensor]]:
    """y = x w of three inputs, w = (1, 0.7, 0.02)."""
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    network = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([weight]))
    method = DynamicNetworkSurgery(epochs=20, batch_size=50, optimizer="sgd", schedule="constant", gamma=0.0, **how)
    model = BayesianNetwork(network, Normal(), Gaussian(noise=1.0))
    return method, model, (x, x @ torch.tensor([[1.0], [0.7], [0.02]]))


def test_a_weight_that_is_off_is_moved_by_the_gradient_at_the_masked_network_and_comes_back() -> None:
    method, model, (x, y) = line([0.9, 0.05, 0.1], learning_rate=0.1, c=-0.5, until=1.0)
    state = method.init(model, 50, 0)
    size = torch.tensor([0.9, 0.05, 0.1])
    assert state.thresholds["weight"] == pytest.approx(float(size.mean() - 0.5 * size.std(correction=0)))
    before = state.present()["weight"].detach().clone()
    method.step(state, (x, y))
    assert state.masks["weight"].tolist() == [[True, False, False]]
    masked = before * torch.tensor([[1.0, 0.0, 0.0]])
    # of the nats per example, at w ⊙ T: the prior pulls what is on, what is off stands at 0 there
    gradient = (masked @ x.T - y.T) @ x / 50 + masked / 50
    torch.testing.assert_close(state.present()["weight"].detach(), before - 0.1 * gradient)
    for _ in range(100):
        method.step(state, (x, y))
    assert state.masks["weight"].tolist() == [[True, True, False]]
    found = method.draw(state).parameters["weight"]
    assert found.off.tolist() == [[False, False, True]]
    left = x[:, :2].double()
    expected = torch.linalg.solve(left.T @ left + torch.eye(2), left.T @ y.double())[:, 0]
    np.testing.assert_allclose(found.mean, [[*expected.numpy(), 0.0]], atol=1e-3)
    # it has moved all the same
    assert float(state.present()["weight"].detach()[0, 2]) != pytest.approx(0.1, abs=1e-3)


def test_masks_change_less_and_less_often_and_then_not_at_all() -> None:
    method, model, data = line([0.9, 0.05, 0.1], c=-0.5, until=0.5)
    rare = DynamicNetworkSurgery(epochs=20, batch_size=50, gamma=0.25, power=2.0)
    assert [rare.chance(t) for t in (0, 4, 12)] == pytest.approx([1.0, 0.25, 1 / 16])
    states = [rare.init(model, 50, seed) for seed in range(400)]
    for state in states:
        state.steps_done = 4
    share = np.mean([state.draw(0) < rare.chance(4) for state in states])
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
    assert states[0].draw(0) != states[0].draw(1)
    state = method.init(model, 50, 0)
    state.steps_done = 10
    method.step(state, data)
    assert state.masks["weight"].all()


def test_layers_by_name_and_settings_without_meaning() -> None:
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), Normal())
    state = DynamicNetworkSurgery(c={"0.*": 0.5}).init(model, 10, 0)
    assert list(state.thresholds) == ["0.weight"]
    with pytest.raises(InferenceError, match=r"c: 'fc\*' matches no weight"):
        DynamicNetworkSurgery(c={"fc*": 0.5}).init(model, 10, 0)
    with pytest.raises(InferenceError, match="until above 0 and at most 1; found gamma="):
        DynamicNetworkSurgery(until=0.0)


def test_the_whole_road_on_the_digits() -> None:
    data = pc.data.load("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    prior = Normal(scale=0.3)
    trained = fit(BayesianNetwork(network, prior), data, pc.inference.MAP(epochs=8, learning_rate=5e-3), seed=0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(torch.from_numpy(trained.parameters[name].mean))
    method = DynamicNetworkSurgery(epochs=8, batch_size=32, learning_rate=3e-3, c=1.2, gamma=0.01)
    posterior = fit(BayesianNetwork(network, prior), as_data(data), method, seed=0)
    off = np.concatenate([site.off.ravel() for site in posterior.parameters.values() if site.off is not None])
    assert 0.6 < off.mean() < 0.95
    decision = pc.decide(posterior, network, data, pc.DecisionSettings(fine_tune_epochs=0))
    file = pc.compress(network, decision, data=data)
    left = sum(int(weight.count_nonzero()) for weight in file.to_torch().parameters() if weight.ndim > 1)
    assert left <= (~off).sum()
    assert pc.evaluate(file, data)["error_after_percent"] < 10
