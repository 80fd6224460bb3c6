"""Point estimates beside sites that are inferred: the complexity of such a site is −ln p, as of MAP."""

from typing import Any

import pyro.distributions as dist
import torch

from pyro_compress.inference.guides.families.family import Family
from pyro_compress.models.priors.base import LatentSite, Moments


class Point(Family):
    """x = loc."""

    has_scale = False
    kept_as = "point"

    def location_and_scale(
        self, site: LatentSite, loc: torch.Tensor, log_variance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return loc, torch.zeros_like(log_variance)

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return dist.Delta(loc, validate_args=False)

    def moments(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Moments:
        return Moments(site.family, loc.clone(), torch.zeros_like(loc))
