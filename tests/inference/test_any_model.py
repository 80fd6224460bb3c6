"""Variational and point methods on Pyro models that are no networks."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.guides import joint
from pyro_compress.inference.guides.through_transforms import moments_of
from pyro_compress.inference.point.dropout import Dropout
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.models.priors.normal import Normal
from tests.conformance.programs import booleans

GENERATOR = torch.Generator().manual_seed(6)
X = torch.randn(30, 2, generator=GENERATOR) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
Y = X @ torch.tensor([0.5, -0.4]) + 0.6 * torch.randn(30, generator=GENERATOR)
PRECISION = X.T @ X / 0.36 + torch.eye(2)
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = (COVARIANCE @ X.T @ Y / 0.36).numpy()


def regression(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.6), obs=y)


def test_full_rank_is_exact_on_a_regression_in_batches() -> None:
    method = SVI(epochs=400, batch_size=15, learning_rate=0.05, guide="full-rank", kl_warmup=0.0, draws=4000)
    found = fit(regression, (X, Y), method, seed=1)
    np.testing.assert_allclose(found.parameters["weight"].mean, MEAN, atol=0.03)
    np.testing.assert_allclose(found.parameters["weight"].variance, COVARIANCE.diag(), rtol=0.15)
    assert found.draws is not None
    correlation = np.corrcoef(found.draws.site("weight")[0].T)[0, 1]
    exact = float(COVARIANCE[0, 1] / (COVARIANCE[0, 0] * COVARIANCE[1, 1]).sqrt())
    assert correlation == pytest.approx(exact, abs=0.08)


@pytest.mark.parametrize(
    "method",
    [
        SVI(epochs=500, batch_size=30, learning_rate=0.03, kl_warmup=0.0),
        BayesByBackprop(epochs=1500, batch_size=30, learning_rate=0.03),
    ],
)
def test_mean_field_has_the_inverse_of_the_precisions_diagonal(method: SVI | BayesByBackprop) -> None:
    found = fit(regression, (X, Y), method, seed=1).parameters["weight"]
    np.testing.assert_allclose(found.mean, MEAN, atol=0.04)
    np.testing.assert_allclose(found.variance, 1 / PRECISION.diag(), rtol=0.15)


def constrained(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    mix = pyro.sample("mix", dist.Dirichlet(torch.tensor([4.0, 2.0, 6.0])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Exponential(rate * 3 * mix.max()), obs=x)


def test_constrained_sites_stay_in_their_support(monkeypatch: pytest.MonkeyPatch) -> None:
    families: list[str] = []

    def noted(site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Moments:
        families.append(site.family)
        return moments_of(site, loc, scale)

    monkeypatch.setattr(joint, "moments_of", noted)
    x = torch.full((20,), 0.5)
    found = fit(constrained, (x,), SVI(epochs=300, batch_size=20, learning_rate=0.03), seed=1)
    assert found.draws is not None
    assert (found.draws.site("rate") > 0).all()
    np.testing.assert_allclose(found.draws.site("mix").sum(-1), 1.0, atol=1e-5)
    mix = found.parameters["mix"].mean
    assert mix.argmax() == 2 and mix.sum() == pytest.approx(1.0, abs=1e-3)
    # no moments of sites behind a transform after every epoch: they would take longer than all the steps
    assert not families


def test_a_conjugate_rate_under_a_log_normal_guide() -> None:
    def model(x: torch.Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Exponential(rate), obs=x)

    x = torch.tensor([0.2, 0.9, 0.4, 1.3, 0.7])
    found = fit(model, (x,), SVI(epochs=1500, batch_size=5, learning_rate=0.02, draws=20000), seed=1)
    a, b = 3.0 + 5, 1.0 + float(x.sum())
    # of the best log-normal for Gamma(a, b): its variance of ln is 1/a, its mean E ln x = ln(a/b) − 1/(2a)
    assert found.parameters["rate"].mean == pytest.approx(a / b, rel=0.03)
    assert np.log(found.draws.site("rate")).std() == pytest.approx(1 / math.sqrt(a), rel=0.06)  # type: ignore[union-attr]


def test_the_mode_of_any_model_is_that_of_its_own_density() -> None:
    found = fit(regression, (X, Y), MAP(epochs=300, batch_size=30, learning_rate=0.05), seed=1)
    assert found.kind == "point"
    np.testing.assert_allclose(found.parameters["weight"].mean, MEAN, atol=1e-3)

    def gamma() -> None:
        pyro.sample("rate", dist.Gamma(3.0, 2.0))

    mode = fit(gamma, None, MAP(epochs=600, learning_rate=0.05), seed=1).parameters["rate"].mean
    assert float(mode) == pytest.approx((3 - 1) / 2, abs=1e-3)


def observing(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), pyro.poutine.mask(mask=booleans(~torch.isnan(y))):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def shares(y: torch.Tensor) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(y)):
        pyro.sample("kind", dist.Categorical(share), obs=y)


@pytest.mark.parametrize(
    ("model", "y", "sentence"),
    [
        (
            observing,
            torch.tensor([0.1, math.nan, math.nan]),
            r"2 of 3 values of site 'y' outside .* Real\(\), .*as nan:",
        ),
        (shares, [0, 1], r"a list at site 'kind', expected a tensor: give tensors or arrays"),
        (shares, torch.tensor([0, 1, 3, 2]), r"1 of 4 values of site 'kind' outside .* such as 3: leave them out"),
    ],
)
def test_what_cannot_be_observed_is_said(model: Any, y: Any, sentence: str) -> None:
    for method in (SVI(), MAP(epochs=1)):
        with pytest.raises(InferenceError, match=f"the model {model.__name__} observes {sentence}"):
            fit(model, (y,), method)


def improper(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.ImproperUniform(torch.distributions.constraints.real, (), ()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_a_prior_that_has_no_draws_is_said() -> None:
    with pytest.raises(
        InferenceError, match=r"has no draws \(ImproperUniform does not .*: a flat prior is a proper one"
    ):
        fit(improper, torch.ones(3), SVI())


def test_dropout_needs_layers() -> None:
    with pytest.raises(InferenceError, match="regression is a Pyro model without layers"):
        fit(regression, (X, Y), Dropout(epochs=1))
    network = BayesianNetwork(nn.Linear(2, 3), Normal())
    assert fit(network, (X, (Y > 0).long()), Dropout(epochs=1)).kind == "point"
