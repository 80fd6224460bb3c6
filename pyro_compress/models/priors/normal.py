"""Independent normal prior."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior


@dataclass(frozen=True)
class Normal(Prior):
    """w ~ N(0, scale²) independently; guide N(μ, σ²).

    Args:
        scale: prior standard deviation.
        initial_log_variance: log σ² that the guide starts from.
    """

    scale: float = 1.0
    initial_log_variance: float = -9.0
    covers_biases: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale > 0:
            raise PriorError(f"scale must be positive, found {self.scale}")

    def sample(self, parameter: Parameter) -> Any:
        prior = dist.Normal(0.0, self.scale).expand(parameter.shape).to_event(len(parameter.shape))
        return pyro.sample(parameter.name, prior)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (LatentSite(parameter.name, "normal", parameter.shape, value, self.initial_log_variance, "weight"),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        site = sites[parameter.name]
        return site.mean, site.variance
