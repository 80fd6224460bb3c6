"""Importance sampling against conjugate posteriors, effective sample sizes against their formula, and refusals."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.errors import InferenceError, UnstorableWarning
from pyro_compress.inference.fit import fit
from pyro_compress.inference.independent.importance import ImportanceSampling
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Latent, ParameterPosterior, Posterior

GENERATOR = torch.Generator().manual_seed(11)
X = torch.randn(20, 1, generator=GENERATOR)
Y = 0.8 * X + 0.5 * torch.randn(20, 1, generator=GENERATOR)
NOISE, SCALE = 0.5, 1.5


def line() -> BayesianNetwork:
    return BayesianNetwork(nn.Linear(1, 1, bias=False), Normal(scale=SCALE), Gaussian(noise=NOISE))


def line_posterior(temperature: float = 1.0) -> tuple[float, float]:
    """(mean, sd) of w in closed form."""
    precision = float(X.square().sum()) / NOISE**2 + SCALE**-2
    return float((X * Y).sum()) / NOISE**2 / precision, math.sqrt(temperature / precision)


def line_evidence() -> float:
    covariance = NOISE**2 * torch.eye(20) + SCALE**2 * X @ X.T
    return float(dist.MultivariateNormal(torch.zeros(20), covariance).log_prob(Y[:, 0]))


def near(mean: float, sd: float) -> Posterior:
    """A fitted guide, as SVI hands it over."""
    moments = ParameterPosterior(np.array([[mean]], np.float32), np.array([[sd**2]], np.float32), "Normal")
    latent = Latent("normal", np.array([[mean]], np.float32), np.array([[sd]], np.float32))
    return Posterior({"weight": moments}, {"weight": latent}, provenance={"method": "SVI"})


def coin(heads: torch.Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(heads)):
        pyro.sample("heads", dist.Bernoulli(share), obs=heads)


def test_proposals_from_the_prior_find_the_conjugate_posterior() -> None:
    found = fit(line(), (X, Y), ImportanceSampling(draws=20_000), seed=1)
    mean, sd = line_posterior()
    effective = found.statistics["effective_sample_size"]
    assert found.kind == "iid" and found.draws is not None and found.draws.count == 20_000
    assert found.parameters["weight"].mean.item() == pytest.approx(mean, abs=4 * sd / math.sqrt(effective))
    assert math.sqrt(found.parameters["weight"].variance.item()) == pytest.approx(sd, rel=0.1)
    assert found.statistics["log_evidence_nats"] == pytest.approx(line_evidence(), abs=4 / math.sqrt(effective))
    assert 100 < effective < 20_000


def test_effective_sample_size_is_its_formula() -> None:
    found = fit(line(), (X, Y), ImportanceSampling(draws=700, at_once=300), seed=2)
    assert found.draws is not None and found.draws.log_weight is not None
    weights = np.exp(found.draws.log_weight[0])
    expected = weights.sum() ** 2 / (weights**2).sum()
    assert found.statistics["effective_sample_size"] == pytest.approx(expected)
    assert found.statistics["effective_sample_percent"] == pytest.approx(100 * expected / 700)
    assert found.statistics["largest_weight"] == pytest.approx(weights.max() / weights.sum())
    # the weights of proposals from the prior are their likelihoods
    w = found.draws.site("weight")[0, :, 0, 0]
    likelihood = dist.Normal(X * torch.from_numpy(w), NOISE).log_prob(Y).sum(0)
    np.testing.assert_allclose(found.draws.log_weight[0], likelihood, rtol=1e-4, atol=1e-3)


def test_proposing_with_the_posterior_itself_gives_equal_weights() -> None:
    found = fit(line(), (X, Y), ImportanceSampling(draws=500, proposal=near(*line_posterior())), seed=3)
    assert found.statistics["effective_sample_percent"] == pytest.approx(100, abs=0.1)
    assert found.statistics["log_evidence_nats"] == pytest.approx(line_evidence(), abs=0.01)
    assert str(found.provenance["proposal"]).startswith("posterior of SVI ")


@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_tempered_posteriors(temperature: float) -> None:
    mean, sd = line_posterior(temperature)
    method = ImportanceSampling(draws=8000, proposal=near(mean + 0.3 * sd, 1.3 * sd), temperature=temperature)
    found = fit(line(), (X, Y), method, seed=4)
    assert found.parameters["weight"].mean.item() == pytest.approx(mean, abs=0.06 * sd)
    assert math.sqrt(found.parameters["weight"].variance.item()) == pytest.approx(sd, rel=0.05)
    assert "log_evidence_nats" not in found.statistics


def test_a_model_that_vmap_cannot_run_is_run_proposal_by_proposal() -> None:
    """Beta-binomial: pyro's Beta has no batching rule; p(share | y) = Beta(2 + heads, 3 + tails)."""
    heads = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    found = fit(coin, (heads,), ImportanceSampling(draws=3000), seed=5)
    exact = dist.Beta(7.0, 4.0)
    sd = float(exact.variance.sqrt())
    tolerance = 4 * sd / math.sqrt(found.statistics["effective_sample_size"])
    assert found.parameters["share"].mean.item() == pytest.approx(float(exact.mean), abs=tolerance)
    assert found.parameters["share"].variance.item() == pytest.approx(sd**2, rel=0.15)
    log_beta = torch.lgamma(torch.tensor([7.0, 4.0, 11.0])), torch.lgamma(torch.tensor([2.0, 3.0, 5.0]))
    evidence = float(log_beta[0] @ torch.tensor([1.0, 1, -1]) - log_beta[1] @ torch.tensor([1.0, 1, -1]))
    assert found.statistics["log_evidence_nats"] == pytest.approx(evidence, abs=0.1)


