"""What a guide family is: a distribution of one latent site from two tensors, its moments, and what a posterior keeps.

A site has `loc`, of its shape, and log σ² that broadcasts to it.  A family says what they mean.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro
import torch

from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.posterior.posterior import Latent


class Family(ABC):
    """One family.

    Attributes:
        is_normal: whether the site, or what becomes it by `LatentSite.to_support`, is N(loc, scale²).
        has_scale: whether there is a σ at all.
        per_example: whether local reparameterization may draw it anew for every example.
        kept_as: the family's name in `posterior.families`; None where a posterior keeps draws.
    """

    is_normal: ClassVar[bool] = False
    has_scale: ClassVar[bool] = True
    per_example: ClassVar[bool] = False
    kept_as: ClassVar[str | None] = None

    def location_and_scale(
        self, site: LatentSite, loc: torch.Tensor, log_variance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loc, σ) from what is trained, within the bounds of site and family."""
        if site.bounds_log_variance:
            # bounded for every optimizer, with a gradient that never ends: ours come back to the bound by themselves
            log_variance = log_variance + (site.bounded(log_variance) - log_variance).detach()
        return loc, torch.exp(0.5 * log_variance)

    @abstractmethod
    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        """Elementwise independent, of the site's shape."""

    def sample(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> None:
        """The site's sample statement."""
        infer: Any = {"per_example": True} if self.per_example else {}
        pyro.sample(site.name, self.distribution(site, loc, scale).to_event(len(site.shape)), infer=infer)

    def moments(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Moments:
        """Mean and variance of x, for log-normals of ln x."""
        distribution = self.distribution(site, loc, scale)
        return Moments(site.family, distribution.mean, distribution.variance, loc)

    def latent(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Latent:
        """What a posterior keeps."""
        assert self.kept_as is not None
        return Latent(self.kept_as, as_array(loc), as_array(scale.expand(site.shape)))
