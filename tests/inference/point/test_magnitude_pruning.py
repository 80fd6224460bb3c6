"""Magnitude pruning: what goes when, and where the rest ends."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.dropout import Dropout
from pyro_compress.inference.point.magnitude_pruning import MagnitudePruning, smallest
from pyro_compress.inference.point.map import MAP
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal

SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 10}


def problem() -> tuple[BayesianNetwork, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    x = torch.randn(40, 6)
    return BayesianNetwork(network, Normal()), (x, x[:, :3].argmax(1))


def test_shares_of_the_cuts() -> None:
    iterative = MagnitudePruning(sparsity=0.9, cuts=2, first=0.2, last=0.6)
    assert [iterative.share(0.9, k) for k in range(3)] == pytest.approx([0, 1 - 0.1**0.5, 0.9])
    cubic = MagnitudePruning(sparsity=0.8, cuts=4, pace="cubic", first=0.1, last=0.4)
    assert [cubic.share(0.8, k) for k in range(5)] == pytest.approx([0, 0.8 * 37 / 64, 0.7, 0.8 * 63 / 64, 0.8])
    assert [cubic.due(t) for t in (0.0, 0.0999, 0.1, 0.1999, 0.2, 0.3, 0.4, 1.0)] == [0, 0, 1, 1, 2, 3, 4, 4]
    assert [MagnitudePruning(first=0.5).due(t) for t in (0.49, 0.5, 0.9)] == [0, 1, 1]


def test_the_smallest_of_equal_ones_are_the_first() -> None:
    assert smallest(torch.tensor([[2.0, 1.0], [1.0, 1.0]]), 0.5).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("over", ["layer", "network"])
@pytest.mark.parametrize("pace", ["geometric", "cubic"])
def test_the_smallest_weights_go_and_stay_away(over: str, pace: str) -> None:
    model, (x, y) = problem()
    method = MagnitudePruning(**SMALL, sparsity=0.75, over=over, cuts=3, pace=pace, first=0.25, last=0.75)
    torch.manual_seed(1)
    state = method.init(model, 40, 0)
    last = 0
    for step in range(16):
        before = {name: weight.detach().clone() for name, weight in state.present().items()}
        were_on = {name: mask.clone() for name, mask in state.masks.items()}
        method.step(state, (x[:10], y[:10]))
        now = state.present()
        assert all((now[name][~mask] == 0).all() for name, mask in state.masks.items())
        assert all(not (mask & ~were_on[name]).any() for name, mask in state.masks.items())
        if step not in (3, 7, 11):
            assert all(torch.equal(mask, were_on[name]) for name, mask in state.masks.items())
            assert all((now[name] != before[name])[mask].any() for name, mask in state.masks.items())
            continue
        last += 1
        expected = method.share(0.75, last)
        parts = [*state.masks.values()] if over == "layer" else [torch.cat([m.ravel() for m in state.masks.values()])]
        assert [int((~mask).sum()) for mask in parts] == [round(expected * mask.numel()) for mask in parts]
        # none that stays is smaller than one that went in this cut, which was near where it was a step before
        for name, mask in state.masks.items():
            leaving = before[name].abs()[were_on[name] & ~mask]
            if over == "layer" and len(leaving):
                assert now[name].detach().abs()[mask].min() > leaving.max() - 0.02
    assert last == 3
    posterior = method.draw(state)
    for name, mask in state.masks.items():
        np.testing.assert_array_equal(posterior.parameters[name].off, ~mask.numpy())
        assert not posterior.parameters[name].mean[~mask.numpy()].any()
    assert posterior.parameters["0.bias"].off is None


def test_what_is_left_ends_at_its_own_ridge_estimate() -> None:
    torch.manual_seed(2)
    x = torch.randn(60, 5)
    y = x @ torch.tensor([[1.0], [-0.8], [0.05], [0.5], [-0.1]]) + 0.3 * torch.randn(60, 1)
    model = BayesianNetwork(nn.Linear(5, 1, bias=False), Normal(scale=0.7), Gaussian(noise=0.3))
    method = MagnitudePruning(epochs=600, batch_size=60, learning_rate=0.03, schedule="linear", sparsity=0.4)
    found = fit(model, as_data((x, y)), method, seed=0).parameters["weight"]
    assert found.off is not None and found.off.tolist() == [[False, False, True, False, True]]
    left = x[:, [0, 1, 3]].double()
    gram = left.T @ left / 0.09 + torch.eye(3) / 0.49
    expected = torch.linalg.solve(gram, left.T @ y.double() / 0.09)[:, 0].numpy()
    np.testing.assert_allclose(found.mean[0, [0, 1, 3]], expected, atol=2e-3)
    whole = torch.linalg.lstsq(x, y).solution[[0, 1, 3], 0].numpy()
    assert np.abs(whole - expected).max() > 0.01, "the weights that went must matter"


def test_without_pruning_it_is_the_training_that_it_prunes() -> None:
    model, data = problem()
    plain = fit(model, data, MAP(**SMALL), seed=0)
    dropped = fit(model, data, Dropout(**SMALL, rate=0.4, input_rate=0.2), seed=0)
    for other, rates in ((plain, (0.0, 0.0)), (dropped, (0.4, 0.2))):
        method = MagnitudePruning(**SMALL, sparsity=0.0, rate=rates[0], input_rate=rates[1])
        found = fit(model, data, method, seed=0)
        for name, site in found.parameters.items():
            np.testing.assert_array_equal(site.mean, other.parameters[name].mean)


def test_dropout_falls_with_what_is_left() -> None:
    model, (x, y) = problem()
    method = MagnitudePruning(**SMALL, sparsity=0.75, first=0.0, rate=0.4, input_rate=0.2)
    state = method.init(model, 40, 0)
    assert method.rates_left(state) == {"0.weight": 0.2, "2.weight": 0.4}
    method.step(state, (x, y))
    # 45 of 60 and round(22.5) of 30 are gone
    assert method.rates_left(state) == pytest.approx({"0.weight": 0.2 * 0.5, "2.weight": 0.4 * (8 / 30) ** 0.5})


def test_layers_by_name() -> None:
    model, data = problem()
    found = fit(model, data, MagnitudePruning(**SMALL, sparsity={"0.*": 0.5}), seed=0).parameters
    assert found["0.weight"].off is not None and found["2.weight"].off is not None
    assert found["0.weight"].off.sum() == 30 and not found["2.weight"].off.any()
    for sparsity, message in (
        ({"fc*": 0.5}, r"sparsity: 'fc\*' matches no weight: there are 0.weight, 2.weight"),
        ({"0.*": 0.5, "*.weight": 0.2}, r"sparsity: '0\.\*' and '\*\.weight' both match weight 0\.weight: make"),
    ):
        with pytest.raises(InferenceError, match=message):
            fit(model, data, MagnitudePruning(**SMALL, sparsity=sparsity), seed=0)


def test_frozen_weights_stay() -> None:
    model, data = problem()
    model.network.get_parameter("2.weight").requires_grad_(False)
    model = BayesianNetwork(model.network, Normal())
    found = fit(model, data, MagnitudePruning(**SMALL, sparsity=0.5), seed=0).parameters["2.weight"]
    np.testing.assert_array_equal(found.mean, model.network.get_parameter("2.weight").detach().numpy())
    assert found.off is None and found.is_frozen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is a share of the weights, at least 0 and below 1, found 1.0"),
        ({"sparsity": {"a": -0.1}}, "at least 0 and below 1, found {'a': -0.1}"),
        ({"sparsity": {"a": 0.1}, "over": "network"}, "sparsity by names is of layers"),
        ({"over": "layers"}, "unknown word for over of magnitude pruning 'layers'.*Did you mean 'layer'"),
        ({"pace": "linear"}, "unknown word for pace of magnitude pruning 'linear': known are cubic, geometric"),
        ({"cuts": 0}, "cuts of at least 1"),
        ({"last": 1.0}, "training goes on afterwards; found cuts=1, first=0.5, last=1.0"),
        ({"first": 0.9}, "0 <= first <= last < 1"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        MagnitudePruning(**options)


def test_weights_that_are_made_of_sites_are_refused() -> None:
    class Own(GroupHorseshoe):
        has_mode = True

    model, data = problem()
    with pytest.raises(InferenceError, match=r"the prior of '0.weight' makes it of several sites"):
        fit(BayesianNetwork(model.network, Own()), data, MagnitudePruning(**SMALL), seed=0)
    biases = BayesianNetwork(nn.Sequential(nn.Linear(6, 3)).requires_grad_(False), {}, Gaussian())
    with pytest.raises(InferenceError, match="here is none that is trained"):
        MagnitudePruning(**SMALL).init(biases, 40, 0)


def test_the_whole_road_on_the_digits() -> None:
    data: DataSet = pc.data.load("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    method = MagnitudePruning(epochs=16, batch_size=32, learning_rate=5e-3, sparsity=0.8, cuts=4, first=0.3, last=0.6)
    posterior = fit(BayesianNetwork(network, Normal(scale=0.3)), data, method, seed=0)
    decision = pc.decide(posterior, network, data, pc.DecisionSettings(fine_tune_epochs=0))
    file = pc.compress(network, decision, data=data)
    left = sum(int(weight.count_nonzero()) for weight in file.to_torch().parameters() if weight.ndim > 1)
    assert left <= 0.2 * (64 * 40 + 40 * 10)
    assert len(file) < 800
    assert pc.evaluate(file, data)["error_after_percent"] < 8
