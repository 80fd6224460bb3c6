"""Log-uniform prior with the dropout posterior (Sparse Variational Dropout, Molchanov et al. 2017)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import LogUniformDistribution
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.posterior.criterion import Criterion

TIES = ("weight", "unit", "layer")


@dataclass(frozen=True)
class LogUniform(Prior):
    """p(w) ∝ 1/|w| between bounds; guide N(θ, αθ²), with log σ² learned and log α = log σ² − log θ².

    Args:
        low: half-width of the flat core that makes the prior proper; 0 asks for the improper prior.
        high: largest |w|; ∞ asks for the improper prior.
        initial_log_variance: log σ² that the guide starts from (additive parameterisation).
        alpha: None for the additive parameterisation; else α itself parameterises the guide and starts here.
        tied: with `alpha`: one α per 'weight', per 'unit' (input unit or filter) or per 'layer'.
        learned: with `alpha`: False keeps α fixed, which is Gaussian dropout (Kingma et al. 2015).
        threshold: default cut on log α of every weight.
    """

    low: float = 1e-8
    high: float = 1e2
    initial_log_variance: float = -10.0
    alpha: float | None = None
    tied: str = "weight"
    learned: bool = True
    threshold: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied not in TIES:
            raise PriorError(f"tied='{self.tied}' is not known: choose one of {', '.join(TIES)}")
        if self.alpha is not None and self.alpha <= 0:
            raise PriorError(f"alpha must be positive, found {self.alpha}")
        if not 0 <= self.low < self.high:
            raise PriorError(f"a log-uniform prior needs 0 ≤ low < high, found low={self.low}, high={self.high}")

    @property
    def is_proper(self) -> bool:
        return self.low > 0 and math.isfinite(self.high)

    @property
    def criterion(self) -> Criterion:
        return Criterion("log_alpha", "weight", self.threshold, label="log α")

    def sample(self, parameter: Parameter) -> Any:
        prior = LogUniformDistribution(self.low, self.high, parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        if self.alpha is None:
            return (LatentSite(parameter.name, "normal", parameter.shape, value, self.initial_log_variance, "weight"),)
        return (
            LatentSite(
                parameter.name,
                "dropout",
                parameter.shape,
                value,
                math.log(self.alpha),
                "weight",
                tied=self._tied_shape(parameter),
                learned=self.learned,
            ),
        )

    def _tied_shape(self, parameter: Parameter) -> torch.Size | None:
        if self.tied == "weight":
            return None
        shape = [1] * len(parameter.shape)
        if self.tied == "unit":
            axis = parameter.group_axis or 0
            shape[axis] = parameter.shape[axis]
        return torch.Size(shape)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        site = sites[parameter.name]
        return site.mean, site.variance
