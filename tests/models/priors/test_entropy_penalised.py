"""Entropy-penalised reparameterization: masses, rate and gradients against other computations; the road to a file."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import PriorError
from pyro_compress.inference.point.map import MAP
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.entropy_penalised import EntropyPenalised, RateDistribution, rounded_moments
from pyro_compress.network.quantizers import Uniform
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.posterior.posterior import Posterior

SHARES, LOCATIONS, SCALES = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.1, -2.0, 3.0]), torch.tensor([0.2, 1.0, 4.0])
RATE = RateDistribution(SHARES.double(), LOCATIONS.double(), SCALES.double())


def cumulative(v: Any) -> Any:
    parts = zip(SHARES.tolist(), LOCATIONS.tolist(), SCALES.tolist(), strict=True)
    return sum(share * stats.logistic.cdf(v, location, scale) for share, location, scale in parts)


def test_masses_are_differences_of_the_distribution_function_and_add_up_to_one() -> None:
    whole = np.arange(-60, 61)
    found = RATE.log_mass(torch.from_numpy(whole).double()).exp().numpy()
    np.testing.assert_allclose(found, cumulative(whole + 0.5) - cumulative(whole - 0.5), rtol=1e-5, atol=1e-11)
    assert found.sum() == pytest.approx(1.0, abs=1e-4)
    # far out, in single precision, nothing is a difference of two ones
    far = RateDistribution(torch.ones(1), torch.zeros(1), torch.ones(1)).log_mass(torch.tensor([-20.0, 20.0]))
    expected = math.log(stats.logistic.sf(19.5) - stats.logistic.sf(20.5))
    torch.testing.assert_close(far, torch.full((2,), expected), rtol=1e-3, atol=0.0)


def test_the_rate_is_the_mean_over_uniform_noise() -> None:
    torch.manual_seed(0)
    value = torch.tensor([0.3, -1.7, 4.0], dtype=torch.float64)
    noise = torch.linspace(-0.5, 0.5, 20_001, dtype=torch.float64)
    expected = RATE.log_mass(value[:, None] + noise).mean(1)
    found = RATE.log_prob(value.expand(40_000, 3))
    error = found.std(0) / math.sqrt(40_000)
    assert bool(((found.mean(0) - expected).abs() < 5 * error + 1e-4).all())
    draws = RateDistribution(SHARES, LOCATIONS, SCALES).sample((20_000,))
    # uniform noise widens a density and leaves its mean
    assert float(draws.clamp(-8, 8).mean()) == pytest.approx(float((SHARES * LOCATIONS).sum()), abs=0.1)


def test_moments_of_rounded_normals_are_those_of_draws() -> None:
    mean = torch.tensor([0.2, 0.49, -3.5, 7.0, -0.3], dtype=torch.float64)[:, None]
    scale = torch.tensor([1e-3, 0.2, 0.6, 0.99, 2.5], dtype=torch.float64)
    torch.manual_seed(0)
    draws = (mean + scale * torch.randn(100_000, 5, 5, dtype=torch.float64)).round()
    found, variance = rounded_moments(*torch.broadcast_tensors(mean, scale.square()))
    error = 5 * draws.std(0) / math.sqrt(100_000) + 1e-9
    assert bool(((draws.mean(0) - found).abs() < error)[:, 1:].all())
    torch.testing.assert_close(draws.var(0)[:, 1:], variance[:, 1:], rtol=0.03, atol=1e-3)
    # next to no spread: the integer itself, but where it lies between two
    torch.testing.assert_close(found[[0, 1, 3, 4], 0], mean[[0, 1, 3, 4], 0].round())
    # none at all, at the middle between two: either, as often
    middle, spread = rounded_moments(torch.tensor([0.5, -1.5]), torch.zeros(2))
    torch.testing.assert_close(middle, torch.tensor([0.5, -1.5]))
    torch.testing.assert_close(spread, torch.tensor([0.25, 0.25]))


X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.linspace(-1, 1, 12).reshape(4, 3)


def test_the_data_see_rounded_weights_and_their_gradient_passes_straight_through() -> None:
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(4, 3), EntropyPenalised(step=0.25), Gaussian(noise=1.0))
    state = MAP(batch_size=50).init(model, len(X), 0)
    terms = MAP(batch_size=50).terms(state, (X, Y))
    terms.data.backward()
    steps = dict(state.points.latent.named_parameters())["weight__steps"]
    weight = (0.25 * steps.detach().round()).requires_grad_()
    bias = dict(model.network.named_parameters())["bias"].detach()
    expected = -0.5 * (Y - X @ weight.T - bias).square().sum()
    (of_weight,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(steps.grad, 0.25 * of_weight)
    # d/d ln Δ = Σ ∂/∂w · w
    of_step = model.hyper.tensor("weight.step").grad
    torch.testing.assert_close(of_step, (of_weight * weight.detach()).sum())
    assert set(terms.by_site) == {"weight.steps"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"step": 0.0}, r"a step lies between 2\*\*-60 and 2\*\*60, found 0.0"),
        ({"components": 0}, "a mixture has at least one component, found components=0"),
    ],
)
def test_what_makes_no_model_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PriorError, match=text):
        EntropyPenalised(**options)


def fresh() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def fitted() -> Posterior:
    model = BayesianNetwork(fresh(), EntropyPenalised(step=2.0**-4))
    rates = {"weight": 16.0, "scale": 3.0}
    method = MAP(epochs=30, learning_rate=5e-3, kl_weight=0.3, schedule="linear", rates=rates)
    return pc.fit(model, pc.data.load("digits"), method)


def test_weights_are_multiples_of_a_step_that_was_learned(fitted: Posterior) -> None:
    for name in ("1.weight", "3.weight"):
        site, step = fitted.parameters[name], float(fitted.hyperparameters[f"{name}.step"])
        assert site.quantizer == Uniform(step) and abs(step - 2.0**-4) > 0.01
        np.testing.assert_allclose(site.mean / step, np.rint(site.mean / step), atol=1e-4)
    assert fitted.parameters["1.bias"].quantizer is None


def test_the_file_is_as_long_as_the_learned_model_says(fitted: Posterior) -> None:
    data = pc.data.load("digits")
    settings = DecisionSettings(fine_tune_epochs=0, refine=False)
    decision = pc.decide(fitted, fresh(), data, settings)
    bits = 0.0
    for name in ("1.weight", "3.weight"):
        site, integers = fitted.parameters[name], decision.sites[name].integers()
        np.testing.assert_array_equal(integers, np.rint(site.mean / fitted.hyperparameters[f"{name}.step"]))
        learned = ("log_shares", "locations", "scales")
        hyper = {key: torch.tensor(fitted.hyperparameters[f"{name}.{key}"]) for key in learned}
        rate = RateDistribution(hyper["log_shares"].softmax(0), hyper["locations"], hyper["scales"])
        bits -= float(rate.log_mass(torch.from_numpy(integers).float()).sum()) / math.log(2)
    artifact = pc.compress(fresh(), decision, data=data)
    # the file has biases, a header and units that left; it also knows no p beforehand, and where zeros gather
    assert 0.6 * bits / 8 < len(artifact.data) < 1.2 * bits / 8 + 60
    x, y = data.part("test")
    assert float((artifact.to_torch()(x).argmax(1) != y).float().mean()) < 0.09
    assert len(artifact.data) < 500
