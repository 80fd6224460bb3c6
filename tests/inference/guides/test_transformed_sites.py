"""Sites with a support of their own: guides draw inside it, samplers move in unconstrained space, moments are of x."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.distributions import biject_to, constraints

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.through_transforms import moments_of
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Posterior

TO_UNIT: Any = biject_to(constraints.interval(0.0, 2.0))


@dataclass(frozen=True)
class Bounded(Prior):
    """Weights between 0 and 2, uniformly."""

    covers_biases: ClassVar[bool] = True

    def sample(self, parameter: Parameter) -> Any:
        return pyro.sample(
            parameter.name, dist.Uniform(0.0, 2.0).expand(parameter.shape).to_event(len(parameter.shape))
        )

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        start = TO_UNIT.inv(value.clamp(1.0, 1.9))
        return (LatentSite(parameter.name, "transformed", parameter.shape, start, -1.0, "weight", transform=TO_UNIT),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance


@dataclass(frozen=True)
class Scaled(Prior):
    """w = tau · e with a tau in (0, 2) and standard normal e."""

    def sample(self, parameter: Parameter) -> Any:
        tau = pyro.sample(f"{parameter.name}.tau", dist.Uniform(0.0, 2.0))
        normal = dist.Normal(0.0, 1.0).expand(parameter.shape).to_event(len(parameter.shape))
        return tau * pyro.sample(f"{parameter.name}.e", normal)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        tau = f"{parameter.name}.tau"
        return (
            LatentSite(tau, "transformed", torch.Size(()), torch.zeros(()), -2.0, "scale", transform=TO_UNIT),
            LatentSite(f"{parameter.name}.e", "normal", parameter.shape, value, -2.0, "weight"),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        tau, e = sites[f"{parameter.name}.tau"], sites[f"{parameter.name}.e"]
        second = (tau.variance + tau.mean.square()) * (e.variance + e.mean.square())
        return tau.mean * e.mean, second - (tau.mean * e.mean).square()


# a good part of what the data allow lies beyond the bound, so a posterior that leaves the support is seen
X = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
Y = 1.9 * X + 0.5 * torch.randn(30, 1, generator=torch.Generator().manual_seed(1))


def line(prior: Prior) -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Sequential(nn.Linear(1, 1, bias=False)), prior, Gaussian(noise=0.5))


def truth() -> tuple[float, float]:
    """Mean and sd of the slope: a normal cut off at 0 and 2."""
    grid = torch.linspace(0.0, 2.0, 20001, dtype=torch.float64)
    log = -0.5 * ((Y - X * grid).double() / 0.5).square().sum(0)
    weight = (log - log.max()).exp()
    mean = float((weight * grid).sum() / weight.sum())
    return mean, float(((weight * (grid - mean) ** 2).sum() / weight.sum()).sqrt())


def best_logit_normal() -> tuple[float, float]:
    """loc and scale of the member of the guide's family that is closest to the posterior, by quadrature."""
    grid = torch.linspace(-7.0, 7.0, 2001, dtype=torch.float64)
    weight = torch.exp(-0.5 * grid.square())
    weight /= weight.sum()

    def divergence(at: np.ndarray) -> float:
        u = at[0] + np.exp(at[1]) * grid
        x = TO_UNIT(u)
        log = -0.5 * ((Y - X * x).double() / 0.5).square().sum(0) + TO_UNIT.log_abs_det_jacobian(u, x)
        return float(-at[1] - (weight * log).sum())

    loc, log_scale = minimize(divergence, np.array([2.0, -0.5]), method="Nelder-Mead").x
    return float(loc), float(np.exp(log_scale))


def slopes(posterior: Posterior) -> np.ndarray:
    return posterior.sample_latents(2000, 0)["0.weight"].ravel()


