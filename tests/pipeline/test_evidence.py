"""Estimates of log p(y) against closed forms and quadrature."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.integrate import quad
from scipy.stats import binom, multivariate_normal
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.errors import InferenceError, PosteriorWarning
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.pipeline import evidence

EXAMPLES, NOISE, SPREAD = 12, 0.7, 1.3


def regression(x: Tensor, y: Tensor) -> None:
    """Linear, with a normal prior: log p(y) = log N(y; 0, s² X Xᵀ + σ² I)."""
    width = x.shape[1]
    w = pyro.sample("w", dist.Normal(torch.zeros(width), SPREAD).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, NOISE), obs=y)


def examples(width: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Data and log p(y)."""
    generator = np.random.default_rng(width)
    x = generator.normal(size=(EXAMPLES, width))
    covariance = SPREAD**2 * x @ x.T + NOISE**2 * np.eye(EXAMPLES)
    y = np.linalg.cholesky(covariance) @ generator.normal(size=EXAMPLES)
    truth = multivariate_normal(np.zeros(EXAMPLES), covariance).logpdf(y)
    return (torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)), float(truth)


def coin(y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 1.0))
    pyro.sample("y", dist.Binomial(9, p), obs=y)


HEADS = torch.tensor(8.0)
# ∫ C(9, 8) p⁸ (1 − p) · 2 p dp
OF_COIN = math.log(quad(lambda p: binom.pmf(8, 9, p) * 2 * p, 0, 1)[0])


@pytest.fixture
def short_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "WARMUP", 150)


@pytest.mark.parametrize("method", ["elbo", "laplace"])
def test_what_stands_on_a_normal_posterior_is_exact_for_one(method: str) -> None:
    data, truth = examples(4)
    assert pc.evidence(regression, data, method=method).log_evidence == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize(("method", "width"), [("importance", 9), ("annealed", 4)])
def test_weighted_draws_are_as_far_off_as_their_standard_error_says(method: str, width: int) -> None:
    data, truth = examples(width)
    found = pc.evidence(regression, data, method=method, draws=500)
    assert found.standard_error < 0.15 and abs(found.log_evidence - truth) < 4 * found.standard_error
    assert 50 < found.effective < found.draws == 500 and found.warning is None and found.method == method


@pytest.mark.parametrize("method", ["importance", "bridge", pytest.param("annealed", marks=pytest.mark.nightly)])
def test_behind_a_transform_they_are_at_the_truth(method: str, short_chains: None) -> None:
    found = pc.evidence(coin, (HEADS,), method=method, draws=400)
    assert found.standard_error < 0.1 and abs(found.log_evidence - OF_COIN) < 4 * found.standard_error


def test_behind_a_transform_the_bound_is_below_and_laplaces_method_has_its_closed_form() -> None:
    bound, laplace = (pc.evidence(coin, (HEADS,), method=name) for name in ("elbo", "laplace"))
    assert OF_COIN - 0.2 < bound.log_evidence < OF_COIN - 4 * bound.standard_error
    # ∫ σ(u)¹⁰ σ(−u)² du, of which Laplace's method takes the mode u = log 5 and H = 12 · 10/12 · 2/12
    closed = math.log(18) + 10 * math.log(10 / 12) + 2 * math.log(2 / 12) + 0.5 * math.log(2 * math.pi / (20 / 12))
    assert laplace.log_evidence == pytest.approx(closed, abs=1e-4)
    assert math.isnan(laplace.standard_error) and laplace.draws == 0


def test_the_harmonic_mean_says_what_it_is_and_is_wrong(short_chains: None) -> None:
    data, truth = examples(9)
    with pytest.warns(PosteriorWarning, match=r"by harmonic-mean: the variance of 1 / p\(y \| θ\) is infinite"):
        found = pc.evidence(regression, data, method="harmonic-mean", draws=400)
    assert found.log_evidence > truth + 5 > truth + 5 * found.standard_error


