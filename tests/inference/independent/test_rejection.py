"""Rejection sampling: exact independent draws, the acceptance rate in closed form, bounds and refusals."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.independent import rejection
from pyro_compress.inference.independent.rejection import RejectionSampling
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(6, 1, generator=GENERATOR)
Y = 0.8 * X + 0.5 * torch.randn(6, 1, generator=GENERATOR)
NOISE, SCALE = 0.5, 1.5


def line() -> BayesianNetwork:
    return BayesianNetwork(nn.Linear(1, 1, bias=False), Normal(scale=SCALE), Gaussian(noise=NOISE))


def exact() -> Any:
    precision = float(X.square().sum()) / NOISE**2 + SCALE**-2
    return stats.norm(float((X * Y).sum()) / NOISE**2 / precision, precision**-0.5)


def largest() -> float:
    best = (X * Y).sum() / X.square().sum()
    return float(dist.Normal(best * X, NOISE).log_prob(Y).sum())


def urns(balls: torch.Tensor) -> None:
    urn = pyro.sample("urn", dist.Bernoulli(0.3))
    with pyro.plate("data", len(balls)):
        pyro.sample("balls", dist.Bernoulli(0.2 + 0.5 * urn), obs=balls)


@pytest.mark.parametrize("given", [False, True])
def test_draws_are_exact_and_independent(given: bool) -> None:
    method = RejectionSampling(draws=1500, log_bound=largest() + 0.4 if given else None)
    found = fit(line(), (X, Y), method, seed=1)
    assert found.kind == "iid" and found.draws is not None and found.draws.log_weight is None
    w = found.draws.site("weight")[0, :, 0, 0].astype(float)
    assert w.shape == (1500,)
    assert stats.kstest(w, exact().cdf).pvalue > 0.01
    assert abs(np.corrcoef(w[1:], w[:-1])[0, 1]) < 4 / math.sqrt(1500)
    covariance = NOISE**2 * torch.eye(6) + SCALE**2 * X @ X.T
    evidence = float(dist.MultivariateNormal(torch.zeros(6), covariance).log_prob(Y[:, 0]))
    assert found.statistics["log_evidence_nats"] == pytest.approx(evidence, abs=0.12)
    # acceptance is p(y) / M
    bound = largest() + (0.4 if given else rejection.SLACK_NATS)
    assert found.statistics["log_bound_nats"] == pytest.approx(bound, abs=1e-3)
    assert found.statistics["acceptance_rate"] == pytest.approx(math.exp(evidence - bound), rel=0.12)
    assert str(found.provenance["bound"]).startswith("given" if given else "found by maximisation from 10 draws")
    lp = found.draws.statistics["lp"][0, 0]
    expected = dist.Normal(X * w[0], NOISE).log_prob(Y).sum() + dist.Normal(0.0, SCALE).log_prob(torch.tensor(w[0]))
    assert lp == pytest.approx(float(expected), rel=1e-4)


def test_a_bound_that_was_found_too_low_is_raised_and_earlier_draws_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "largest_log_likelihood", lambda state, batch, starts, tries: largest() - 3.0)
    found = fit(line(), (X, Y), RejectionSampling(draws=1500, at_once=20), seed=2)
    assert found.draws is not None
    assert "then raised" in str(found.provenance["bound"])
    assert largest() - 0.1 < found.statistics["log_bound_nats"] <= largest() + rejection.SLACK_NATS
    assert stats.kstest(found.draws.site("weight")[0, :, 0, 0].astype(float), exact().cdf).pvalue > 0.01


def test_a_bound_that_was_given_too_low_is_refused() -> None:
    with pytest.raises(InferenceError, match="above the bound of"):
        fit(line(), (X, Y), RejectionSampling(draws=10, log_bound=largest() - 3.0))


def test_discrete_sites_with_a_given_bound() -> None:
    balls = torch.tensor([1.0, 0.0, 1.0])
    found = fit(urns, (balls,), RejectionSampling(draws=3000, log_bound=0.0), seed=3)
    first, second = 0.3 * 0.7**2 * 0.3, 0.7 * 0.2**2 * 0.8
    assert found.parameters["urn"].mean.item() == pytest.approx(first / (first + second), abs=0.035)
    assert found.statistics["acceptance_rate"] == pytest.approx(first + second, rel=0.08)
    with pytest.raises(InferenceError, match="discrete latent sites is not searched for: give log_bound"):
        fit(urns, (balls,), RejectionSampling(draws=10))


def test_it_gives_up_after_a_limit_of_tries_with_the_rate_seen() -> None:
    method = RejectionSampling(draws=500, log_bound=largest() + 5.0, tries=2000)
    with pytest.raises(InferenceError, match=r"accepted \d+ of 2,000 proposals .* rate of 0\.00\d+, and 500 draws"):
        fit(line(), (X, Y), method, seed=4)
    with pytest.raises(InferenceError, match=r"accepted 0 of 1,500 proposals from the prior, none of them in fact"):
        fit(line(), (X, Y), RejectionSampling(log_bound=largest() + 50.0, tries=1500))


def test_it_stops_early_where_no_proposal_will_ever_be_accepted() -> None:
    """By a bound that was given, and by one that a network's search reaches long before its maximum."""
    with pytest.raises(InferenceError, match=r"stops after 1,000 proposals .* the bound is 1,000 or more, and over 1 "):
        fit(line(), (X, Y), RejectionSampling(log_bound=1000.0, tries=1500))
    torch.manual_seed(0)
    wide = BayesianNetwork(nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 1)), Normal(), Gaussian(noise=0.05))
    x = torch.randn(200, 5)
    with pytest.raises(InferenceError, match=r"hopeless here and stops after 25 proposals .* over 211 latent numbers"):
        fit(wide, (x, x[:, :1]), RejectionSampling(draws=10))