@pytest.mark.parametrize(
    "settings",
    [{}, {"estimator": "flipout"}, {"estimator": "shared"}, {"guide": "full-rank"}],
    ids=["local", "flipout", "shared", "full-rank"],
)
def test_variational_draws_lie_in_the_support(settings: dict[str, Any]) -> None:
    method = SVI(epochs=500, batch_size=30, learning_rate=0.05, kl_warmup=0.0, draws=2000, **settings)
    posterior = fit(line(Bounded()), (X, Y), method, seed=0)
    drawn = slopes(posterior)
    assert drawn.min() > 0.0 and drawn.max() < 2.0
    u = TO_UNIT.inv(torch.from_numpy(drawn).double())
    loc, scale = best_logit_normal()
    assert float(u.mean()) == pytest.approx(loc, abs=0.4 * scale) and float(u.std()) == pytest.approx(scale, rel=0.3)
    found = posterior.parameters["0.weight"]
    assert found.mean.item() == pytest.approx(float(drawn.mean()), abs=0.01)
    assert found.variance.item() ** 0.5 == pytest.approx(float(drawn.std()), rel=0.1)


def test_nuts_moves_through_the_transform() -> None:
    posterior = fit(line(Bounded()), (X, Y), NUTS(chains=1, warmup=200, draws=600), seed=0)
    assert posterior.draws is not None
    drawn, (mean, sd) = posterior.draws.site("0.weight").ravel(), truth()
    assert drawn.min() > 0.0 and drawn.max() < 2.0
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.25 * sd) and float(drawn.std()) == pytest.approx(
        sd, rel=0.2
    )


