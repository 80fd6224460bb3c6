"""Samplers on batches that set nothing: step and length from the covariance of the posterior, which is known here."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.stochastic_gradient import started
from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGLD
from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.stochastic_gradient.started import Started
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program

GENERATOR = torch.Generator().manual_seed(6)
X = torch.randn(30, 2, generator=GENERATOR) @ torch.tensor([[1.0, 0.5], [0.0, 0.8]])
Y = X @ torch.tensor([0.5, -0.4]) + 0.6 * torch.randn(30, generator=GENERATOR)
PRECISION = (X.T @ X / 0.36 + torch.eye(2)).double()
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = (COVARIANCE @ (X.T @ Y / 0.36).double()).numpy()


def regression(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.6), obs=y)


def chosen(method: Any) -> Started:
    feed = Feed.of(regression, (X, Y))
    found = method.for_model(Program(regression, feed.tensors), feed)
    assert isinstance(found, Started)
    return found


def test_steps_inflate_the_smallest_variance_by_a_twenty_fifth() -> None:
    largest, least = (float(torch.linalg.eigvalsh(PRECISION)[index]) for index in (-1, 0))
    sgld: Any = chosen(SGLD()).sampler
    step = sgld.a / 30
    assert step * largest / 4 == pytest.approx(0.04, rel=1e-3) and sgld.gamma == 0 and sgld.batch_size == 30
    assert sgld.epochs * 0.8 * step * least / 4 == pytest.approx(130, rel=0.01)
    sghmc: Any = chosen(SGHMC()).sampler
    assert sghmc.a / 30 * largest / (2 * 1.9) == pytest.approx(0.04, rel=1e-3)
    scale = (30 / PRECISION.diagonal().sqrt()).sqrt()
    scaled = torch.linalg.eigvalsh(scale[:, None] * PRECISION * scale)[-1]
    psgld: Any = chosen(PreconditionedSGLD()).sampler
    assert psgld.a / 30 * float(scaled) / 4 == pytest.approx(0.04, rel=1e-3)


def test_chains_start_at_draws_of_the_posterior() -> None:
    positions = chosen(SGLD()).positions.double()
    assert positions.shape == (4, 2)
    away = (positions - torch.from_numpy(MEAN)) @ torch.linalg.cholesky(PRECISION)
    assert 0.2 < float(away.square().mean()) < 3


def test_a_shortened_default_run_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started, "MEMORIES", 20)
    monkeypatch.setattr(started, "LEAST_STEPS", 1000)
    posterior = fit(regression, (X, Y), SGHMC(), seed=1)
    weight = posterior.parameters["weight"]
    sd = COVARIANCE.diag().sqrt().numpy()
    assert posterior.draws is not None and posterior.draws.chains == 4
    np.testing.assert_allclose((weight.mean - MEAN) / sd, 0.0, atol=0.4)
    np.testing.assert_allclose(np.sqrt(weight.variance) / sd, 1.0, atol=0.25)


def test_what_is_set_stands() -> None:
    feed = Feed.of(regression, (X, Y))
    program = Program(regression, feed.tensors)
    for method in (SGLD(epochs=60), SGLD(a=2.0), SGLD(chains=2), SGHMC(friction=0.2), CyclicalSGLD()):
        assert method.for_model(program, feed) is method
    model = BayesianNetwork(nn.Sequential(nn.Linear(2, 1)), Normal())
    method = SGLD()
    assert method.for_model(model, feed) is method
