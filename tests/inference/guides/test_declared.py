"""What the guide makes of the declared sites."""

import math
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.distributions import LogUniformDistribution
from pyro_compress.models.kl import kl_nats
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys


def guide_of(prior: Prior, network: nn.Module | None = None) -> DeclaredGuide:
    torch.manual_seed(0)
    return DeclaredGuide(BayesianNetwork(network or nn.Linear(4, 3), {"weight": prior}, Gaussian()))


@pytest.mark.parametrize("prior", [Normal(), GroupNormalJeffreys(), GroupHorseshoe(tau=0.3), LogUniform(alpha=0.5)])
def test_draws_have_the_moments_that_it_reports(prior: Prior) -> None:
    guide = guide_of(prior)
    with torch.no_grad():
        for spread in guide.log_variance.parameters():
            spread.fill_(-1.0)
    torch.manual_seed(1)
    with torch.no_grad():
        traces: list[Any] = [poutine.trace(guide.forward).get_trace() for _ in range(1500)]
    for name, moments in guide.moments().items():
        draws = torch.stack([trace.nodes[name]["value"] for trace in traces])
        draws = draws.log() if moments.family == "lognormal" else draws
        # 5 standard errors: about 6e-7 false failures per number, seed fixed
        assert bool(((draws.mean(0) - moments.mean).abs() < 5 * (moments.variance / 1500).sqrt()).all())
        assert bool(((draws.var(0) - moments.variance).abs() < 5 * moments.variance * math.sqrt(2 / 1500)).all())


def test_log_variance_is_clamped_where_the_prior_says_so() -> None:
    guide = guide_of(GroupNormalJeffreys(max_log_variance=math.log(0.04)))
    with torch.no_grad():
        guide.log_variance.weight__unscaled.fill_(3.0)
        guide.log_variance.weight__z.fill_(3.0)
    moments = guide.moments()
    assert float(moments["weight.unscaled"].variance.max()) == pytest.approx(0.04)
    assert float(moments["weight.z"].variance.max()) == pytest.approx(math.exp(3.0), rel=1e-5)


@pytest.mark.parametrize("rate", [-20.0, 20.0])
def test_dropout_rates_are_bounded_by_nothing(rate: float) -> None:
    guide = guide_of(LogUniform(alpha=0.5, tied="layer"))
    with torch.no_grad():
        guide.log_variance.weight.fill_(rate)
    loc, scale = guide.location_and_scale("weight")
    torch.testing.assert_close(scale, math.exp(0.5 * rate) * loc.abs(), rtol=1e-5, atol=1e-9)
    divergence = kl_nats(dist.Normal(loc, scale), LogUniformDistribution(shape=loc.shape))
    (slope,) = torch.autograd.grad(divergence, guide.log_variance.weight)
    assert float(slope) < 0


def test_convolutions_keep_their_values_in_any_memory_layout() -> None:
    network = nn.Conv2d(3, 4, (3, 2))
    guide = guide_of(Normal(), network)
    assert torch.equal(guide.loc.weight, network.weight)
    assert guide.loc.weight.shape == guide.log_variance.weight.shape == network.weight.shape


def test_guide_does_not_share_memory_with_the_network() -> None:
    network = nn.Linear(4, 3)
    guide = guide_of(Normal(), network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        guide.loc.weight.add_(1.0)
    assert torch.equal(network.weight, before)


def test_unknown_family_is_refused() -> None:
    class Odd(Normal):
        def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
            return tuple(replace(site, family="cauchy") for site in super().latents(parameter, value))

    with pytest.raises(InferenceError, match=r"site 'weight' asks for guide family 'cauchy': known are .*'normal'"):
        guide_of(Odd())


@pytest.mark.parametrize(("channels", "stride", "channels_last"), [(3, 2, False), (8, 2, True), (3, 1, True)], ids=str)
def test_filters_lie_channels_last_where_torch_can_take_their_gradient(
    channels: int, stride: int, channels_last: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(2, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 1, stride=stride))
    guide = DeclaredGuide(BayesianNetwork(network, Normal(), Gaussian()))
    filters = next(loc for loc in guide.loc.parameters() if loc.shape == (channels, 2, 3, 3))
    assert filters.is_contiguous(memory_format=torch.channels_last) is channels_last
