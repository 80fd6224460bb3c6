"""The effect handler: what it replaces, what it leaves, and agreement with weight sampling under every prior.

Monte Carlo comparisons allow 5 standard errors, about 6e-7 false failures per number; seeds are fixed.
"""

import math
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.gradient.elbo import elbo_terms
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.lazy_values import Lazy, LazyLogNormal, LazyNormal
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Bernoulli, Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture

SIGMAS = 5.0
PRIORS = [
    pytest.param(Normal(), id="normal"),
    pytest.param(ScaleMixture(), id="scale-mixture"),
    pytest.param(LogUniform(), id="log-uniform"),
    pytest.param(LogUniform(alpha=0.3, tied="unit"), id="dropout"),
    pytest.param(GroupNormalJeffreys(), id="group-normal-jeffreys"),
    pytest.param(GroupHorseshoe(tau=0.5), id="group-horseshoe"),
]


def wide_guide(model: BayesianNetwork, log_variance: float = -1.5) -> DeclaredGuide:
    guide = DeclaredGuide(model)
    with torch.no_grad():
        for spread in guide.log_variance.parameters():
            spread.fill_(log_variance)
    return guide


def values_of(guide: DeclaredGuide) -> dict[str, object]:
    trace = poutine.trace(guide.forward).get_trace()
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}


def test_normals_and_log_normals_become_lazy_inside_the_context_only() -> None:
    model = BayesianNetwork(nn.Linear(4, 3), {"weight": GroupHorseshoe(), "bias": Normal()}, Gaussian())
    guide = DeclaredGuide(model)
    before = F.linear
    with LocalReparameterization():
        inside = values_of(guide)
        assert F.linear is before
    assert isinstance(inside["weight.unscaled"], LazyNormal) and isinstance(inside["bias"], LazyNormal)
    assert isinstance(inside["weight.z_a"], LazyLogNormal) and isinstance(inside["weight.z_b"], LazyLogNormal)
    # scalars are drawn once: the layer's global scale, the noise
    for name in ("weight.s_a", "weight.s_b", "noise"):
        assert isinstance(inside[name], torch.Tensor)
    assert not any(isinstance(value, Lazy) for value in values_of(guide).values())
    assert F.linear is before


def test_observed_sites_and_other_families_are_left_alone() -> None:
    def program() -> None:
        pyro.sample("gamma", dist.Gamma(torch.ones(3), 1.0).to_event(1))
        pyro.sample("seen", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=torch.ones(3))

    with LocalReparameterization():
        trace = poutine.trace(program).get_trace()
    assert all(isinstance(trace.nodes[name]["value"], torch.Tensor) for name in ("gamma", "seen"))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("layer", ["dense", "convolution"])
def test_data_term_and_its_gradient_agree_with_weight_sampling(prior: Prior, layer: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2) if layer == "dense" else nn.Conv2d(2, 3, (2, 1), stride=(1, 2), padding=(1, 0))
    x = 0.7 * torch.randn((2, 3) if layer == "dense" else (2, 2, 2, 3))
    model = BayesianNetwork(network, {"weight": prior, "bias": Normal()}, Bernoulli())
    guide = wide_guide(model)
    y = torch.ones_like(network(x)).detach()
    parameters = list(guide.parameters())
    count = 250
    found: list[list[torch.Tensor]] = [[], []]
    for _ in range(count):
        for kind, handler in enumerate((LocalReparameterization(), None)):
            data = elbo_terms(model.forward, guide.forward, handler, x, y, size=10).data
            gradients = torch.autograd.grad(data, parameters, allow_unused=True)
            flat = [g.flatten() for g in gradients if g is not None]
            found[kind].append(torch.cat([data.detach().reshape(1), *flat]))
    local, plain = (torch.stack(rows) for rows in found)
    error = ((local.var(0) + plain.var(0)) / count).sqrt()
    assert bool(((local.mean(0) - plain.mean(0)).abs() < SIGMAS * error + 1e-6).all())


