"""Dynamic Network Surgery: weights are pruned and spliced back while all of them are trained (Guo et al. 2016).

    minimise over w   −(N/n) Σ_i log p(y_i | x_i, w ⊙ T) − log p(w ⊙ T)

The gradient is taken at w ⊙ T and moves every weight, those that are off too.  With m and s the mean and the standard
deviation of |w| of a layer, taken once at the start, and θ = max(m + c s, 0), an element of the mask T becomes

    0   where |w| ≤ 0.9 θ
    1   where |w| > 1.1 θ
    what it was, in between

before step t with the chance (1 + γ t)^−p, for every layer by itself, until the share `until` of the run is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.point.map import PointState
from pyro_compress.inference.point.masked import MaskedState, MaskedTraining
from pyro_compress.network.name_patterns import by_name

LOW, HIGH = 0.9, 1.1


@dataclass(frozen=True)
class DynamicNetworkSurgery(MaskedTraining):
    """MAP, or dropout, with masks that follow the weights both ways.

    Thresholds are of the weights that it starts from: give it a trained network (`pretrain_epochs`, `weights`).

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate,
            clip, rate, input_rate: see `MaskedTraining`.
        c: of the threshold, one number or by patterns of names, {"conv*": 1.0}; weights that none names have no mask.
        gamma, power: γ and p.
        until: share of the run after which masks stay as they are.
    """

    c: float | Mapping[str, float] = 1.0
    gamma: float = 1e-4
    power: float = 1.0
    until: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.gamma >= 0 and self.power >= 0 and 0 < self.until <= 1):
            raise InferenceError(
                "network surgery needs gamma and power of at least 0 and until above 0 and at most 1; found "
                f"gamma={self.gamma}, power={self.power}, until={self.until}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "SurgeryState":
        return SurgeryState(super().init(model, size, seed, held), self.c, seed)

    def step(self, state: PointState, batch: Batch) -> Info:
        assert isinstance(state, SurgeryState)
        if state.progress < self.until:
            for number, (name, weight) in enumerate(state.present().items()):
                if name in state.thresholds and state.draw(number) < self.chance(state.steps_done):
                    state.masks[name] = spliced(weight.detach(), state.masks[name], state.thresholds[name])
        return super().step(state, batch)

    def chance(self, step: int) -> float:
        """(1 + γ t)^−p."""
        return float((1 + self.gamma * step) ** -self.power)

    def weights(self, state: PointState) -> dict[str, torch.Tensor]:
        """w ⊙ T, whose gradient is that of w."""
        assert isinstance(state, SurgeryState)
        found = super().weights(state)
        through = {name: w + (w * state.masks[name] - w).detach() for name, w in state.present().items()}
        return found | through


class SurgeryState(MaskedState):
    """Adds θ by name, and the seed of the chances."""

    def __init__(self, base: PointState, c: float | Mapping[str, float], seed: int) -> None:
        super().__init__(base, DynamicNetworkSurgery.__name__)
        self.seed, present = seed, self.present()
        factors = by_name("c", c, present, "weight", InferenceError)
        self.thresholds = {name: threshold(present[name], one) for name, one in factors.items()}

    def draw(self, layer: int) -> float:
        """Uniform, the same on all ranks."""
        return float(np.random.default_rng((self.seed, self.steps_done, layer)).random())

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "thresholds": dict(self.thresholds)}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.thresholds = dict(captured["thresholds"])


def threshold(weight: torch.Tensor, c: float) -> float:
    """θ = max(m + c s, 0)."""
    size = weight.detach().abs()
    return max(float(size.mean() + c * size.std(correction=0)), 0.0)


def spliced(weight: torch.Tensor, mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """The mask after an update, boolean."""
    size = weight.abs()
    return (size > HIGH * threshold) | (mask & (size > LOW * threshold))
