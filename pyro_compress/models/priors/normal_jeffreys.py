"""Group normal-Jeffreys prior (BC-GNJ, Louizos et al. 2017)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import LogUniformDistribution
from pyro_compress.models.kl import StandardNormal
from pyro_compress.models.parameters import Parameter, along_axis, scale_groups
from pyro_compress.models.priors.base import LatentSite, Moments, Prior, product_moments
from pyro_compress.posterior.criterion import Criterion


@dataclass(frozen=True)
class GroupNormalJeffreys(Prior):
    """w_ij = z_i w̃_ij with p(z_i) ∝ 1/|z_i| between bounds and w̃_ij ~ N(0, 1).

    Guide: q(z_i) = N(μ, μ²α), q(w̃_ij) = N(μ_ij, σ_ij²).  Groups are input units of dense layers and output
    filters of convolutions; a group is pruned where log α exceeds `threshold`.

    Args:
        low, high: bounds of the truncated, proper form; low=0 or high=∞ asks for the improper prior.
        initial_log_variance: log σ² that w̃ starts from.
        initial_scale_log_variance: log σ² that z starts from; its mean starts at 1.
        max_log_variance: bound of log σ² of w̃ in the declared guide, or None.  One below 0 makes every dead weight
            cost nats.
        threshold: default cut on log α.
        shrink_threshold: cut for shrinking while training, from which groups don't come back.
    """

    low: float = 1e-8
    high: float = 1e2
    initial_log_variance: float = -9.0
    initial_scale_log_variance: float = -9.0
    max_log_variance: float | None = None
    threshold: float = 0.0
    shrink_threshold: float | None = 1.0
    elementwise: ClassVar[bool] = False
    has_mode: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high:
            raise PriorError(f"a normal-Jeffreys prior needs 0 ≤ low < high, found low={self.low}, high={self.high}")

    @property
    def is_proper(self) -> bool:
        return self.low > 0 and math.isfinite(self.high)

    @property
    def criterion(self) -> Criterion:
        return Criterion("log_alpha", "scale", self.threshold, label="log α", shrink_threshold=self.shrink_threshold)

    def sample(self, parameter: Parameter) -> Any:
        assert parameter.group_axis is not None
        scale_prior = LogUniformDistribution(self.low, self.high, (parameter.groups,)).to_event(1)
        scale = pyro.sample(f"{parameter.name}.z", scale_prior)
        unscaled = pyro.sample(f"{parameter.name}.unscaled", self.of_unscaled(parameter.shape))
        return scale_groups(unscaled, scale, parameter.group_axis)

    def of_unscaled(self, shape: torch.Size) -> Any:
        """p(w̃), as a Pyro distribution."""
        return standard_normal(shape)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        one, groups = torch.ones(()), torch.Size((parameter.groups,))
        return (
            LatentSite(
                f"{parameter.name}.z",
                "normal",
                groups,
                one,
                self.initial_scale_log_variance,
                "scale",
                axes=(parameter.group_axis,),
            ),
            LatentSite(
                f"{parameter.name}.unscaled",
                "normal",
                parameter.shape,
                value,
                self.initial_log_variance,
                "weight",
                self.max_log_variance,
                axes=tuple(range(len(parameter.shape))),
            ),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        assert parameter.group_axis is not None
        scale = sites[f"{parameter.name}.z"]
        place = (len(parameter.shape), parameter.group_axis)
        return product_moments(
            sites[f"{parameter.name}.unscaled"], along_axis(scale.mean, *place), along_axis(scale.variance, *place)
        )

    def scale_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        scale = sites[f"{parameter.name}.z"]
        return scale.mean, scale.variance


def standard_normal(shape: torch.Size) -> Any:
    """N(0, 1) of a given event shape, as a Pyro distribution."""
    return pyro.distributions.Independent(StandardNormal(shape), len(shape), validate_args=False)
