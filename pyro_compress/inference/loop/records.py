"""What a human watches of a fit, once per round."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochRecord:
    """What a human watches, once per round (an epoch, or some transitions of a sampler).

    Nats are totals over the data set, averaged over the round's steps; so is `extra`.
    """

    epoch: int
    epochs: int
    data_nats: float
    complexity_nats: float
    kl_weight: float
    learning_rate: float
    validation_error: float
    weights_left_percent: float
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)
    round_name: str = "epoch"
    objective_name: str = "ELBO"

    @property
    def elbo_nats(self) -> float:
        """data − complexity at β = 1."""
        return self.data_nats - self.complexity_nats
