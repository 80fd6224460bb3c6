"""A network that no longer looks at its input is flagged, after the fit and where it is asked for."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.inference.contract import Method
from pyro_compress.inference.log_joint.at_draws import at_draws, with_buffers
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.pipeline.output_diagnosis import flags_of_outputs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))


def fitted(prior: Prior, method: Method) -> tuple[pc.Posterior, BayesianNetwork, list[str]]:
    model = BayesianNetwork(network(), prior, Categorical())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = pc.fit(model, pc.data.load("digits"), method, seed=0)
    return posterior, model, [str(one.message) for one in caught]


def test_a_prior_that_wins_over_the_data_is_said() -> None:
    posterior, model, warned = fitted(LogUniform(), SVI(epochs=30, learning_rate=0.1, kl_weight=100.0, kl_warmup=0.0))
    assert not any(site.on().any() for name, site in posterior.parameters.items() if name == "1.weight")
    assert "constant_output" in {flag.name for flag in posterior.flags}
    assert any("without the weights that the posterior calls noise, the network gives one output" in w for w in warned)
    found = pc.diagnose(posterior, model, pc.data.load("digits"))
    assert "constant_output" in {flag.name for flag in found.flags}


@pytest.mark.parametrize(
    ("prior", "method"),
    [(LogUniform(), SVI(epochs=4, learning_rate=0.01, kl_weight=0.1)), (Normal(), MAP(epochs=2))],
    ids=["svi", "map"],
)
def test_a_network_that_looks_at_its_input_is_not(prior: Prior, method: Method) -> None:
    posterior, _, _ = fitted(prior, method)
    assert "constant_output" not in {flag.name for flag in posterior.flags}


def test_a_point_without_any_slope_is_said() -> None:
    posterior, model, _ = fitted(Normal(), MAP(epochs=2))
    head = posterior.parameters["4.weight"]
    flat = replace(posterior, parameters={**posterior.parameters, "4.weight": replace(head, mean=0 * head.mean)})
    trained = with_buffers(model, flat)
    assert isinstance(trained, BayesianNetwork)
    (flag,) = flags_of_outputs(flat, trained, pc.data.load("digits").train_x)
    assert flag.sentence.startswith("at the posterior mean, the network gives one output whatever its input is")


def test_the_log_joint_of_convolutions_is_that_of_draws_side_by_side() -> None:
    """Which is how other networks' draws are looked at, and several times slower for these."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    model = BayesianNetwork(module, Normal(), Categorical())
    x, y = torch.rand(11, 1, 6, 6), torch.arange(11) % 4
    values = {}
    for name, parameter in module.named_parameters():
        draws = 0.3 * torch.randn(5, *parameter.shape) if name.endswith("weight") else parameter.detach().expand(5, -1)
        values[name] = draws.numpy()
    there = at_draws(model, values, (x, y), 50)
    log_joint = LogJoint(model, 50)
    flat = torch.cat([torch.from_numpy(values[site.name]).reshape(5, -1) for site in log_joint.sites], 1)
    total, gradient, _, _ = log_joint.evaluate(flat, x, y)
    np.testing.assert_allclose(there.log_density, total.numpy(), rtol=1e-5)
    np.testing.assert_allclose(there.gradient, gradient[:, log_joint.latents].numpy(), rtol=1e-3, atol=1e-3)
