"""The truncated log-normal against quadrature: mass, moments, KL, its draws and their gradients; here and in numpy."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, norm
from torch.distributions import kl_divergence

from pyro_compress.analysis.diagnosis.psis import guide_log_density
from pyro_compress.models.gates.truncated_log_normal import LogUniformBetween, TruncatedLogNormal
from pyro_compress.posterior.posterior import Latent

# at the start, in the middle, at either end, nearly uniform, and with the interval in a tail
CASES = [(0.0, math.exp(-5)), (-3.0, 2.0), (-20.0, 0.5), (0.3, 1.0), (-10.0, 60.0), (3.0, 0.2)]
NODES = np.polynomial.legendre.leggauss(100)
cases = pytest.mark.parametrize(("loc", "scale"), CASES)


def distribution(loc: float, scale: float) -> TruncatedLogNormal:
    return TruncatedLogNormal(torch.tensor([loc]).double(), torch.tensor([scale]).double())


def density(u: float, loc: float, scale: float) -> float:
    """Of ln x, up to its mass, which is left in logarithms: beyond the interval it is next to nothing."""
    peak = min(max(loc, -20.0), 0.0)
    return math.exp(-0.5 * ((u - loc) / scale) ** 2 + 0.5 * ((peak - loc) / scale) ** 2)


def expectation(function, loc: float, scale: float) -> float:  # type: ignore[no-untyped-def]
    peak = min(max(loc, -20.0), 0.0)
    ends = [peak + sign * step * scale for sign in (-1, 1) for step in (0.01, 0.1, 1, 5)]
    points = sorted({-20.0, 0.0, *(u for u in (peak, *ends) if -20 < u < 0)})
    mass = total = 0.0
    for low, high in pairwise(points):
        for node, weight in zip(*NODES, strict=True):
            u = low + 0.5 * (high - low) * (node + 1)
            there = weight * (high - low) * density(u, loc, scale)
            mass, total = mass + there, total + function(u) * there
    return total / mass


@cases
def test_moments_and_kl_are_those_of_quadrature(loc: float, scale: float) -> None:
    q = distribution(loc, scale)
    mean = expectation(math.exp, loc, scale)
    variance = expectation(lambda u: (math.exp(u) - mean) ** 2, loc, scale)
    assert float(q.mean) == pytest.approx(mean, rel=1e-5)
    assert float(q.variance) == pytest.approx(variance, rel=1e-4)
    # KL is the same for ln x, whose density under the prior is 1/20
    mean_log = expectation(lambda u: u, loc, scale)
    log_density = expectation(lambda u: float(q.log_prob(torch.tensor([u]).double().exp()) + u), loc, scale)
    kl = log_density + math.log(20)
    assert float(kl_divergence(q, LogUniformBetween((1,)))) == pytest.approx(kl, abs=2e-4)
    assert float(q.entropy()) == pytest.approx(mean_log - log_density, abs=2e-4)


@cases
def test_kl_is_never_negative_and_falls_as_the_spread_grows(loc: float, scale: float) -> None:
    prior = LogUniformBetween((1,))
    found = [float(kl_divergence(distribution(loc, factor * scale), prior)) for factor in (0.5, 1.0, 2.0, 1000.0)]
    assert found == sorted(found, reverse=True) and found[-1] >= -1e-6


@cases
def test_draws_have_its_distribution(loc: float, scale: float) -> None:
    torch.manual_seed(0)
    low, high = norm.cdf([-20, 0], loc, scale)
    drawn = {
        "torch": distribution(loc, scale).rsample((2000,)).double().numpy(),
        "numpy": Latent("truncated-lognormal", np.array([loc]), np.array([scale])).sample(
            2000, np.random.default_rng(0)
        ),
    }
    for x in drawn.values():
        u = np.log(x[:, 0].astype(np.float64))
        assert u.min() >= -20.001 and u.max() <= 0
        # float32 leaves some hundred values next to 1
        assert kstest(u, lambda v: (norm.cdf(v, loc, scale) - low) / (high - low)).pvalue > 1e-3


@cases
def test_numpy_has_the_same_density(loc: float, scale: float) -> None:
    x = np.exp(np.linspace(-19.9, -0.01, 50))[:, None]
    expected = distribution(loc, scale).log_prob(torch.from_numpy(x)).numpy()
    latents = {"x": Latent("truncated-lognormal", np.array([loc]), np.array([scale]))}
    np.testing.assert_allclose(guide_log_density(latents, {"x": x}), expected[:, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("loc", "scale"), [(-3.0, 2.0), (0.3, 1.0), (3.0, 0.2), (-20.0, 4.0)])
def test_gradients_through_draws_are_those_of_the_mean(loc: float, scale: float) -> None:
    parameters = [torch.tensor([number], requires_grad=True) for number in (loc, scale)]
    q = TruncatedLogNormal(parameters[0], parameters[1])
    torch.manual_seed(1)
    draws = q.rsample((20000,)).mean()
    exact = torch.autograd.grad(q.mean.sum(), parameters, retain_graph=True)
    for estimate, true in zip(torch.autograd.grad(draws, parameters), exact, strict=True):
        assert float(estimate) == pytest.approx(float(true), rel=0.1, abs=1e-4)


def test_the_log_uniform_prior_integrates_to_one_and_is_sampled() -> None:
    prior = LogUniformBetween()
    # over ln x
    assert quad(lambda u: float(torch.exp(prior.log_prob(torch.tensor(u).double().exp()) + u)), -20, 0)[
        0
    ] == pytest.approx(1)
    torch.manual_seed(0)
    assert kstest(prior.sample((2000,)).log().numpy(), "uniform", (-20, 20)).pvalue > 1e-3
    assert float(prior.log_prob(torch.tensor(1.1))) == -math.inf


def test_other_intervals_have_no_closed_form() -> None:
    with pytest.raises(NotImplementedError):
        kl_divergence(distribution(0.0, 1.0), LogUniformBetween((1,), low=-10.0))
