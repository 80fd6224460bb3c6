"""L0 regularisation with hard-concrete gates (Louizos, Welling & Kingma 2018)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.gates.hard_concrete import LEAST_OPEN, HardConcrete, OpenGateCost
from pyro_compress.models.parameters import Parameter, along_axis
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.gated import gated_moments, gated_sites, gated_weight
from pyro_compress.posterior.criterion import Criterion

# ln α stays within ± this, as in the code of the paper
MOST_LOG_ALPHA = math.log(100)


@dataclass(frozen=True)
class L0(Prior):
    """w_ij = z_i w̃_ij; every gate z_i that is not zero costs `cost` nats per weight of its group, w̃_ij ~ N(0, 1).

    Guide: z hard-concrete with learned ln α (β = 2/3, γ = −0.1, ζ = 1.1); w̃ is a point estimate.  Groups are input
    units of dense layers and output filters of convolutions.  What predicts and is stored is ẑ·w̃ with the paper's
    ẑ = min(1, max(0, σ(ln α) (ζ − γ) + γ)).  A group is off where P(z ≠ 0) falls below `threshold`.

    Args:
        cost: λ, nats per weight.
        initial_dropout: 1 − σ(ln α) that gates start from.
        threshold: default cut on P(z ≠ 0); where ẑ becomes exactly zero if not set.
        shrink_threshold: cut for shrinking while training, from which groups don't come back.
    """

    cost: float = 0.1
    initial_dropout: float = 0.5
    threshold: float = LEAST_OPEN
    shrink_threshold: float | None = 0.1
    elementwise: ClassVar[bool] = False
    has_mode: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.cost < math.inf:
            raise PriorError(f"cost is the price of an open gate in nats per weight, above 0; found {self.cost}")
        if not 0.01 <= self.initial_dropout <= 0.99:
            raise PriorError(f"initial_dropout must lie between 0.01 and 0.99, found {self.initial_dropout}")

    @property
    def criterion(self) -> Criterion:
        return Criterion(
            "open_probability",
            "group",
            self.threshold,
            off="below",
            label="P(z ≠ 0)",
            shrink_threshold=self.shrink_threshold,
        )

    def sample(self, parameter: Parameter) -> Any:
        cost = self.cost * math.prod(parameter.shape) / parameter.groups
        return gated_weight(parameter, "z", OpenGateCost(cost, (parameter.groups,)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        log_alpha = torch.tensor(math.log((1 - self.initial_dropout) / self.initial_dropout))
        # so that E w starts at the network's own value
        start = value / HardConcrete(log_alpha).mean
        return gated_sites(parameter, "z", "hard-concrete", log_alpha, start, loc_bound=_bound)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return gated_moments(parameter, "z", sites)

    def statistic(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor:
        return self._gates(parameter, sites).open_probability

    def at_prediction(self, parameter: Parameter, sites: Mapping[str, Moments]) -> torch.Tensor:
        assert parameter.group_axis is not None
        gate = self._gates(parameter, sites).at_prediction
        return along_axis(gate, len(parameter.shape), parameter.group_axis) * sites[f"{parameter.name}.unscaled"].mean

    def _gates(self, parameter: Parameter, sites: Mapping[str, Moments]) -> HardConcrete:
        loc = sites[f"{parameter.name}.z"].loc
        assert loc is not None
        return HardConcrete(loc)


def _bound(scale: torch.Tensor) -> torch.Tensor:
    return torch.full_like(scale, MOST_LOG_ALPHA)