def test_a_narrow_posterior_of_few_dimensions_is_not_hopeless() -> None:
    """One in some ten thousand proposals is accepted, and the best of the first few is thousands of nats away."""
    x = torch.linspace(1.0, 2.0, 50)[:, None]
    model = BayesianNetwork(nn.Linear(1, 1, bias=False), Normal(scale=10.0), Gaussian(noise=0.005))
    found = fit(model, (x, 0.8 * x), RejectionSampling(draws=5, at_once=20_000), seed=3)
    assert found.statistics["acceptance_rate"] < 1e-3
    assert found.parameters["weight"].mean.item() == pytest.approx(0.8, abs=0.005)


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Any) -> None:
    method, checkpoint = RejectionSampling(draws=250, at_once=300), tmp_path / "checkpoint.pt"
    straight = fit(line(), (X, Y), method, seed=5)

    def stop(record: Any, state: Any) -> None:
        if record.epoch == 1:
            raise Stopped

    with pytest.raises(Stopped):
        fit(line(), (X, Y), method, seed=5, checkpoint=checkpoint, callbacks=[stop])
    resumed = fit(line(), (X, Y), method, seed=5, checkpoint=checkpoint, resume=True)
    assert straight.draws is not None and resumed.draws is not None
    np.testing.assert_array_equal(straight.draws.flat, resumed.draws.flat)
    assert straight.statistics["proposals"] == resumed.statistics["proposals"]


def test_settings_are_checked() -> None:
    with pytest.raises(InferenceError, match="found draws=10, starts=10, tries=0"):
        RejectionSampling(draws=10, tries=0)
    with pytest.raises(
        InferenceError, match="option 'log_bound' of RejectionSampling must be a number or None, found nan"
    ):
        RejectionSampling(log_bound=math.nan)


def test_without_observations_draws_are_of_the_prior() -> None:
    def prior() -> None:
        pyro.sample("x", dist.Normal(1.0, 2.0))

    posterior = fit(prior, None, RejectionSampling(draws=400), seed=1)
    assert posterior.draws is not None
    assert stats.kstest(posterior.draws.site("x").ravel(), stats.norm(1.0, 2.0).cdf).pvalue > 1e-3
    assert posterior.statistics["acceptance_rate"] > 0.95
