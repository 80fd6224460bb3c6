"""Densities against quadrature and torch's own, samples against the cumulative distribution."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch.distributions import Categorical, HalfCauchy, MixtureSameFamily, Normal

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import LogUniformDistribution, ScaleMixtureNormal
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.horseshoe import GroupHorseshoe

# Kolmogorov–Smirnov: √n · sup|F̂ − F| exceeds 2.65 with probability 1.6e-6
KS_LIMIT = 2.65


def kolmogorov_smirnov(samples: torch.Tensor, cdf: torch.Tensor) -> float:
    """√n · sup|F̂ − F| where `cdf` is F at the sorted samples."""
    n = len(samples)
    above = torch.arange(1, n + 1) / n - cdf
    below = cdf - torch.arange(0, n) / n
    return math.sqrt(n) * float(torch.maximum(above.max(), below.max()))


def log_uniform_cdf(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    x = x.double()
    normaliser = 2 * (1 + math.log(high / low))
    size = x.abs()
    mass = torch.where(size < low, size / low, 1 + torch.log(size / low)) / normaliser
    return 0.5 + torch.sign(x) * mass


def test_log_uniform_density_integrates_to_one() -> None:
    prior = LogUniformDistribution(low=0.01, high=20.0)
    core = torch.linspace(0.0, 0.01, 2001, dtype=torch.float64)
    tail = torch.logspace(math.log10(0.01), math.log10(20.0), 20001, dtype=torch.float64).clamp(max=20.0)
    half = sum(float(torch.trapezoid(prior.log_prob(grid).exp(), grid)) for grid in (core, tail))
    assert 2 * half == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(prior.log_prob(-tail), prior.log_prob(tail))
    assert prior.log_prob(torch.tensor([20.1, -20.1])).tolist() == [-math.inf, -math.inf]


def test_log_uniform_samples_follow_the_cumulative_distribution() -> None:
    torch.manual_seed(1)
    # bounds close together, so that the flat core holds a quarter of the mass
    samples = LogUniformDistribution(low=0.1, high=2.0).sample((100000,)).sort().values
    assert kolmogorov_smirnov(samples, log_uniform_cdf(samples, 0.1, 2.0)) < KS_LIMIT
    assert float((samples.abs() < 0.1).float().mean()) == pytest.approx(1 / (1 + math.log(20.0)), abs=0.02)


def test_log_uniform_keeps_shape_and_bounds_when_expanded() -> None:
    prior = LogUniformDistribution(low=0.5, high=3.0).expand((4, 3)).to_event(1)
    assert prior.batch_shape == (4,) and prior.event_shape == (3,)
    draws = prior.sample((1000,))
    assert draws.shape == (1000, 4, 3)
    assert float(draws.abs().max()) <= 3.0
    assert prior.log_prob(draws).shape == (1000, 4)


@pytest.mark.parametrize("bounds", [{"low": 0.0}, {"high": math.inf}])
def test_improper_log_uniform_is_refused_with_a_sentence(bounds: dict[str, float]) -> None:
    prior = LogUniformDistribution(**bounds)
    assert not prior.is_proper
    with pytest.raises(PriorError, match=r"improper log-uniform prior \(low=.*cannot be sampled: it serves SVI only"):
        prior.sample((3,))
    with pytest.raises(PriorError, match=r"cannot be normalised.*give it bounds, e\.g\. LogUniform\(low=1e-8"):
        prior.log_prob(torch.ones(3))


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (-1.0, 1.0), (1.0, 1.0)])
def test_log_uniform_refuses_bounds_in_the_wrong_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(PriorError, match="needs 0 ≤ low < high, found low="):
        LogUniformDistribution(*bounds)


def test_scale_mixture_density_is_torchs() -> None:
    prior = ScaleMixtureNormal(0.3, 2.0, 0.01)
    ours = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    components = Normal(torch.zeros(2, dtype=torch.float64), torch.tensor([2.0, 0.01], dtype=torch.float64))
    reference = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)), components)
    torch.testing.assert_close(prior.log_prob(ours), reference.log_prob(ours), atol=1e-5, rtol=1e-5)
    slopes = []
    for density in (prior, reference):
        value = ours.clone().requires_grad_()
        density.log_prob(value).sum().backward()
        slopes.append(value.grad)
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-5)


def test_scale_mixture_refuses_impossible_parts() -> None:
    with pytest.raises(PriorError, match=r"0 < mixture < 1 and positive scales; found mixture=1\.5"):
        ScaleMixtureNormal(1.5, 1.0, 0.1)


def test_scale_mixture_density_survives_far_tails() -> None:
    # the narrow component alone underflows to −∞ here; the sum and its gradient must not
    value = torch.tensor([50.0], requires_grad=True)
    log_prob = ScaleMixtureNormal(0.5, math.e, math.exp(-6.0)).log_prob(value)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(-50.0 / math.e**2, rel=1e-5)


def test_scale_mixture_samples_have_its_moments() -> None:
    torch.manual_seed(2)
    prior = ScaleMixtureNormal(0.3, 2.0, 0.5).expand((3, 2))
    samples = prior.sample((100000,))
    assert samples.shape == (100000, 3, 2)
    second, fourth = 0.3 * 4 + 0.7 * 0.25, 3 * (0.3 * 16 + 0.7 * 0.0625)
    n = samples.numel()
    assert abs(float(samples.mean())) < 5 * math.sqrt(second / n)
    assert abs(float(samples.square().mean()) - second) < 5 * math.sqrt((fourth - second**2) / n)
    assert float(samples.pow(4).mean()) == pytest.approx(fourth, rel=0.02)


@pytest.mark.parametrize("part", ["s", "z"])
def test_half_cauchy_is_the_root_of_gamma_times_inverse_gamma(part: str) -> None:
    tau = 0.3
    parameter = Parameter("fc.weight", torch.Size((1, 20000)), "linear")
    torch.manual_seed(3)
    if part == "s":
        traces: list[Any] = [poutine.trace(GroupHorseshoe(tau=tau).sample).get_trace(_narrow()) for _ in range(1000)]
        a, b = (torch.stack([t.nodes[f"fc.weight.s_{k}"]["value"] for t in traces]) for k in "ab")
        scale = tau
    else:
        trace: Any = poutine.trace(GroupHorseshoe(tau=tau).sample).get_trace(parameter)
        a, b = (trace.nodes[f"fc.weight.z_{k}"]["value"] for k in "ab")
        scale = 1.0
    samples = (0.5 * (a.log() + b.log())).exp().sort().values
    assert kolmogorov_smirnov(samples, HalfCauchy(scale).cdf(samples)) < KS_LIMIT
    # the quantiles' own standard errors are 4 % (s, at the median) and 2 % (z, at 0.9)
    for level in (0.5,) if part == "s" else (0.1, 0.5, 0.9):
        wanted = float(HalfCauchy(scale).icdf(torch.tensor(level)))
        assert float(np.quantile(samples.numpy(), level)) == pytest.approx(wanted, rel=0.2)


def _narrow() -> Parameter:
    return Parameter("fc.weight", torch.Size((1, 1)), "linear")
