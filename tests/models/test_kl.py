"""Every closed-form KL against Monte Carlo, its gradient against finite differences, the published constants."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import LogUniformDistribution, ScaleMixtureNormal
from pyro_compress.models.kl import (
    K1,
    K2,
    K3,
    LOG_UNIFORM_CONSTANT,
    StandardNormal,
    _NormalLogUniformTotal,
    _StandardNormalTotal,
    kl_nats,
    log_alpha,
    negative_kl_log_uniform,
)
from pyro_compress.models.priors.normal_jeffreys import standard_normal

# every Monte Carlo comparison in this file allows 5 standard errors: about 6e-7 false failures each, seeds fixed
SIGMAS = 5.0


def monte_carlo(q: Any, p: Any, count: int = 200000) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate of KL(q ‖ p) per element and its standard error."""
    samples = q.sample((count,))
    ratio = q.log_prob(samples) - p.log_prob(samples)
    return ratio.mean(0), ratio.std(0) / math.sqrt(count)


def exact_log_uniform_kl(log_alphas: torch.Tensor) -> torch.Tensor:
    """KL(N(θ, αθ²) ‖ 1/|w|) up to ln-normaliser and with θ = 1, by quadrature of E ln|1 + √α ε| in double."""
    # the logarithm's spike at ε = −1/√α is integrable; a fine grid that does not hit it suffices
    grid = torch.linspace(-9.0, 9.0, 1_800_001, dtype=torch.float64) + 3.3e-7
    weight = torch.exp(-0.5 * grid.square()) / math.sqrt(2 * math.pi) * 1e-5
    found = []
    for value in log_alphas.tolist():
        spread = math.exp(0.5 * value)
        expected = float((weight * torch.log((1 + spread * grid).abs())).sum())
        found.append(expected - 0.5 * math.log(2 * math.pi * math.e) - math.log(spread))
    return torch.tensor(found, dtype=torch.float64)


def test_published_log_uniform_kl_is_within_a_hundredth_of_a_nat() -> None:
    log_alphas = torch.arange(-20.0, 20.01, 0.5, dtype=torch.float64)
    published = -negative_kl_log_uniform(log_alphas)
    error = published + LOG_UNIFORM_CONSTANT - exact_log_uniform_kl(log_alphas)
    assert float(error.abs().max()) < 0.01


@pytest.mark.parametrize("log_alpha_value", [-20.0, -12.0, -9.0, -3.0, -1.0, 0.0, 1.0, 3.0, 9.0, 14.0, 20.0])
def test_log_uniform_kl_is_the_true_one_against_the_proper_form(log_alpha_value: float) -> None:
    torch.manual_seed(4)
    # so that both lie between the bounds
    theta = torch.tensor([0.02 * math.exp(-0.25 * log_alpha_value)], dtype=torch.float64)
    sigma = theta * math.exp(0.5 * log_alpha_value)
    p = LogUniformDistribution(1e-12, 1e3)
    count = 2_000_000
    samples = theta + sigma * torch.randn(count, dtype=torch.float64)
    q = dist.Normal(theta, sigma)
    ratio = q.log_prob(samples) - p.log_prob(samples)
    error = float(ratio.std()) / math.sqrt(count)
    assert error < 1e-3
    expected = float(ratio.mean())
    for found in (kl_nats(q, p), kl_divergence(q, p).sum()):
        assert abs(float(found) - expected) < 0.01 + SIGMAS * error


def test_log_uniform_constant_is_the_limit_of_a_vanishing_mean() -> None:
    # α → ∞: E ln|σε| = ln σ − (γ + ln 2)/2
    torch.manual_seed(5)
    q = dist.Normal(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.3, dtype=torch.float64))
    p = LogUniformDistribution(1e-12, 1e3)
    found, error = monte_carlo(q, p, 1_000_000)
    expected = LOG_UNIFORM_CONSTANT + p.log_normaliser
    assert abs(float(found) - expected) < SIGMAS * float(error)


def test_improper_log_uniform_gives_the_published_number_without_constant() -> None:
    mean, scale = torch.tensor([0.4, -0.2]), torch.tensor([0.1, 0.3])
    expected = -negative_kl_log_uniform(log_alpha(mean, 2 * scale.log())).sum()
    for p in (LogUniformDistribution(low=0.0), LogUniformDistribution(high=math.inf)):
        torch.testing.assert_close(kl_nats(dist.Normal(mean, scale), p), expected)


