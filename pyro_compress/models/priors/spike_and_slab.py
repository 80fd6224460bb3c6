"""Spike and slab: weights that are zero or normal (Mitchell & Beauchamp 1988), with Bernoulli gates in the guide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior, product_moments
from pyro_compress.posterior.criterion import Criterion


@dataclass(frozen=True)
class SpikeAndSlab(Prior):
    """w = z·w̃ per weight with z ~ Bernoulli(inclusion) and w̃ ~ N(0, slab²).

    Guide: z ~ Bernoulli(ρ) and w̃ ~ N(μ, σ²), both KLs in closed form.  Where z is drawn its gradient is that of a
    concrete relaxation; where layers allow it is not drawn, and outputs have the mean and variance that z·w̃ gives them.
    A weight is off where ρ falls below `threshold`.

    Args:
        inclusion: π, probability of the slab.
        slab: standard deviation of the slab.
        initial_inclusion: ρ that the guide starts from.
        initial_log_variance: log σ² that the guide of w̃ starts from.
        threshold: default cut on ρ.
    """

    inclusion: float = 0.1
    slab: float = 1.0
    initial_inclusion: float = 0.9
    initial_log_variance: float = -9.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.inclusion < 1 and 0 < self.initial_inclusion < 1 and self.slab > 0):
            raise PriorError(
                "a spike and slab needs inclusion and initial_inclusion between 0 and 1 and a slab above 0; found "
                f"inclusion={self.inclusion}, initial_inclusion={self.initial_inclusion}, slab={self.slab}"
            )

    @property
    def criterion(self) -> Criterion:
        return Criterion("inclusion", "weight", self.threshold, off="below", label="P(w ≠ 0)")

    def sample(self, parameter: Parameter) -> Any:
        shape, ndim = parameter.shape, len(parameter.shape)
        gate = dist.Bernoulli(torch.tensor(self.inclusion)).expand(shape).to_event(ndim)
        z = pyro.sample(f"{parameter.name}.z", gate)
        return pyro.sample(f"{parameter.name}.slab", dist.Normal(0.0, self.slab).expand(shape).to_event(ndim)) * z

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        every = tuple(range(len(parameter.shape)))
        logit = torch.tensor(math.log(self.initial_inclusion / (1 - self.initial_inclusion)))
        # so that E w starts at the network's own value
        start, spread = value / self.initial_inclusion, self.initial_log_variance
        return (
            LatentSite(f"{parameter.name}.z", "bernoulli", parameter.shape, logit, 0.0, "scale", axes=every),
            LatentSite(f"{parameter.name}.slab", "normal", parameter.shape, start, spread, "weight", axes=every),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        gate = sites[f"{parameter.name}.z"]
        return product_moments(sites[f"{parameter.name}.slab"], gate.mean, gate.variance)

    def statistic(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor:
        return sites[f"{parameter.name}.z"].mean
