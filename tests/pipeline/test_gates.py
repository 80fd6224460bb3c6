"""Gates on the whole road: from prior over posterior and decision to the decoded file, on the digits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import InferenceError
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.generalized_dropout import GeneralizedDropout
from pyro_compress.models.priors.l0 import L0
from pyro_compress.models.priors.spike_and_slab import SpikeAndSlab
from pyro_compress.models.priors.structured_bayesian_pruning import StructuredBayesianPruning

FEW = pc.DecisionSettings(fine_tune_epochs=1, rate_weights=(0.5,))
# prior, and the settings under which it prunes and still predicts
RUNS: dict[str, tuple[Prior, dict[str, Any]]] = {
    "structured Bayesian pruning": (StructuredBayesianPruning(), {"epochs": 12, "learning_rate": 5e-3}),
    "L0": (L0(cost=0.4), {"epochs": 12, "learning_rate": 5e-3}),
    "generalized dropout": (GeneralizedDropout(), {"epochs": 12, "learning_rate": 5e-3}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


@pytest.fixture(scope="module", params=RUNS)
def fitted(request: pytest.FixtureRequest) -> tuple[Prior, pc.Posterior]:
    prior, settings = RUNS[request.param]
    model = pc.BayesianNetwork(network(), prior)
    return prior, pc.fit(model, pc.data.load("digits"), SVI(batch_size=32, **settings), seed=0)


def error_percent(predict: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * float((predict(x).argmax(1) != y).double().mean())


def test_groups_are_off_and_leave_the_file(fitted: tuple[Prior, pc.Posterior]) -> None:
    data, (_, posterior) = pc.data.load("digits"), fitted
    inputs, units = (posterior.parameters[f"{name}.weight"].kept().any(0).sum() for name in (1, 3))
    assert 10 < inputs < 64 and 3 < units < 40
    decoded = pc.compress(network(), pc.analysis.prune(posterior), data=data).to_torch()
    shapes = {tuple(weight.shape) for weight in decoded.parameters() if weight.ndim == 2}
    assert shapes == {(units, inputs), (10, units)}
    # what is stored of floats is the mean under the guide, and zero where a group is off
    values = {n: torch.tensor(s.to_store * s.kept()) for n, s in posterior.parameters.items()}
    with torch.no_grad():
        expected = torch.func.functional_call(network(), values, (data.validation_x,))
        torch.testing.assert_close(decoded(data.validation_x), expected, rtol=1e-4, atol=1e-4)
    assert error_percent(decoded, data.validation_x, data.validation_y) < 8


def test_a_decided_file_is_small_and_predicts(fitted: tuple[Prior, pc.Posterior]) -> None:
    data, (_, posterior) = pc.data.load("digits"), fitted
    artifact = pc.compress(network(), pc.decide(posterior, network(), data, FEW), data=data)
    assert len(artifact.data) < 1500
    assert error_percent(artifact.to_torch(), data.validation_x, data.validation_y) < 9


def test_the_posterior_is_read_again_and_drawn_from(fitted: tuple[Prior, pc.Posterior], tmp_path: Path) -> None:
    data, (prior, posterior) = pc.data.load("digits"), fitted
    posterior.save(tmp_path / "posterior.safetensors")
    again = pc.Posterior.load(tmp_path / "posterior.safetensors")
    model = pc.BayesianNetwork(network(), prior)
    for one, other in zip(*(p.sample_latents(3, 1).values() for p in (posterior, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    # the mean over draws of the weights is the posterior's
    count = 500
    latents = again.sample_latents(count, 0)
    parameter = next(p for p, _ in model.parameters_covered if p.name == "3.weight")
    weights = []
    for index in range(count):
        given = {name: torch.tensor(value[index]) for name, value in latents.items()}
        weights.append(poutine.condition(prior.sample, given)(parameter).detach().numpy())
    drawn = np.stack(weights)
    site = again.parameters["3.weight"]
    assert (np.abs(drawn.mean(0) - site.mean) < 5 * np.sqrt(site.variance / count) + 1e-4).all()
    predicted = posterior_predictive(model, again, data.validation_x, data.validation_y, draws=20)
    assert predicted.errors is not None and 100 * predicted.errors.mean() < 8


def test_what_needs_a_density_says_so(fitted: tuple[Prior, pc.Posterior]) -> None:
    (prior, posterior), data = fitted, pc.data.load("digits")
    model = pc.BayesianNetwork(network(), prior)
    assert not posterior.has_density
    found = pc.diagnose(posterior, model, data).statistics
    assert "gates or point estimates" in str(found["not_judged"])
    with pytest.raises(InferenceError, match="one normal over all sites"):
        pc.fit(model, data, SVI(epochs=1, guide="low-rank"))
    with pytest.raises(InferenceError, match=r"SVI\(\.\.\.\)|improper"):
        pc.fit(model, data, pc.inference.SGLD(epochs=1))


def test_weights_under_a_spike_and_slab_are_few_in_the_file() -> None:
    data = pc.data.load("digits")
    model = pc.BayesianNetwork(network(), SpikeAndSlab(inclusion=0.2))
    posterior = pc.fit(model, data, SVI(epochs=12, batch_size=32, learning_rate=5e-3), seed=0)
    decoded = pc.compress(network(), pc.analysis.prune(posterior), data=data).to_torch()
    left = sum(int(weight.count_nonzero()) for weight in decoded.parameters() if weight.ndim == 2)
    assert left == sum(posterior.parameters[f"{name}.weight"].kept().sum() for name in (1, 3))
    assert 50 < left < 0.25 * (64 * 40 + 40 * 10)
    assert error_percent(decoded, data.validation_x, data.validation_y) < 9
