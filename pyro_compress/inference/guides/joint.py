"""Guides over all latent sites at once: normal distributions in unconstrained space that know correlations.

    u = μ + σ ∘ (I + T) ε            full rank: T strictly lower triangular, D²/2 numbers
    u = μ + σ ∘ (ε + V ε′)           low rank plus diagonal: V is (D, rank)
    u = μ + σ ∘ ε                    mean field: what any Pyro model has that declares no guide of its own

with log-normal sites as x = exp(u), constrained ones transformed as Pyro does, and all others as x = u.  T and V have
no unit, so one learning rate serves all.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.elbo import sampled
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.families.registry import FAMILIES
from pyro_compress.inference.guides.through_transforms import moments_of, sample_through
from pyro_compress.inference.loop.devices import seed_generators
from pyro_compress.inference.results.iid_draws import draws_through
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.posterior.draws import Draws

JOINT = "_joint"
MOST_DESCRIBED = 10_000
# numbers of a row of T that one learning rate serves
FEW = 16


def sticking_the_landing(site: Any, p: Any) -> torch.Tensor:
    """log q − log p with gradients through the value alone (Roeder et al. 2017); a `Divergence`.

    What is left out has the mean zero.  The closer q is to the posterior, the less noise is left: none where it is the
    posterior.
    """
    if p is not None:
        return sampled(site, p)
    q = site["fn"]
    if isinstance(q, dist.LowRankMultivariateNormal):
        frozen = dist.LowRankMultivariateNormal(
            q.loc.detach(), q.cov_factor.detach(), q.cov_diag.detach(), validate_args=False
        )
    elif isinstance(q, dist.Independent):
        # the mean stays: where the posterior has correlations that q has not, it would get more noise and not less
        frozen = dist.Normal(q.base_dist.loc, q.base_dist.scale.detach(), validate_args=False).to_event(1)
    else:
        frozen = dist.MultivariateNormal(q.loc.detach(), scale_tril=q.scale_tril.detach(), validate_args=False)
    return sampled({**site, "fn": frozen}, None)


class JointGuide(PyroModule):
    """q(u) = N(μ, Σ) over all sites side by side; starts where the declared guide starts.

    Args:
        model: whose latent sites it covers.

    Raises:
        InferenceError: the model has more latent numbers than the family can hold, bounds their variances, or declares
            sites that are not normal in an unconstrained space.
    """

    name: ClassVar[str]

    def __init__(self, model: Model) -> None:
        super().__init__()
        declared = DeclaredGuide(model)
        self.sites: dict[str, LatentSite] = declared.sites
        self.places: dict[str, slice] = {}
        start = 0
        for name, site in self.sites.items():
            end = start + math.prod(site.shape)
            self.places[name] = slice(start, end)
            start = end
        self.width = start
        other = next((site for site in self.sites.values() if not FAMILIES[site.family].is_normal), None)
        if other is not None:
            raise InferenceError(
                f"the prior declares guide family '{other.family}' for site '{other.name}', and guide '{self.name}' is "
                "one normal over all sites: use guide='declared'"
            )
        has_bounds = (name for name, site in self.sites.items() if site.bounds_log_variance or site.loc_bound)
        if (bounded := next(has_bounds, None)) is not None:
            raise InferenceError(
                f"the prior bounds the mean or log-variance of site '{bounded}', which guide '{self.name}' cannot "
                "keep: leave the bound out where the prior has an option for it, or use guide='declared'"
            )
        self.check()
        with torch.no_grad():
            pairs = [declared.location_and_scale(name) for name in self.sites]
        self.loc, self.log_variance = PyroModule("loc"), PyroModule("log_variance")
        self.loc.joint = nn.Parameter(torch.cat([loc.reshape(-1) for loc, _ in pairs]))
        # a dropout guide at a weight of zero has no variance to start from
        spread = torch.cat([scale.square().reshape(-1) for _, scale in pairs]).log().clamp(min=-20.0)
        self.log_variance.joint = nn.Parameter(spread)

    def check(self) -> None:
        """Refuse models that are too large."""
        raise NotImplementedError

    def distribution(self) -> Any:
        """N(μ, Σ) as a Pyro distribution."""
        raise NotImplementedError

    def marginal_variance(self) -> torch.Tensor:
        """Diagonal of Σ, (D,)."""
        raise NotImplementedError

    @property
    def scale(self) -> torch.Tensor:
        """σ, (D,)."""
        return torch.exp(0.5 * self.log_variance.joint)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The sample statements; arguments are the model's and do not matter."""
        joint = pyro.sample(JOINT, self.distribution(), infer={"is_auxiliary": True})
        for name, site in self.sites.items():
            sample_through(name, site, joint[self.places[name]].reshape(site.shape))

    def moments(self, *, closed: bool = False) -> dict[str, Moments]:
        """Mean and variance of every site's marginal, of x or, for log-normals, of ln x.

        Args:
            closed: leave out those that no closed form gives, which take as long as many steps.
        """
        with torch.no_grad():
            mean, variance = self.loc.joint.clone(), self.marginal_variance()
            pairs = {name: (mean[place], variance[place].sqrt()) for name, place in self.places.items()}
            return {
                name: moments_of(site, *(part.reshape(site.shape) for part in pairs[name]))
                for name, site in self.sites.items()
                if not (closed and site.family == "transformed")
            }

    def parameter_groups(self, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
        """Optimizer groups: μ at the rate of weights, everything else at that of log-variances."""
        for name, parameter in self.named_parameters():
            multiplier = rates["weight"] * (1.0 if name.startswith("loc.") else rates["log_variance"])
            if name == "factor":
                # a row of up to D numbers that all move by one rate would outgrow its σ within some hundred steps
                multiplier *= min(1.0, math.sqrt(FEW / parameter.shape[1]))
            yield {"params": [parameter], "multiplier": multiplier}

    def draws(self, model: Model, count: int, seed: int) -> Draws:
        """Independent draws, as of `draws_through`."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            seed_generators(seed, self.loc.joint.device)
            joint = self.distribution().sample((count,))
            density = self.distribution().log_prob(joint).double()
            values = {n: joint[:, self.places[n]].reshape(count, *site.shape) for n, site in self.sites.items()}
        return draws_through(model, self.sites, values, density)


def described(guide: JointGuide) -> dict[str, Any]:
    """For a provenance: the family, and loc and sd of every number in unconstrained space where they are not many."""
    if guide.width > MOST_DESCRIBED:
        return {"guide": {"family": guide.name}}
    with torch.no_grad():
        loc, sd = guide.loc.joint.double(), guide.marginal_variance().double().sqrt()
    return {"guide": {"family": guide.name, "loc": loc.tolist(), "sd": sd.tolist()}}


class MeanField(JointGuide):
    """Independent normals; 2 D numbers."""

    name = "mean-field"

    def check(self) -> None:
        return

    def distribution(self) -> Any:
        return dist.Normal(self.loc.joint, self.scale, validate_args=False).to_event(1)

    def marginal_variance(self) -> torch.Tensor:
        return self.scale.square()


class FullRank(JointGuide):
    """Any covariance; D(D + 3)/2 numbers."""

    name = "full-rank"
    most: ClassVar[int] = 2000

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.factor = nn.Parameter(torch.zeros(self.width, self.width))

    def check(self) -> None:
        if self.width > self.most:
            raise InferenceError(
                f"a full-rank guide over {self.width:,} latent numbers would learn {self.width**2 / 2:,.0f} "
                f"covariances: it takes at most {self.most:,}; use guide='low-rank' or guide='declared'"
            )

    def cholesky(self) -> torch.Tensor:
        """L with Σ = L Lᵀ, (D, D)."""
        unit = torch.tril(self.factor, -1) + torch.eye(self.width)
        return self.scale[:, None] * unit

    def distribution(self) -> Any:
        return dist.MultivariateNormal(self.loc.joint, scale_tril=self.cholesky(), validate_args=False)

    def marginal_variance(self) -> torch.Tensor:
        return self.cholesky().square().sum(1)


class LowRank(JointGuide):
    """Covariance of a few directions beside a diagonal; D (rank + 2) numbers.

    Args:
        model: whose latent sites it covers.
        rank: directions; None is 10, or as many as there are latent numbers.
    """

    name = "low-rank"
    most: ClassVar[int] = 5_000_000

    def __init__(self, model: Model, rank: int | None = None) -> None:
        self.asked = rank
        super().__init__(model)
        # at V = 0 the gradient is zero
        self.factor = nn.Parameter(0.1 / math.sqrt(self.rank) * torch.randn(self.width, self.rank))

    @property
    def rank(self) -> int:
        """Number of directions."""
        return min(10, self.width) if self.asked is None else self.asked

    def check(self) -> None:
        if self.rank > self.width or self.rank * self.width > self.most:
            raise InferenceError(
                f"a low-rank guide over {self.width:,} latent numbers needs a rank of at most "
                f"{max(1, min(self.width, self.most // max(1, self.width))):,}, found rank={self.rank}"
            )

    def distribution(self) -> Any:
        scale = self.scale
        return dist.LowRankMultivariateNormal(
            self.loc.joint, scale[:, None] * self.factor, scale.square(), validate_args=False
        )

    def marginal_variance(self) -> torch.Tensor:
        return self.scale.square() * (1 + self.factor.square().sum(1))
