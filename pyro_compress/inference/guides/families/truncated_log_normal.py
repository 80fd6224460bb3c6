"""Truncated log-normal scales (structured Bayesian pruning)."""

from typing import Any

import torch

from pyro_compress.inference.guides.families.family import Family
from pyro_compress.models.gates.truncated_log_normal import TruncatedLogNormal as Distribution
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.posterior.families import HIGH, LOW

# μ stays within [LOW, MOST] (Neklyudov et al. 2017, their code), and so many σ at most beyond the interval: further out
# its mass is no float64
MOST, FAR = 5.0, 30.0


class TruncatedLogNormal(Family):
    """ln x ~ N(loc, σ²) given that it lies in [LOW, HIGH]; its moments are those of x."""

    per_example = True
    kept_as = "truncated-lognormal"

    def location_and_scale(
        self, site: LatentSite, loc: torch.Tensor, log_variance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loc, scale = super().location_and_scale(site, loc, log_variance)
        within = loc.clamp(min=LOW).minimum((HIGH + FAR * scale).clamp(max=MOST))
        return loc + (within - loc).detach(), scale

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return Distribution(loc, scale)
