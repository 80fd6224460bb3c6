"""Magnitude pruning with retraining: the smallest weights go while the rest is trained.

Of every layer, or of all together, the share s_k of the weights with the smallest |w| is off from cut k = 1, …, K on:

    s_k = 1 − (1 − s)^{k/K}     geometric: every cut takes the same share of what is left (Han et al. 2015)
    s_k = s (1 − (1 − k/K)³)    cubic: many at first, few at the end (Zhu & Gupta 2017)

K = 1 is pruning in one shot.  Cuts lie evenly between `first` and `last` of the run.  What is gone stays away,
and the rest is trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.point.map import PointState
from pyro_compress.inference.point.masked import MaskedState, MaskedTraining
from pyro_compress.network.name_patterns import by_name

LAYER, NETWORK = "layer", "network"
GEOMETRIC, CUBIC = "geometric", "cubic"
# of a run: a cut at 0.1 + 0.2 is one at 0.3
NEARLY = 1e-9


@dataclass(frozen=True)
class MagnitudePruning(MaskedTraining):
    """MAP, or dropout, of which the smallest weights go in cuts while it is trained.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate,
            clip, rate, input_rate: see `MaskedTraining`.
        sparsity: s, the share of the weights that is gone at the end; or by patterns of names, {"fc1.*": 0.92}, and
            then weights that none names stay.
        over: 'layer', s of every weight tensor, or 'network', s of all together.
        cuts: K.
        pace: 'geometric' or 'cubic'.
        first, last: shares of the run after which the first cut and the last are; one alone is at `first`.
    """

    sparsity: float | Mapping[str, float] = 0.9
    over: str = LAYER
    cuts: int = 1
    pace: str = GEOMETRIC
    first: float = 0.5
    last: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("over", (LAYER, NETWORK)), ("pace", (GEOMETRIC, CUBIC))):
            if getattr(self, name) not in known:
                raise InferenceError(unknown_name(f"word for {name} of magnitude pruning", getattr(self, name), known))
        shares = self.sparsity.values() if isinstance(self.sparsity, Mapping) else [self.sparsity]
        if not all(0 <= share < 1 for share in shares):
            raise InferenceError(f"sparsity is a share of the weights, at least 0 and below 1, found {self.sparsity}")
        if isinstance(self.sparsity, Mapping) and self.over == NETWORK:
            raise InferenceError("sparsity by names is of layers: give one number, or over='layer'")
        if self.cuts < 1 or not 0 <= self.first <= self.last < 1:
            raise InferenceError(
                "magnitude pruning needs cuts of at least 1 and 0 <= first <= last < 1, so that training goes on "
                f"afterwards; found cuts={self.cuts}, first={self.first}, last={self.last}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "PruningState":
        state = PruningState(super().init(model, size, seed, held), type(self).__name__)
        by_name("sparsity", self.sparsity, state.masks, "weight", InferenceError)
        return state

    def step(self, state: PointState, batch: Batch) -> Info:
        assert isinstance(state, PruningState)
        info = super().step(state, batch)
        state.apply()
        if (due := self.due(state.progress)) > state.cuts_done:
            self.take_out(state, due)
        return info

    def due(self, progress: float) -> int:
        """How many cuts are due at that share of the run."""
        width = (self.last - self.first) / max(self.cuts - 1, 1)
        return sum(progress >= self.first + k * width - NEARLY for k in range(self.cuts))

    def share(self, sparsity: float, done: int) -> float:
        """s_k."""
        part = done / self.cuts
        return 1 - (1 - sparsity) ** part if self.pace == GEOMETRIC else sparsity * (1 - (1 - part) ** 3)

    def take_out(self, state: "PruningState", done: int) -> None:
        """What cut k leaves; what is gone already counts as smallest."""
        sizes = {n: torch.where(state.masks[n], weight.detach().abs(), -1) for n, weight in state.present().items()}
        wanted = by_name("sparsity", self.sparsity, sizes, "weight", InferenceError)
        if self.over == NETWORK:
            assert isinstance(self.sparsity, float | int)
            together = torch.cat([size.flatten() for size in sizes.values()])
            parts = smallest(together, self.share(self.sparsity, done)).split([s.numel() for s in sizes.values()])
            gone = {name: part.view_as(sizes[name]) for name, part in zip(sizes, parts, strict=True)}
        else:
            gone = {name: smallest(sizes[name], self.share(sparsity, done)) for name, sparsity in wanted.items()}
        for name, each in gone.items():
            state.masks[name] &= ~each
        state.cuts_done = done
        state.apply()


class PruningState(MaskedState):
    """Adds how many cuts are over."""

    def __init__(self, base: PointState, method: str) -> None:
        super().__init__(base, method)
        self.cuts_done = 0

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "cuts_done": self.cuts_done}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.cuts_done = captured["cuts_done"]


def smallest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Boolean, of the same shape: the round(share · n) smallest, of equal ones the first."""
    found = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    found[values.flatten().argsort(stable=True)[: round(share * values.numel())]] = True
    return found.view(values.shape)
