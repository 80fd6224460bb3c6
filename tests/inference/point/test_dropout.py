"""Dropout and MC dropout: masks on inputs are masks on weights, and the closed form of a linear network.

For y = X θ with a mask per input, E ‖y − X m θ‖² = ‖y − X θ‖² + p/(1−p) Σ_j (XᵀX)_jj θ_j²: ridge regression with a
penalty per column (Wager et al. 2013).
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.dropout import Dropout, MCDropout, dropped_inputs, weight_masks
from pyro_compress.inference.results.predictive import predictive_mean
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal

NOISE, SCALE = 0.8, 0.6


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    )


@pytest.mark.parametrize("size", [None, 200])
def test_a_linear_network_ends_at_its_ridge_estimate(size: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    y = x @ torch.tensor([[0.9], [-0.5], [0.2]]) + NOISE * torch.randn(40, 1)
    model = BayesianNetwork(nn.Linear(3, 1, bias=False), Normal(scale=SCALE), Gaussian(noise=NOISE))
    method = Dropout(epochs=1000, batch_size=40, learning_rate=0.02, schedule="linear", input_rate=0.4)
    found = fit(model, as_data((x, y), N=size), method, seed=1).parameters["weight"]
    copies = (size or 40) / 40
    gram = copies * (x.T @ x).double() / NOISE**2
    penalty = gram.diagonal() * 0.4 / 0.6 + 1 / SCALE**2
    expected = torch.linalg.solve(gram + torch.diag(penalty), copies * (x.T @ y).double() / NOISE**2)
    plain = torch.linalg.solve(gram + torch.eye(3) / SCALE**2, copies * (x.T @ y).double() / NOISE**2)
    np.testing.assert_allclose(found.mean, expected.T.numpy(), atol=0.03)
    assert float((plain - expected).abs().max()) > 0.1, "the masks must matter"
    assert found.is_point


@pytest.mark.parametrize("name", ["0.weight", "2.weight", "5.weight"])
def test_masked_inputs_are_masked_weights(name: str) -> None:
    """With every other rate at zero, outputs under input masks and under weight masks are the same set."""
    network = convolutional()
    rates = {"0.weight": 0.0, "2.weight": 0.0, "5.weight": 0.0, name: 0.5}
    x = torch.randn(1, 2, 4, 3)
    weight = network.get_parameter(name)
    channels = {"0.weight": 2, "2.weight": 4, "5.weight": 12}[name]
    torch.manual_seed(1)
    count = 4000
    with torch.no_grad():
        with dropped_inputs(network, rates):
            by_input = network(x.expand(count, -1, -1, -1))
        masks = weight_masks(network, name, 0.5, count)
        by_weight = torch.vmap(lambda mask: torch.func.functional_call(network, {name: weight * mask}, (x,))[0])(masks)
        assert torch.equal(network(x), network(x)), "masks must go with the context"
    assert masks.unique().tolist() == [0.0, 2.0]
    if channels < 12:
        assert len(masks.reshape(count, -1).unique(dim=0)) == 2**channels
    for power in (1, 2):
        left, right = by_input.pow(power), by_weight.pow(power)
        error = ((left.var(0) + right.var(0)) / count).sqrt()
        assert bool(((left.mean(0) - right.mean(0)).abs() < 5 * error + 1e-6).all())


def fitted(method: Any, **settings: Any) -> Any:
    model = BayesianNetwork(convolutional(), Normal(), Gaussian())
    torch.manual_seed(2)
    data = as_data((torch.randn(20, 2, 4, 3), torch.randn(20, 3)))
    return model, fit(model, data, method(epochs=2, batch_size=8, rate=0.3, **settings), seed=3)


def test_mc_dropout_draws_have_shared_columns_and_the_exact_moments() -> None:
    _, posterior = fitted(MCDropout, draws=3000)
    draws = posterior.draws
    assert posterior.kind == "iid" and draws.flat.shape[:2] == (1, 3000)
    for name in ("2.weight", "5.weight"):
        site, drawn = posterior.parameters[name], draws.site(name)[0]
        np.testing.assert_allclose(site.variance, site.mean**2 * 0.3 / 0.7, rtol=1e-5)
        ratio = drawn / site.mean
        assert set(np.unique(ratio.round(3))) == {0.0, np.float32(1 / 0.7).round(3)}
        # 5 standard errors of the mean of masks
        assert np.abs(ratio.mean(0) - 1).max() < 5 * np.sqrt(0.3 / 0.7 / 3000)
        assert np.abs(drawn.var(0) - site.variance).max() < 0.25 * site.variance.max()
    dense = draws.site("5.weight")[0] / posterior.parameters["5.weight"].mean
    np.testing.assert_allclose(dense, np.broadcast_to(dense[:, :1], dense.shape), rtol=1e-5)
    assert abs(np.corrcoef(dense[:, 0, 0], dense[:, 0, 1])[0, 1]) < 5 / np.sqrt(3000)
    grouped = draws.site("2.weight")[0] / posterior.parameters["2.weight"].mean
    first = grouped[:, :3]  # the filters of the first group
    np.testing.assert_allclose(first, np.broadcast_to(first[:, :1, :, :1, :1], first.shape), rtol=1e-5)
    assert abs(np.corrcoef(grouped[:, 0, 0, 0, 0], grouped[:, 3, 0, 0, 0])[0, 1]) < 5 / np.sqrt(3000)
    # the layer that reads the data is left alone by default, and biases are
    assert posterior.parameters["0.weight"].is_point and not np.ptp(draws.site("0.weight"), 1).any()
    assert not np.ptp(draws.site("5.bias"), 1).any() and (draws.site("noise") > 0).all()


def test_predictive_averages_over_masks() -> None:
    model, posterior = fitted(MCDropout, draws=200)
    x = torch.randn(5, 2, 4, 3)
    found = predictive_mean(model, posterior, x, draws=50, seed=1)
    assert found.shape == (5, 3) and float(found.std()) > 0
    assert not torch.equal(found, predictive_mean(model, posterior, x, draws=50, seed=2))


def test_both_fit_the_same_weights() -> None:
    _, points = fitted(Dropout)
    _, posterior = fitted(MCDropout)
    for name, site in points.parameters.items():
        np.testing.assert_array_equal(site.mean, posterior.parameters[name].mean)
        assert site.is_point and not site.variance.any()
    assert points.kind == "point" and points.draws is None


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"rates must lie in \[0, 1\), found rate=1.0"):
        Dropout(rate=1.0)
    with pytest.raises(InferenceError, match="at least 2 draws, found draws=1"):
        MCDropout(draws=1)
    model = BayesianNetwork(convolutional(), GroupHorseshoe(), Gaussian())
    with pytest.raises(InferenceError, match=r"prior of '0\.weight' declares it as a product of sites"):
        MCDropout().init(model, 10, 0)


@pytest.mark.parametrize("first", [True, False])
def test_all_places_of_an_example_have_one_mask(first: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(6, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(x).mean(1) if first else self.read(x.transpose(0, 1)).mean(0)

    network, x = Tokens(), torch.ones(50, 40, 6)
    with torch.no_grad(), dropped_inputs(network, {"read.weight": 0.5}):
        found = torch.stack([network(x) for _ in range(40)]).double()
    # the mean over places varies as the output of one place does: Σ w² p / (1 − p)
    expected = float(network.read.weight.detach().square().sum().sqrt())
    assert float(found.std()) == pytest.approx(expected, rel=0.1)
