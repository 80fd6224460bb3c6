"""With torch's default type set to float64, as many have it for Pyro: networks stay float32, programs are float64."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.errors import NetworkError
from pyro_compress.inference import predictive_mean
from pyro_compress.inference.results.predictive import posterior_predictive, predictive_draws
from pyro_compress.models.networks import build
from pyro_compress.models.tracing.tracer import trace


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).float()


def examples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(24, 4), torch.arange(24) % 3


PRIORS = [
    pc.models.Normal(),
    pc.models.ScaleMixture(),
    pc.models.LogUniform(),
    pc.models.GroupNormalJeffreys(),
    pc.models.GroupHorseshoe(),
]
METHODS: list[Any] = [
    pc.inference.SVI(epochs=2, batch_size=24),
    pc.inference.SVI(epochs=2, batch_size=8, estimator="flipout"),
    pc.inference.SVI(epochs=2, batch_size=8, estimator="score"),
    pc.inference.SVI(epochs=2, batch_size=8, guide="full-rank", draws=5),
    pc.inference.SVI(epochs=2, batch_size=8, guide="low-rank", rank=2, draws=5, particles=2),
    pc.inference.BayesByBackprop(epochs=2, batch_size=8),
    pc.inference.MAP(epochs=2, batch_size=8),
    pc.inference.MCDropout(epochs=2, batch_size=8, draws=5),
    pc.inference.SGLD(epochs=4, batch_size=8, draws=5, a=0.1),
    pc.inference.SGHMC(epochs=4, batch_size=8, draws=5),
    pc.inference.PreconditionedSGLD(epochs=4, batch_size=8, draws=5),
    pc.inference.NUTS(chains=2, warmup=10, draws=5),
    pc.inference.HMC(chains=2, warmup=10, draws=5),
    pc.inference.HMC(chains=1, warmup=10, draws=5, precision="double"),
    pc.inference.Metropolis(chains=2, warmup=10, draws=5),
    pc.inference.ApproximateMetropolis(chains=1, warmup=10, draws=5),
    pc.inference.ImportanceSampling(draws=20, warn_below_percent=0.0),
    pc.inference.RejectionSampling(draws=5),
]
NOT_OF_NETWORKS = ("RejectionSampling",)
NOT_OF_PROGRAMS = ("MCDropout", "flipout", "BayesByBackprop")


def name_of(value: Any) -> str:
    return f"{type(value).__name__}-{getattr(value, 'estimator', None)}-{getattr(value, 'guide', None)}"


def alike(first: pc.Posterior, second: pc.Posterior) -> bool:
    return all(np.array_equal(first.parameters[name].mean, site.mean) for name, site in second.parameters.items())


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_priors_give_what_they_give_with_float32(prior: Any) -> None:
    method = pc.inference.SVI(epochs=2, batch_size=8)
    found = pc.fit(pc.BayesianNetwork(network(), prior), examples(), method, seed=0)
    given, data = network(), examples()
    torch.set_default_dtype(torch.float32)
    assert alike(found, pc.fit(pc.BayesianNetwork(given, prior), data, method, seed=0))


@pytest.mark.parametrize("method", [m for m in METHODS if type(m).__name__ not in NOT_OF_NETWORKS], ids=name_of)
def test_methods_give_what_they_give_with_float32(method: Any) -> None:
    given, (x, y) = network(), examples()
    model = pc.BayesianNetwork(given, pc.models.Normal())
    found = pc.fit(model, (x, y), method, seed=0)
    summary = posterior_predictive(model, found, x.float(), y, draws=3)
    assert np.isfinite(summary.mean).all()
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)
    assert alike(found, pc.fit(model, (x, y), method, seed=0))


def program(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if not any(k in name_of(m) for k in NOT_OF_PROGRAMS)], ids=name_of
)
def test_programs_are_fitted(method: Any) -> None:
    y = torch.randn(24)
    found = pc.fit(program, (y,), method, seed=0)
    assert np.isfinite(found.parameters["mean"].mean).all()
    drawn = predictive_draws(program, found, y, draws=2) if found.draws is not None else {}
    assert all(np.isfinite(value).all() for value in drawn.values())


def test_likelihoods_with_a_latent_and_predictions() -> None:
    x, y = examples()
    model = pc.BayesianNetwork(nn.Sequential(nn.Linear(4, 1)).float(), pc.models.Normal(), pc.models.Gaussian())
    found = pc.fit(model, (x, y[:, None].double()), pc.inference.SVI(epochs=2, batch_size=8), seed=0)
    assert torch.isfinite(predictive_mean(model, found, x, draws=2)).all()


def test_files_are_written_and_read() -> None:
    given, (x, y) = network(), examples()
    posterior = pc.fit(pc.BayesianNetwork(given, pc.models.Normal()), (x, y), pc.inference.MAP(epochs=2), seed=0)
    decision = pc.analysis.prune(posterior, snr=0.0)
    for sparse in (False, True):
        module = pc.compress(given, decision, (4,)).to_torch(sparse=sparse)
        assert module(x.float()).dtype == torch.float32


def test_networks_made_as_float64_are_named() -> None:
    with pytest.raises(
        NetworkError, match=r"is torch\.float64, expected torch\.float32: call network\.float\(\) first"
    ):
        trace(nn.Sequential(nn.Linear(4, 3)), (4,))
    trace(build("digits-mlp").float(), (1, 8, 8))