@dataclass(frozen=True)
class Share(Prior):
    """Weights between 0 and 1 ~ Beta(a, b)."""

    a: float = 2.0
    b: float = 6.0

    def sample(self, parameter: Parameter) -> Any:
        prior = dist.Beta(self.a, self.b).expand(parameter.shape).to_event(len(parameter.shape))
        return pyro.sample(parameter.name, prior)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        to_unit: Any = biject_to(constraints.unit_interval)
        zero = torch.zeros(())
        return (LatentSite(parameter.name, "transformed", parameter.shape, zero, -1.0, "weight", transform=to_unit),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance


FEW = slice(0, 4)


def moments_under_beta(a: float, b: float) -> tuple[float, float]:
    """Mean and sd of w ~ Beta(a, b) given four points, by a sum over a grid."""
    grid = torch.linspace(0.0, 1.0, 20002, dtype=torch.float64)[1:-1]
    log = (a - 1) * grid.log() + (b - 1) * torch.log1p(-grid)
    log = log - 0.5 * ((0.3 * Y - X * grid)[FEW].double() / 0.5).square().sum(0)
    weight = (log - log.max()).exp()
    weight = weight / weight.sum()
    mean = float((weight * grid).sum())
    return mean, float((weight * (grid - mean).square()).sum().sqrt())


@pytest.mark.parametrize(
    "method",
    [
        NUTS(chains=1, warmup=200, draws=800),
        SVI(epochs=800, batch_size=4, learning_rate=0.03, kl_warmup=0.0, particles=4, draws=2000),
    ],
    ids=["nuts", "svi"],
)
def test_a_beta_prior_gives_the_posterior_of_a_grid(method: Any) -> None:
    mean, sd = moments_under_beta(2.0, 6.0)
    # four points say little: without the prior's density the mean would lie elsewhere
    assert abs(mean - moments_under_beta(1.0, 1.0)[0]) > 0.5 * sd
    found = fit(line(Share()), (X[FEW], 0.3 * Y[FEW]), method, seed=0).parameters["0.weight"]
    assert found.mean.item() == pytest.approx(mean, abs=0.2 * sd)
    assert found.variance.item() ** 0.5 == pytest.approx(sd, rel=0.15)


def test_log_joint_has_the_density_and_jacobian_of_the_declared_space() -> None:
    model = line(Bounded())
    joint, u = LogJoint(model, len(X)), torch.tensor([0.7])
    w = TO_UNIT(u)
    expected = dist.Normal(X * w, 0.5).log_prob(Y).sum() - torch.log(torch.tensor(2.0))
    expected = expected + TO_UNIT.log_abs_det_jacobian(u, w).sum()
    torch.testing.assert_close(joint.terms(u, X, Y)[0], expected)
    assert joint.constrained(u)["0.weight"].shape == (1, 1)
    start = model.network.get_parameter("0.weight").detach().clamp(1.0, 1.9)
    torch.testing.assert_close(joint.constrained(joint.start())["0.weight"], start)


def test_hierarchies_with_a_transformed_scale_agree_with_nuts() -> None:
    reference = fit(line(Scaled()), (X, Y), NUTS(chains=1, warmup=200, draws=300), seed=0)
    method = SVI(epochs=300, batch_size=30, learning_rate=0.05, kl_warmup=0.0, draws=200)
    found = fit(line(Scaled()), (X, Y), method, seed=0)
    assert found.draws is not None and set(found.draws.shapes) == {"0.weight.tau", "0.weight.e", "0.weight"}
    tau = found.draws.site("0.weight.tau")
    assert tau.min() > 0.0 and tau.max() < 2.0
    ours, theirs = found.parameters["0.weight"], reference.parameters["0.weight"]
    assert ours.mean.item() == pytest.approx(theirs.mean.item(), abs=0.1)


def test_kl_of_a_transformed_site_is_that_of_its_logit_normal() -> None:
    """−H(u) − E log|dx/du| − E log p(x), by quadrature in u."""
    method = SVI(batch_size=30)
    state = method.init(line(Bounded()), 30, 0)
    loc, scale = state.guide.location_and_scale("0.weight")
    grid = torch.linspace(-8.0, 8.0, 4001)
    u = loc.detach().view(()) + scale.detach().view(()) * grid
    weight = torch.exp(-0.5 * grid.square())
    jacobian = TO_UNIT.log_abs_det_jacobian(u, TO_UNIT(u))
    entropy = dist.Normal(loc, scale).entropy().sum() + (weight * jacobian).sum() / weight.sum()
    expected = -entropy + torch.log(torch.tensor(2.0))
    with torch.no_grad():
        torch.manual_seed(0)
        each = torch.stack([method.terms(state, (X, Y)).complexity for _ in range(400)])
    error = float(each.std()) / 20
    assert float(each.mean()) == pytest.approx(float(expected.detach()), abs=5 * error + 1e-4)


@pytest.mark.parametrize(
    "support", [constraints.positive, constraints.unit_interval, constraints.interval(-1.0, 3.0), constraints.simplex]
)
def test_moments_are_those_of_draws(support: Any) -> None:
    transform = biject_to(support)
    site = LatentSite("s", "transformed", torch.Size((3,)), torch.zeros(3), 0.0, transform=transform)
    loc, scale = torch.tensor([0.3, -0.5, 1.0]), torch.tensor([0.2, 0.6, 0.4])
    drawn = transform(loc + scale * torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0)))
    found = moments_of(site, loc, scale)
    rtol = 0.1 if support is constraints.simplex else 0.02
    torch.testing.assert_close(found.mean, drawn.mean(0), rtol=rtol, atol=1e-3)
    torch.testing.assert_close(found.variance, drawn.var(0), rtol=2 * rtol, atol=1e-3)


def test_a_family_without_its_transform_is_refused() -> None:
    class Odd(Normal):
        def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
            return (LatentSite(parameter.name, "transformed", parameter.shape, value, -4.0),)

    with pytest.raises(
        InferenceError, match=r"'0\.weight' of family 'transformed' has transform=None: 'transformed' needs"
    ):
        DeclaredGuide(line(Odd()))


def test_the_mode_lies_in_the_support() -> None:
    posterior = fit(line(Bounded()), (X, Y), MAP(epochs=300, batch_size=30, learning_rate=0.1), seed=0)
    mode = float(((X * Y).sum() / X.square().sum()).clamp(max=2.0))
    assert posterior.parameters["0.weight"].mean.item() == pytest.approx(mode, abs=0.01)
