"""Generalized Dropout: Bernoulli gates whose rates have a Beta prior (Srinivas & Babu 2016)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.gates.bernoulli import BetaBernoulli
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.gated import gated_moments, gated_sites, gated_weight
from pyro_compress.posterior.criterion import Criterion

# θ stays within 0.001 … 0.999: with alpha or beta below 1 its density has no bound at the ends
MOST_LOGIT = math.log(999)


@dataclass(frozen=True)
class GeneralizedDropout(Prior):
    """w_ij = z_i w̃_ij with z_i ~ Bernoulli(θ_i), θ_i ~ Beta(alpha, beta) and w̃_ij ~ N(0, 1).

    θ, by its logit, and w̃ are MAP estimates (Dropout++); gates are sampled, per example where layers allow, with the
    gradient of a concrete relaxation.  Groups are input units of dense layers and output filters of convolutions.  What
    predicts and is stored is E w = θ·w̃; posterior predictives sample the gates.  A group is off where θ falls below
    `threshold`.

    Args:
        alpha, beta: of the Beta prior; beta > 1 asks for rates near 0, both below 1 for rates at either end.
        initial_rate: θ that gates start from.
        threshold: default cut on θ.
        shrink_threshold: cut for shrinking while training, from which groups don't come back.
    """

    alpha: float = 1.0
    beta: float = 5.0
    initial_rate: float = 0.9
    threshold: float = 0.5
    shrink_threshold: float | None = 0.05
    elementwise: ClassVar[bool] = False
    has_mode: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.alpha < math.inf and 0 < self.beta < math.inf):
            raise PriorError(f"a Beta prior needs alpha > 0 and beta > 0, found alpha={self.alpha}, beta={self.beta}")
        if not 0.001 <= self.initial_rate <= 0.999:
            raise PriorError(f"initial_rate must lie between 0.001 and 0.999, found {self.initial_rate}")

    @property
    def criterion(self) -> Criterion:
        return Criterion(
            "rate", "group", self.threshold, off="below", label="θ", shrink_threshold=self.shrink_threshold
        )

    def sample(self, parameter: Parameter) -> Any:
        return gated_weight(parameter, "z", BetaBernoulli(self.alpha, self.beta, (parameter.groups,)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        logit = torch.tensor(math.log(self.initial_rate / (1 - self.initial_rate)))
        # so that E w starts at the network's own value
        return gated_sites(parameter, "z", "bernoulli", logit, value / self.initial_rate, loc_bound=_bound)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return gated_moments(parameter, "z", sites)

    def statistic(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor:
        return sites[f"{parameter.name}.z"].mean


def _bound(scale: torch.Tensor) -> torch.Tensor:
    return torch.full_like(scale, MOST_LOGIT)