def test_discrete_sites() -> None:
    """Which of two urns? p(urn = 1 | y) by Bayes' rule."""

    def urns(balls: torch.Tensor) -> None:
        urn = pyro.sample("urn", dist.Bernoulli(0.3))
        with pyro.plate("data", len(balls)):
            pyro.sample("balls", dist.Bernoulli(0.2 + 0.5 * urn), obs=balls)

    balls = torch.tensor([1.0, 0.0, 1.0])
    found = fit(urns, (balls,), ImportanceSampling(draws=20_000), seed=6)
    first, second = 0.3 * 0.7**2 * 0.3, 0.7 * 0.2**2 * 0.8
    assert found.parameters["urn"].mean.item() == pytest.approx(first / (first + second), abs=0.02)


def test_a_guide_proposes() -> None:
    mean, sd = line_posterior()

    def guide(x: torch.Tensor, y: torch.Tensor) -> None:
        pyro.sample("weight", dist.Normal(torch.full((1, 1), mean), 2 * sd).to_event(2))

    found = fit(line(), (X, Y), ImportanceSampling(draws=4000, proposal=guide), seed=7)
    assert found.parameters["weight"].mean.item() == pytest.approx(mean, abs=0.08 * sd)
    # ∫ p² / q for p = N(0, 1), q = N(0, 2²) is 4 / √7
    assert found.statistics["effective_sample_percent"] == pytest.approx(100 * math.sqrt(7) / 4, rel=0.05)
    assert found.provenance["proposal"] == "guide guide"


def test_draws_of_a_network_hold_weights_that_follow_from_sites() -> None:
    model = BayesianNetwork(nn.Linear(2, 3), {"weight": GroupHorseshoe(tau=0.5), "bias": Normal()}, Gaussian(noise=1.0))
    x, y = torch.randn(5, 2, generator=GENERATOR), torch.randn(5, 3, generator=GENERATOR)
    with pytest.warns(UserWarning, match="equally weighted draws"):
        found = fit(model, (x, y), ImportanceSampling(draws=200, warn_below_percent=100.0), seed=8)
    assert found.draws is not None and found.draws.derived == ("weight",)
    scale = np.sqrt(np.prod([found.draws.site(f"weight.{name}") for name in ("s_a", "s_b")], 0))[..., None]
    groups = np.sqrt(found.draws.site("weight.z_a") * found.draws.site("weight.z_b"))
    expected = found.draws.site("weight.unscaled") * (scale * groups)[:, :, None, :]
    np.testing.assert_allclose(found.draws.site("weight"), expected, rtol=1e-4)


def test_few_effective_draws_are_warned_of() -> None:
    method = ImportanceSampling(draws=300, proposal=near(line_posterior()[0] + 0.6, 0.05))
    with pytest.warns(UserWarning, match=r"300 proposals are worth \d+\.\d equally weighted draws"):
        found = fit(line(), (X, Y), method, seed=9)
    assert "propose from a fitted posterior" in str(found.provenance["warning"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnstorableWarning)
        fit(line(), (X, Y), replace(method, warn_below_percent=0.0), seed=9)


def test_pieces_and_where_draws_lie_change_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    method = ImportanceSampling(draws=50, at_once=20, proposal=near(0.5, 0.5))
    straight = fit(line(), (X, Y), method, seed=1)
    on_disk = fit(line(), (X, Y), method, seed=1, checkpoint=tmp_path / "checkpoint.pt")
    assert straight.draws is not None and on_disk.draws is not None
    np.testing.assert_array_equal(straight.draws.flat, on_disk.draws.flat)
    np.testing.assert_array_equal(straight.draws.log_weight, on_disk.draws.log_weight)
    other = replace(method, proposal=near(0.6, 0.5))
    with pytest.raises(InferenceError, match="started with another proposal"):
        fit(line(), (X, Y), other, seed=1, checkpoint=tmp_path / "checkpoint.pt", resume=True)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (ImportanceSampling(proposal=Posterior({}, kind="point")), "has no density to propose with"),
        (ImportanceSampling(proposal=Posterior({}, {"w": near(0, 1).latents["weight"]})), "has the sites w, and the"),
        (ImportanceSampling(proposal=lambda x, y: pyro.sample("w", dist.Normal(0.0, 1.0))), "draws the sites w, and"),
        (ImportanceSampling(draws=10, proposal=near(1e30, 1.0)), "none of 10 proposals has any likelihood"),
    ],
    ids=["no-density", "other-sites", "other-guide", "no-likelihood"],
)
def test_what_cannot_propose_is_refused(method: ImportanceSampling, sentence: str) -> None:
    with pytest.raises(InferenceError, match=sentence):
        fit(line(), (X, Y), method)


def test_a_parameter_without_a_prior_is_refused_and_taken_from_a_posterior() -> None:
    model = BayesianNetwork(nn.Linear(1, 1), {"weight": Normal(scale=SCALE)}, Gaussian(noise=NOISE))
    with pytest.raises(InferenceError, match="bias has no prior to draw from"):
        fit(model, (X, Y), ImportanceSampling(draws=10))
    proposal = near(*line_posterior())
    bias = ParameterPosterior(np.array([0.25], np.float32), np.zeros(1, np.float32), "point")
    proposal = replace(proposal, parameters={**proposal.parameters, "bias": bias})
    found = fit(model, (X, Y), ImportanceSampling(draws=300, proposal=proposal, warn_below_percent=0.0))
    assert found.parameters["bias"].mean.tolist() == [0.25] and found.parameters["bias"].is_point


def test_counts_are_checked() -> None:
    with pytest.raises(InferenceError, match="found draws=0"):
        ImportanceSampling(draws=0)
