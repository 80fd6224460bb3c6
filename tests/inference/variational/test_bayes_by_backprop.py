"""Blundell's weights of the complexity, and epochs whose total is the ELBO; test_estimators.py holds the gradient."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.variational.bayes_by_backprop import COSTS, BayesByBackprop, blundell
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.generalized_dropout import GeneralizedDropout
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.scale_mixture import ScaleMixture

HELD, N = 48, 480


def problem() -> tuple[BayesianNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(HELD, 3)
    y = x @ torch.tensor([[0.9, -0.3], [-0.5, 0.8], [0.2, 0.4]]) + 0.8 * torch.randn(HELD, 2)
    return BayesianNetwork(nn.Linear(3, 2), ScaleMixture(), Gaussian(noise=0.8)), x, y


@pytest.mark.parametrize("batches", [1, 2, 7, 127, 600, 5000])
@pytest.mark.parametrize("cost", COSTS)
def test_weights_sum_to_one(cost: str, batches: int) -> None:
    weights = [COSTS[cost](batch, batches) for batch in range(1, batches + 1)]
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)
    assert all(math.isfinite(weight) for weight in weights)


@pytest.mark.parametrize("batches", [1, 5, 600])
def test_weights_are_the_published_ones(batches: int) -> None:
    for batch in (1, (1 + batches) // 2, batches):
        expected = float(Fraction(2 ** (batches - batch), 2**batches - 1))
        assert blundell(batch, batches) == pytest.approx(expected, rel=1e-14, abs=0.0)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("batch_size", [16, 13])
def test_objectives_of_an_epoch_total_the_elbo(cost: str, batch_size: int) -> None:
    """At one weight sample, with n < N and a last batch of 9 examples."""
    model, x, y = problem()
    method = BayesByBackprop(batch_size=batch_size, complexity_cost=cost)
    state = method.init(model, N, 0, HELD)

    def terms(*batch: torch.Tensor) -> Any:
        torch.manual_seed(4)  # the same weights for every batch
        return method.terms(state, (batch[0], batch[1]))

    with torch.no_grad():
        objectives = []
        for part in torch.arange(HELD).split(batch_size):
            batch = (x[part], y[part])
            objectives.append(method.objective(state, batch, terms(*batch), 0.3))
            state.steps_done += 1
        whole = terms(x, y)
    torch.testing.assert_close(torch.stack(objectives).mean(), whole.objective(0.3), rtol=1e-5, atol=1e-3)
    # the second epoch begins with the heaviest weight again
    again = method.objective(state, (x[:batch_size], y[:batch_size]), terms(x[:batch_size], y[:batch_size]), 0.3)
    torch.testing.assert_close(again.detach(), objectives[0])
    assert (cost == "uniform") or float(objectives[0]) > float(objectives[-1])


def test_reported_complexity_is_the_sampled_divergence_and_not_its_share() -> None:
    """log q − log p of a normal against the same normal prior is 0 for every sample."""
    model, x, y = problem()
    model = BayesianNetwork(model.network, Normal(scale=0.6, initial_log_variance=2 * math.log(0.6)), model.likelihood)
    method = BayesByBackprop(batch_size=16)
    state = method.init(model, N, 0, HELD)
    with torch.no_grad():
        for loc in state.guide.loc.parameters():
            loc.zero_()
    assert method.step(state, (x[:16], y[:16])).complexity_nats == pytest.approx(0.0, abs=1e-5)


def test_a_scale_mixture_is_fitted() -> None:
    model, x, y = problem()
    # a narrow component like the default's has a mode of its own about zero, in which some seeds' weights end
    model = BayesianNetwork(model.network, ScaleMixture(narrow=0.3), model.likelihood)
    data = as_data((x, y))
    posterior = fit(model, data, BayesByBackprop(epochs=60, batch_size=12, learning_rate=0.03), seed=1)
    exact = torch.linalg.lstsq(torch.cat([x, torch.ones(HELD, 1)], 1), y).solution
    weight = posterior.parameters["weight"]
    # 0.8 / √48 is the likelihood's standard deviation; the mixture's wide component shrinks little
    np.testing.assert_allclose(weight.mean, exact[:3].T.numpy(), atol=2 * 0.8 / math.sqrt(HELD))
    assert 0.02 < float(np.sqrt(weight.variance).mean()) < 0.3
    assert posterior.provenance["method"] == "BayesByBackprop"


def test_a_prior_that_estimates_rates_of_the_guide_is_refused() -> None:
    model, x, y = problem()
    model = BayesianNetwork(model.network, GeneralizedDropout(), model.likelihood)
    with pytest.raises(InferenceError, match=r"site 'weight.z'.*BetaBernoulli.*no complexity at a sample"):
        fit(model, as_data((x, y)), BayesByBackprop(epochs=1, batch_size=12), seed=0)


def test_unknown_costs_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"unknown complexity cost 'halves'.*blundell"):
        BayesByBackprop(complexity_cost="halves")


def test_under_adam_the_default_share_moves_the_posterior_more_than_the_published_one() -> None:
    """24 batches, σ from 0.1 and a prior of 1: halved shares let Adam widen σ in a few steps of every epoch."""
    model, x, y = problem()
    model = BayesianNetwork(model.network, Normal(initial_log_variance=2 * math.log(0.1)), Gaussian(noise=10.0))
    default = BayesByBackprop(epochs=20, batch_size=2)
    methods = {"default": default, "blundell": dataclasses.replace(default, complexity_cost="blundell")}
    found = {cost: fit(model, as_data((x, y)), method, seed=0) for cost, method in methods.items()}
    widths = {cost: float(np.sqrt(one.parameters["weight"].variance).mean()) for cost, one in found.items()}
    # both would end near the prior's 1, which the data hardly narrow
    assert widths["default"] > 0.1 + 2 * (widths["blundell"] - 0.1)
