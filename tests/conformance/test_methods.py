"""What every inference method promises, over the table of all of them; one that is not in it fails here."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.inference.fit import fit
from pyro_compress.inference.registry import METHODS
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Posterior

EPOCHS: dict[str, Any] = {"epochs": 3, "batch_size": 16}
ONE_CYCLE: dict[str, Any] = {"cycles": 1, "exploration": 0.3}
# settings under which a method runs in a second: (on a network, on any Pyro model or None where it takes networks only)
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "svi": (EPOCHS, {"epochs": 500, "batch_size": 20, "learning_rate": 0.03, "guide": "full-rank"}),
    "bbb": (
        EPOCHS | {"averaging": 0.5},
        {"epochs": 500, "batch_size": 20, "learning_rate": 0.03, "particles": 3, "averaging": 0.5},
    ),
    "map": (EPOCHS, None),  # no variance: test_any_model.py
    "dropout": (EPOCHS, None),
    "mc-dropout": (EPOCHS, None),
    "group-lasso": (EPOCHS, None),
    "learning-compression": (EPOCHS | {"ternary": True, "projections": 3}, None),
    "dynamic-network-surgery": (EPOCHS | {"c": 0.0}, None),
    "magnitude-pruning": (EPOCHS | {"sparsity": 0.5}, None),
    "sgld": (EPOCHS, {"epochs": 400, "batch_size": 40}),
    "psgld": (EPOCHS, {"epochs": 2000, "batch_size": 40, "a": 0.4}),
    "sghmc": (EPOCHS, {"epochs": 400, "batch_size": 40}),
    "csgld": (EPOCHS | ONE_CYCLE, {"epochs": 2000, "batch_size": 40, "cycles": 1, "exploration": 0.2}),
    "csghmc": (EPOCHS | ONE_CYCLE, {"epochs": 2000, "batch_size": 40, "cycles": 1, "exploration": 0.2}),
    "metropolis": ({"warmup": 5, "draws": 10, "chains": 2}, {"warmup": 300, "draws": 500}),
    "approximate-metropolis": ({"warmup": 5, "draws": 10, "chains": 2}, {"warmup": 300, "draws": 500}),
    "hmc": ({"warmup": 5, "draws": 10, "chains": 2}, {"warmup": 100, "draws": 200, "chains": 2}),
    "nuts": ({"warmup": 5, "draws": 10, "chains": 2}, {"warmup": 100, "draws": 200, "chains": 2}),
    "importance": ({"draws": 50}, {"draws": 100_000}),
    # every start of the search for the bound climbs through hundreds of evaluations
    "rejection": ({"draws": 5, "starts": 1}, {"draws": 200}),
}
GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn(40, 3, generator=GENERATOR)
WEIGHT = torch.tensor([0.8, -0.5, 0.2])
Y = (X @ WEIGHT + 0.7 * torch.randn(40, generator=GENERATOR))[:, None]


def network() -> BayesianNetwork:
    torch.manual_seed(1)
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), Normal(), Gaussian(noise=2.0))


def conjugate(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.7), obs=y)


def test_the_table_is_complete() -> None:
    assert set(SMALL) == set(METHODS)


@pytest.mark.filterwarnings("ignore:.*equally weighted draws")
@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_fitted_reproducibly_and_alone(name: str, tmp_path: Path) -> None:
    model, method = network(), METHODS.build(name, SMALL[name][0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(9)
    first = fit(model, (X, Y), method, seed=1)
    assert float(torch.rand(())) == pytest.approx(float(torch.rand((), generator=torch.Generator().manual_seed(9))))
    again, other = fit(model, (X, Y), method, seed=1), fit(model, (X, Y), method, seed=2)
    assert not len(pyro.get_param_store())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(first.parameters) == [key for key, _ in model.network.named_parameters()]
    for key, parameter in model.network.named_parameters():
        site = first.parameters[key]
        assert site.mean.shape == site.variance.shape == tuple(parameter.shape)
        assert np.isfinite(site.mean).all() and (site.variance >= 0).all()
        np.testing.assert_array_equal(site.mean, again.parameters[key].mean)
        np.testing.assert_array_equal(site.variance, again.parameters[key].variance)
    assert any((site.mean != other.parameters[key].mean).any() for key, site in first.parameters.items())
    assert (first.kind == "point") == all(site.is_point for site in first.parameters.values())
    assert first.provenance["method"] == type(method).__name__ and first.provenance["seed"] == 1

    path = tmp_path / "posterior.safetensors"
    first.save(path)
    read = Posterior.load(path)
    assert read.kind == first.kind
    for key, site in first.parameters.items():
        np.testing.assert_array_equal(read.parameters[key].variance, site.variance)
    assert (read.draws is None) == (first.draws is None)
    if read.draws is not None and first.draws is not None:
        np.testing.assert_array_equal(read.draws.flat, first.draws.flat)


@pytest.mark.filterwarnings("ignore:.*equally weighted draws")
@pytest.mark.parametrize("name", [name for name, (_, settings) in SMALL.items() if settings is not None])
def test_any_pyro_model_is_fitted(name: str) -> None:
    settings = SMALL[name][1]
    assert settings is not None
    found = fit(conjugate, (X, Y[:, 0]), METHODS.build(name, settings), seed=3).parameters["weight"]
    precision = X.T @ X / 0.49 + torch.eye(3)
    covariance = torch.linalg.inv(precision)
    mean, sd = (covariance @ X.T @ Y[:, 0] / 0.49).numpy(), covariance.diag().sqrt().numpy()
    # rough: each method's own tests are sharp
    assert (np.abs(found.mean - mean) < 0.5 * sd).all()
    assert (np.abs(np.sqrt(found.variance) / sd - 1) < 0.4).all()
