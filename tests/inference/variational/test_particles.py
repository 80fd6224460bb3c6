"""Particles side by side against one after the other, and what an exact entropy leaves of the noise on a funnel."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.elbo import Divergence, ElboTerms, closed_form, elbo_terms, sampled
from pyro_compress.inference.guides.joint import FullRank, JointGuide, LowRank, MeanField, sticking_the_landing
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.particles import GivenDraws, side_by_side
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.program import Program

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
Y = X @ torch.tensor([[0.8], [-0.5], [0.2]])


def network() -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), GroupHorseshoe(), Gaussian())


def constrained(x: torch.Tensor, y: torch.Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfCauchy(2.0))
    with pyro.plate("three", 3):
        weight = pyro.sample("weight", dist.Normal(0.0, scale))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y[:, 0])


def branching(x: torch.Tensor, y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(mean if mean > 0 else 2 * mean, 0.5), obs=y[:, 0])


def gradients(estimates: list[ElboTerms], guide: JointGuide) -> torch.Tensor:
    guide.zero_grad()
    torch.stack([terms.objective(0.7) for terms in estimates]).mean().backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in guide.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("divergence", [sticking_the_landing, closed_form, sampled])
@pytest.mark.parametrize("make", [network, lambda: Program(constrained, (X, Y)), lambda: Program(branching, (X, Y))])
@pytest.mark.parametrize("family", [FullRank, MeanField, lambda model: LowRank(model, 1)])
def test_side_by_side_is_the_mean_over_particles(
    make: Callable[[], Model], family: Callable[[Model], JointGuide], divergence: Divergence
) -> None:
    model = make()
    if isinstance(model, Program):
        model.rows()  # what `fit` does first: rows are not compared inside a transform of torch
    guide = family(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def draws() -> torch.Tensor:
        torch.manual_seed(3)
        found: torch.Tensor = guide.distribution().rsample((6,))
        return found

    def estimate(handler: Any) -> ElboTerms:
        return elbo_terms(model.forward, guide.forward, handler, X, Y, size=8, divergence=divergence)

    found = side_by_side(estimate, draws())
    together = gradients([found], guide)
    each = [estimate(GivenDraws(draw)) for draw in draws()]
    assert found.by_site.keys() == each[0].by_site.keys()
    assert found.data.item() == pytest.approx(sum(one.data.item() for one in each) / 6, rel=1e-5)
    for name, nats in found.by_site.items():
        expected = sum(one.by_site[name].item() for one in each) / 6
        assert nats.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(together, gradients(each, guide), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [SVI(guide="full-rank", particles=4), BayesByBackprop(particles=4)])
def test_methods_run_their_particles_together(method: VariationalMethod) -> None:
    state, runs = method.init(Program(constrained, (X, Y)), 5, 0), 0
    forward = state.guide.forward

    def counted(*args: Any, **kwargs: Any) -> None:
        nonlocal runs
        runs += 1
        forward(*args, **kwargs)

    state.guide.forward = counted
    torch.manual_seed(1)
    method.step(state, (X, Y))
    assert runs == 1


def funnel() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(9), (v / 2).exp().unsqueeze(-1)).to_event(1))


def test_an_exact_entropy_takes_the_noise_out_of_the_slow_direction_of_a_funnel() -> None:
    """m up by δ and all ln t² with it: log p(x | v) and the entropy change by numbers, so −v/9 alone is noise.

    At q(v) = N(m, s²), q(x) = N(0, t²) the ELBO's derivative that way is −m/9.  With exact entropies the noise has the
    sd s/9; with sampled ones n = 9 terms x²/t² and v add √(n/2 + 1/s²), which is some 50 times as much.
    """
    model, spread = Program(funnel, ()), 0.5
    guide = LowRank(model, 1)
    with torch.no_grad():
        guide.factor.zero_()
        guide.loc.joint.zero_()[0] = 1.8
        guide.log_variance.joint.fill_(0.3)[0] = 2 * torch.tensor(spread).log()
    found = {}
    for divergence in (closed_form, sticking_the_landing):
        torch.manual_seed(5)
        slopes = []
        for _ in range(200):
            estimate = elbo_terms(model.forward, guide.forward, None, size=1, divergence=divergence)
            guide.zero_grad()
            (-estimate.objective(1.0)).backward()
            slopes.append(float(guide.loc.joint.grad[0] + guide.log_variance.joint.grad[1:].sum()))
        found[divergence.__name__] = torch.tensor(slopes)
    exact, noisy = found["closed_form"], found["sticking_the_landing"]
    assert float(exact.mean()) == pytest.approx(-0.2, abs=5 * spread / 9 / len(exact) ** 0.5)
    assert float(exact.std()) == pytest.approx(spread / 9, rel=0.2)
    assert float(noisy.mean()) == pytest.approx(-0.2, abs=5 * float(noisy.std()) / len(noisy) ** 0.5)
    assert float(noisy.std()) == pytest.approx((9 / 2 + 1 / spread**2) ** 0.5, rel=0.2)
