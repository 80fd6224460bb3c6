"""Scale mixture of two Gaussians (Bayes by Backprop, Blundell et al. 2015)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import ScaleMixtureNormal
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior


@dataclass(frozen=True)
class ScaleMixture(Prior):
    """w ~ π N(0, σ₁²) + (1 − π) N(0, σ₂²) independently; guide N(μ, σ²); its KL is a Monte Carlo estimate.

    Args:
        mixture: π.
        wide: σ₁.
        narrow: σ₂.
        initial_log_variance: log σ² that the guide starts from.
    """

    mixture: float = 0.5
    wide: float = 1.0
    narrow: float = 0.0024787521766663585  # e⁻⁶
    initial_log_variance: float = -9.0
    covers_biases: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.mixture < 1 and 0 < self.narrow < self.wide):
            raise PriorError(
                f"a scale mixture needs 0 < mixture < 1 and 0 < narrow < wide; found mixture={self.mixture}, "
                f"wide={self.wide}, narrow={self.narrow}"
            )

    def sample(self, parameter: Parameter) -> Any:
        prior = ScaleMixtureNormal(self.mixture, self.wide, self.narrow, parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (LatentSite(parameter.name, "normal", parameter.shape, value, self.initial_log_variance, "weight"),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        site = sites[parameter.name]
        return site.mean, site.variance