def test_proper_form_adds_its_constant_once_per_weight() -> None:
    q = dist.Normal(torch.randn(3, 5), torch.rand(3, 5) + 0.1)
    p = LogUniformDistribution(1e-6, 50.0, (3, 5))
    constant = 15 * (LOG_UNIFORM_CONSTANT + math.log(2 * (1 + math.log(50.0 / 1e-6))))
    torch.testing.assert_close(kl_nats(q, p) - kl_nats(q, LogUniformDistribution(low=0.0)), torch.tensor(constant))


def test_a_core_that_counts_has_no_closed_form() -> None:
    q = dist.Normal(torch.zeros(3), torch.full((3,), 0.02))
    for divergence in (kl_nats, lambda q, p: kl_divergence(q, p).sum()):
        with pytest.raises(PriorError, match=r"its flat core is narrow, low ≤ 1e-06; found low=0\.3"):
            divergence(q, LogUniformDistribution(0.3, 2.0, (3,)))


def normal_parameters(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    mean = torch.randn(shape, dtype=torch.float64, generator=generator)
    # log α spread over about (−5, 5)
    spread = torch.rand(shape, dtype=torch.float64, generator=generator) * 10 - 5
    return mean.requires_grad_(), (mean.abs() * torch.exp(0.5 * spread)).detach().requires_grad_()


@pytest.mark.parametrize("total", [_NormalLogUniformTotal, _StandardNormalTotal])
def test_written_gradients_are_the_derivatives(total: Any) -> None:
    assert torch.autograd.gradcheck(total.apply, normal_parameters((3, 4)))
    assert torch.autograd.gradcheck(lambda mean, scale: 2.5 * total.apply(mean, scale), normal_parameters((2, 3, 1)))


def test_fused_log_uniform_total_is_the_sum_of_the_published_terms() -> None:
    mean, scale = normal_parameters((6, 5))
    expected = -negative_kl_log_uniform(log_alpha(mean, 2 * torch.log(scale))).sum()
    torch.testing.assert_close(_NormalLogUniformTotal.apply(mean, scale), expected)


def test_fused_standard_normal_total_is_torchs_kl() -> None:
    mean, scale = normal_parameters((6, 5))
    expected = kl_divergence(dist.Normal(mean, scale), dist.Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum()
    torch.testing.assert_close(_StandardNormalTotal.apply(mean, scale), expected)


def test_standard_normal_kl_agrees_with_monte_carlo() -> None:
    torch.manual_seed(7)
    q = dist.Normal(torch.tensor([0.7, -1.4]), torch.tensor([0.3, 1.9]))
    found, error = monte_carlo(q, StandardNormal((2,)))
    assert abs(float(kl_nats(q.to_event(1), standard_normal(torch.Size((2,)))) - found.sum())) < SIGMAS * float(
        error.norm()
    )


def test_standard_normal_keeps_its_type_when_expanded() -> None:
    batch = standard_normal(torch.Size((2, 3))).expand((5,))
    assert (batch.batch_shape, batch.event_shape) == ((5,), (2, 3))
    assert isinstance(batch.base_dist, StandardNormal)
    value = torch.randn(5, 2, 3)
    torch.testing.assert_close(batch.log_prob(value), dist.Normal(0.0, 1.0).log_prob(value).sum((1, 2)))


def formula(mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The published KL in double precision, from log α without a bound."""
    rate = 2 * (torch.log(scale) - torch.log(mean.abs()))
    one = torch.ones_like(rate)
    return (K1 * (one - torch.sigmoid(K2 + K3 * rate)) + 0.5 * torch.log1p(torch.exp(-rate))).sum()


@pytest.mark.parametrize("log_alpha_value", [-80.0, -30.0, -20.0, -12.0, -9.0, -8.0, -1.0, 2.0, 8.0, 12.0, 20.0, 30.0])
@pytest.mark.parametrize("theta", [1.0, -3e-2, 1e-15, -1e8])
def test_single_precision_has_the_value_and_slope_of_the_formula(log_alpha_value: float, theta: float) -> None:
    mean = torch.tensor([theta])
    scale = mean.abs() * math.exp(0.5 * log_alpha_value)
    exact = mean.double().requires_grad_(), scale.double().requires_grad_()
    value = formula(*exact)
    slopes = torch.autograd.grad(value, exact)
    for total in (
        _NormalLogUniformTotal.apply,
        lambda *of: kl_divergence(dist.Normal(*of), LogUniformDistribution(low=0.0)).sum(),
    ):
        single = mean.clone().requires_grad_(), scale.clone().requires_grad_()
        found = total(*single)
        # 1 − σ(…) of the formula is exact to 1e-16
        assert float(found.detach()) == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-14)
        for one, expected in zip(torch.autograd.grad(found, single), slopes, strict=True):
            assert float(one) == pytest.approx(float(expected), rel=1e-4, abs=1e-14 / abs(theta))


def test_slope_at_the_start_of_the_scales_is_a_half() -> None:
    for log_variance in (-9.0, -12.0, -40.0):
        spread = torch.full((4,), log_variance, requires_grad=True)
        q = dist.Normal(torch.ones(4), torch.exp(0.5 * spread))
        (slope,) = torch.autograd.grad(kl_nats(q, LogUniformDistribution(shape=(4,))), spread)
        torch.testing.assert_close(slope, torch.full((4,), -0.5), rtol=1e-3, atol=0.0)


def test_nothing_overflows_where_the_numbers_themselves_do_not() -> None:
    sizes = torch.tensor([0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e20, 1e37])
    mean, scale = (part.reshape(-1) for part in torch.meshgrid(sizes, sizes[2:], indexing="ij"))
    mean = torch.cat([mean, -mean]).requires_grad_()
    scale = torch.cat([scale, scale]).requires_grad_()
    q = dist.Normal(mean, scale)
    for total in (kl_nats(q, LogUniformDistribution(low=0.0)), kl_divergence(q, LogUniformDistribution(low=0.0)).sum()):
        found = torch.autograd.grad(total, (mean, scale))
        assert math.isfinite(float(total.detach())) and all(bool(torch.isfinite(slope).all()) for slope in found)
        # no mean, no divergence to lower; and whatever there is, a smaller mean or a larger scale lowers it
        assert not found[0][mean == 0].any() and not found[1][mean == 0].any()
        assert bool((found[0] * mean.sign() >= 0).all()) and bool((found[1] <= 0).all())
    assert math.isfinite(float(log_alpha(torch.zeros(1), torch.zeros(1))))


@pytest.mark.parametrize(
    "p",
    [
        dist.Gamma(torch.tensor(0.5), torch.tensor(2.0)),
        dist.Gamma(torch.tensor(2.3), torch.tensor(0.4)),
        dist.InverseGamma(torch.tensor(0.5), torch.tensor(1.0)),
        dist.InverseGamma(torch.tensor(1.7), torch.tensor(3.0)),
    ],
    ids=["gamma-half", "gamma", "inverse-gamma-half", "inverse-gamma"],
)
def test_log_normal_kl_agrees_with_monte_carlo(p: Any) -> None:
    torch.manual_seed(8)
    q = dist.LogNormal(torch.tensor([-1.2, 0.4, 1.0]), torch.tensor([0.2, 0.5, 0.8]))
    found, error = monte_carlo(q, p)
    closed = kl_divergence(q, p.expand((3,)))
    assert ((closed - found).abs() < SIGMAS * error).all(), (closed, found, error)
    torch.testing.assert_close(kl_nats(q.to_event(1), p.expand((3,)).to_event(1)), closed.sum())


def test_log_normal_gamma_kl_is_the_published_form() -> None:
    # −KL(LN(μ, σ²) ‖ Gamma(½, scale θ)) = ½ (μ + 1 + ln 2) + ln σ − ½ ln θ − e^{μ+σ²/2}/θ (Louizos et al. 2017)
    mean, scale, theta = torch.tensor(-0.7), torch.tensor(0.6), torch.tensor(0.09)
    published = 0.5 * (mean + 1 + math.log(2)) + scale.log() - 0.5 * theta.log() - (mean + scale**2 / 2).exp() / theta
    q = dist.LogNormal(mean, scale)
    torch.testing.assert_close(kl_divergence(q, dist.Gamma(torch.tensor(0.5), 1 / theta)), -published)
    mirrored = dist.LogNormal(-mean, scale)
    torch.testing.assert_close(kl_divergence(mirrored, dist.InverseGamma(torch.tensor(0.5), 1 / theta)), -published)


def test_pairs_without_closed_form_say_so() -> None:
    with pytest.raises(NotImplementedError):
        kl_nats(dist.Normal(torch.zeros(2), torch.ones(2)), ScaleMixtureNormal(0.5, 1.0, 0.1).expand((2,)))