def test_a_network_with_a_prior_over_all_of_it_is_a_model_like_any_other() -> None:
    (x, y), _ = examples(2)
    network = nn.Sequential(nn.Linear(2, 1))
    model = pc.BayesianNetwork(network, Normal(scale=SPREAD), Gaussian(noise=NOISE))
    rows = np.concatenate([x.numpy(), np.ones((EXAMPLES, 1))], 1).astype(np.float64)
    covariance = SPREAD**2 * rows @ rows.T + NOISE**2 * np.eye(EXAMPLES)
    truth = multivariate_normal(np.zeros(EXAMPLES), covariance).logpdf(y.numpy())
    assert pc.evidence(model, (x, y[:, None]), "laplace").log_evidence == pytest.approx(truth, abs=1e-3)


def test_a_seed_gives_the_same_number_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (pc.evidence(coin, (HEADS,), draws=200, seed=5) for _ in range(2))
    assert first == second and torch.equal(before, torch.get_rng_state())


def test_few_draws_are_flagged() -> None:
    with pytest.warns(PosteriorWarning, match=r"by importance: 20 draws are worth \d+ without weights"):
        assert pc.evidence(coin, (HEADS,), draws=20).warning


def trained(y: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    z = pyro.sample("z", dist.Normal(loc, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "keywords", "match"),
    [
        (coin, {"method": "guess"}, "one of elbo, laplace, importance, bridge, annealed, harmonic-mean; found 'guess'"),
        (coin, {"draws": 1}, "draws must be at least 8, found 1"),
        (trained, {}, "trains loc, which have no prior"),
    ],
)
def test_what_has_no_evidence_is_refused(model: Any, keywords: dict[str, Any], match: str) -> None:
    data = torch.ones(3) if model is trained else HEADS
    with pytest.raises(InferenceError, match=match):
        pc.evidence(model, (data,), **keywords)


def vae() -> Any:
    encoder, decoder = nn.Linear(2, 2), nn.Sequential(nn.Linear(1, 2))
    return pc.VAE(pc.models.EncoderDecoder(encoder, decoder, pc.models.GaussianCodes(1)), {}, Gaussian(noise=1.0))


LINEAR = nn.Sequential(nn.Linear(2, 2))
NETWORKS = {
    "code per example": (vae, "a VAE has a latent code per example"),
    "free biases": (
        lambda: pc.BayesianNetwork(LINEAR, {"*.weight": Normal()}, Gaussian(noise=1.0)),
        "0.bias has no prior",
    ),
    "improper": (
        lambda: pc.BayesianNetwork(
            nn.Sequential(nn.Linear(2, 2, bias=False)), LogUniform(low=0.0), Gaussian(noise=1.0)
        ),
        "a prior is improper",
    ),
}


def test_data_that_are_not_given_once_each_have_no_evidence() -> None:
    (x, y), _ = examples(2)
    model = pc.BayesianNetwork(nn.Linear(2, 1, bias=False), Normal(), Gaussian(noise=NOISE))
    part = pc.data.as_data((x.float(), y[:, None].float()), classes=None)
    for changed, count in ((replace(part, size=120), 120), (replace(part, repeats=3), 4)):
        with pytest.raises(InferenceError, match=f"N is {count} and 12 examples are given, and ln p"):
            pc.evidence(model, changed)


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_without_a_joint_density_are_refused(case: str) -> None:
    build, match = NETWORKS[case]
    with pytest.raises(InferenceError, match=match):
        pc.evidence(build(), (torch.ones(3, 2), torch.ones(3, 2)))


@pytest.mark.parametrize("around", [poutine.mask(mask=False), poutine.scale(scale=3.0)])
def test_a_prior_that_does_not_integrate_to_one_has_no_evidence(around: Any) -> None:
    def model(y: torch.Tensor) -> None:
        with around:
            m = pyro.sample("m", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    y = torch.linspace(0, 2, 20)
    with pytest.raises(InferenceError, match="the prior of m is scaled or masked in model and does not integrate"):
        pc.evidence(model, (y,), method="elbo")
    posterior = pc.fit(model, (y,), pc.inference.ImportanceSampling(draws=200), seed=0)
    assert "log_evidence_nats" not in posterior.statistics