def test_global_scale_is_shared_by_examples_and_group_scales_are_not() -> None:
    """ln |output| of a single-input network is ln s + ln z + ln |w̃ x|: only ln s is common to two examples."""
    torch.manual_seed(1)
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    model = BayesianNetwork(network, GroupHorseshoe(tau=0.5), Gaussian(noise=1.0))
    guide = DeclaredGuide(model)
    with torch.no_grad():
        guide.log_variance.weight__unscaled.fill_(-12.0)
        for name, variance in (("s_a", 0.6), ("s_b", 0.2), ("z_a", 0.3), ("z_b", 0.5)):
            getattr(guide.log_variance, f"weight__{name}").fill_(math.log(variance))
    x, count = torch.ones(2, 1), 1200
    outputs, given = [], []
    with torch.no_grad():
        for _ in range(count):
            with LocalReparameterization():
                trace: Any = poutine.trace(guide.forward).get_trace()
            outputs.append(poutine.replay(model.forward, trace=trace)(x).abs().log().flatten())
            given.append(0.5 * sum(trace.nodes[f"weight.{s}"]["value"].log() for s in ("s_a", "s_b")))
    logs, log_s = torch.stack(outputs), torch.stack(given)
    within = logs - log_s[:, None]
    # Var ln s = (0.6 + 0.2)/4, Var ln z = (0.3 + 0.5)/4; 5 standard errors of a correlation are 5/√n
    assert float(torch.corrcoef(logs.T)[0, 1]) == pytest.approx(0.5, abs=SIGMAS / math.sqrt(count))
    assert abs(float(torch.corrcoef(within.T)[0, 1])) < SIGMAS / math.sqrt(count)
    assert float(within.var()) == pytest.approx(0.2, rel=SIGMAS / math.sqrt(count))


@pytest.mark.parametrize("tied", ["weight", "unit", "layer"])
@pytest.mark.parametrize("handler", [True, False], ids=["local", "shared"])
def test_fixed_alpha_is_gaussian_dropout(tied: str, handler: bool) -> None:
    """Outputs have the moments of F.linear(x, W · N(1, α)) (Kingma et al. 2015, section 3)."""
    torch.manual_seed(2)
    network, alpha = nn.Linear(5, 3), 0.25
    prior = LogUniform(alpha=alpha, tied=tied, learned=False)
    model = BayesianNetwork(network, {"weight": prior}, Gaussian(noise=1.0))
    guide = DeclaredGuide(model)
    assert [name for name, _ in guide.named_parameters()] == ["loc.weight"], "a fixed α is nothing to train"
    x, count = torch.randn(4, 5), 1000
    outputs = []
    with torch.no_grad():
        for _ in range(count):
            with LocalReparameterization() if handler else nullcontext():
                guide_trace = poutine.trace(guide.forward).get_trace()
            outputs.append(poutine.replay(model.forward, trace=guide_trace)(x))
    found = torch.stack(outputs)
    mean = F.linear(x, network.weight, network.bias).detach()
    variance = alpha * F.linear(x.square(), network.weight.square()).detach()
    assert bool(((found.mean(0) - mean).abs() < SIGMAS * (variance / count).sqrt()).all())
    assert bool(((found.var(0) - variance).abs() < SIGMAS * variance * math.sqrt(2 / count)).all())


def test_a_network_that_uses_a_weight_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x))

    model = BayesianNetwork(Twice(), {"fc.weight": Normal()}, Gaussian(noise=1.0))
    guide, x = DeclaredGuide(model), torch.randn(2, 3)
    with pytest.raises(InferenceError, match=r"one random value at two places.*SVI\(estimator='shared'\)"):
        elbo_terms(model.forward, guide.forward, LocalReparameterization(), x, x)
    assert math.isfinite(float(elbo_terms(model.forward, guide.forward, None, x, x).data.detach()))
