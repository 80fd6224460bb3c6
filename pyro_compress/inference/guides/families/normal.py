"""Families that are normal, in the site's own space or in one from which a transform leads there."""

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch

from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.inference.guides.families.family import Family
from pyro_compress.inference.guides.through_transforms import moments_of, sample_through
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.posterior.posterior import Latent


class Normal(Family):
    """x ~ N(loc, σ²)."""

    is_normal = True
    kept_as: ClassVar[str | None] = "normal"

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return dist.Normal(loc, scale, validate_args=False)

    def moments(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Moments:
        return moments_of(site, loc, scale)

    def latent(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Latent:
        assert self.kept_as is not None
        return Latent(self.kept_as, as_array(loc), as_array(scale.square().sqrt()))


class Dropout(Normal):
    """x ~ N(θ, αθ²) with log α learned or fixed, tied as declared."""

    def location_and_scale(
        self, site: LatentSite, loc: torch.Tensor, log_variance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return loc, torch.exp(0.5 * log_variance) * loc.abs() + 1e-12


class LogNormal(Normal):
    """ln x ~ N(loc, σ²); its moments are those of ln x."""

    kept_as = "lognormal"

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return dist.LogNormal(loc, scale, validate_args=False)


class Transformed(Normal):
    """x = t(u), u ~ N(loc, σ²): an auxiliary site 'NAME_unconstrained' and a `Delta` with the change of variables."""

    kept_as = None

    def sample(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> None:
        normal = self.distribution(site, loc, scale).to_event(len(site.shape))
        u = pyro.sample(f"{site.name}_unconstrained", normal, infer={"is_auxiliary": True})
        sample_through(site.name, site, u)
