"""Learning-compression: training and compression by turns (Carreira-Perpiñán 2017; Carreira-Perpiñán & Idelbayev 2018).

    minimise over w, Θ   −(N/n) Σ_i log p(y_i | x_i, w) − log p(w)     with w = Δ(Θ)

by the augmented Lagrangian.  L steps train, at a penalty that pulls towards what can be stored; C steps project:

    L   descend over w   −log p(y | x, w) − log p(w) + μ/2 ‖w − Δ(Θ) − λ/μ‖²
    C   Δ(Θ) ← Π(w − λ/μ)
        λ ← λ − μ (w − Δ(Θ)),     μ ← a μ

Π(v) is the nearest point that the compression can store: the largest weights and zeros, K shared values (k-means), or
−b, 0 and b, each for a layer by itself.  What is returned is Π(w).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.point.magnitude_pruning import smallest
from pyro_compress.inference.point.map import MAP, PointState
from pyro_compress.inference.point.masked import MaskedState, MaskedTraining
from pyro_compress.network.name_patterns import by_name
from pyro_compress.network.quantizers import MOST_LEVELS, Codebook
from pyro_compress.posterior.posterior import Posterior

Projection = Callable[[torch.Tensor], torch.Tensor]
MOST_ROUNDS = 100
SPARSITY = 0.9


@dataclass(frozen=True)
class LearningCompression(MaskedTraining):
    """MAP, or dropout, under the constraint that every layer's weights can be stored as the compression says.

    One of the four says how, for all layers or by patterns of names; layers that none names are free.  Where none is
    given, sparsity is 0.9.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate,
            clip, rate, input_rate: see `MaskedTraining`.
        sparsity: share of the weights that is zero.
        levels: K, different values, none of them zero by itself.
        ternary: −b, 0 and b.
        project: Π as a function of one weight tensor.
        projections: C steps, evenly after the share `first` of the run; the last is at its end.
        first: share of the run before the first C step, without a penalty.
        mu: μ after the first C step, in nats of the whole data set.
        growth: a.
    """

    sparsity: float | Mapping[str, float] | None = None
    levels: int | Mapping[str, int] | None = None
    ternary: bool = False
    project: Callable[..., Any] | None = None
    projections: int = 20
    first: float = 0.25
    mu: float = 100.0
    growth: float = 1.3

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [self.sparsity is not None, self.levels is not None, self.ternary, self.project is not None]
        if sum(given) > 1:
            raise InferenceError(
                "learning-compression takes one of sparsity, levels, ternary and project, which say what can be "
                f"stored; found {sum(given)} of them"
            )
        if not any(given):
            object.__setattr__(self, "sparsity", SPARSITY)
        if not all(0 <= share < 1 for share in _numbers(self.sparsity)):
            raise InferenceError(f"sparsity is a share of the weights, at least 0 and below 1, found {self.sparsity}")
        if not all(1 <= count <= MOST_LEVELS for count in _numbers(self.levels)):
            raise InferenceError(f"levels are 1 to {MOST_LEVELS} values, found {self.levels}")
        if self.projections < 1 or not 0 <= self.first < 1 or not self.mu > 0 or not self.growth >= 1:
            raise InferenceError(
                "learning-compression needs projections of at least 1, first of at least 0 and below 1, mu above 0 and "
                f"growth of at least 1; found projections={self.projections}, first={self.first}, mu={self.mu}, "
                f"growth={self.growth}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "ConstrainedState":
        state = ConstrainedState(super().init(model, size, seed, held))
        self.compressions(state)
        return state

    def compressions(self, state: "ConstrainedState") -> dict[str, Projection]:
        """Π by name."""
        names = state.masks
        if self.sparsity is not None:
            shares = by_name("sparsity", self.sparsity, names, "weight", InferenceError)
            return {name: largest(share) for name, share in shares.items()}
        if self.levels is not None:
            counts = by_name("levels", self.levels, names, "weight", InferenceError)
            return {name: shared(int(count)) for name, count in counts.items()}
        return dict.fromkeys(names, ternary if self.project is None else self.project)

    def terms(self, state: PointState, batch: Batch) -> ElboTerms:
        found = super().terms(state, batch)
        assert isinstance(state, ConstrainedState)
        if not state.stored:
            return found
        weights, mu = state.present(), self.mu_after(state.projections_done)
        away = [weights[name] - held - state.multipliers[name] / mu for name, held in state.stored.items()]
        pull = torch.stack([0.5 * mu * each.square().sum() for each in away]).sum()
        return ElboTerms(found.data, found.complexity + pull, {**found.by_site, "constraint": pull})

    def mu_after(self, projections: int) -> float:
        """μ of the L step that follows so many C steps."""
        return self.mu * self.growth ** (projections - 1)

    def step(self, state: PointState, batch: Batch) -> Info:
        assert isinstance(state, ConstrainedState)
        info = super().step(state, batch)
        width = (1 - self.first) / self.projections
        if state.progress >= self.first + state.projections_done * width - 1e-9 and state.progress < 1:
            self.compress(state)
        return info

    def compress(self, state: "ConstrainedState") -> None:
        """A C step, and the multipliers after it."""
        weights = {name: weight.detach() for name, weight in state.present().items()}
        for name, project in self.compressions(state).items():
            weight = weights[name]
            if not state.stored.keys() >= {name}:
                state.multipliers[name] = torch.zeros_like(weight)
                state.stored[name] = projected(project, weight, name)
                continue
            mu, multiplier = self.mu_after(state.projections_done), state.multipliers[name]
            state.stored[name] = projected(project, weight - multiplier / mu, name)
            state.multipliers[name] = multiplier - mu * (weight - state.stored[name])
        state.projections_done += 1

    def draw(self, state: PointState) -> Posterior:
        """Π(w), and what of it is off or shared."""
        assert isinstance(state, ConstrainedState)
        posterior = MAP.draw(self, state)
        if not state.stored:
            return posterior
        found, weights = dict(posterior.parameters), state.present()
        for name, project in self.compressions(state).items():
            value = as_array(projected(project, weights[name].detach(), name))
            book = np.unique(value[value != 0]) if self.levels is not None or self.ternary else np.zeros(0)
            quantizer = Codebook(tuple(book.tolist())) if book.size else None
            found[name] = replace(found[name], mean=value, off=value == 0, quantizer=quantizer)
        return replace(posterior, parameters=found)


class ConstrainedState(MaskedState):
    """Adds Δ(Θ) and λ by name, and how many C steps there were."""

    def __init__(self, base: PointState) -> None:
        super().__init__(base, LearningCompression.__name__)
        self.stored: dict[str, torch.Tensor] = {}
        self.multipliers: dict[str, torch.Tensor] = {}
        self.projections_done = 0

    def capture(self) -> dict[str, Any]:
        tensors = {"stored": self.stored, "multipliers": self.multipliers}
        copies = {key: {name: each.clone() for name, each in held.items()} for key, held in tensors.items()}
        return {**super().capture(), **copies, "projections_done": self.projections_done}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.stored, self.multipliers = (self.taken_back(captured[key]) for key in ("stored", "multipliers"))
        self.projections_done = captured["projections_done"]


def projected(project: Projection, values: torch.Tensor, name: str) -> torch.Tensor:
    """Π(values); refuses another shape, and numbers that are not finite."""
    found = project(values)
    if not isinstance(found, torch.Tensor) or found.shape != values.shape or not bool(torch.isfinite(found).all()):
        raise InferenceError(
            f"the projection of {name} must return a tensor of shape {tuple(values.shape)} with finite numbers, found "
            f"{tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__}"
        )
    return found.to(values.dtype)


def largest(sparsity: float) -> Projection:
    """Π onto tensors of which that share is zero: the largest stay."""
    return lambda values: torch.where(smallest(values.abs(), sparsity), 0, values)


def shared(levels: int) -> Projection:
    """Π onto tensors of at most K values: Lloyd's algorithm from the middles of parts that hold equally many."""

    def project(values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten().double()
        book = torch.quantile(flat, (torch.arange(levels, device=flat.device).double() + 0.5) / levels).unique()
        for _ in range(MOST_ROUNDS):
            place = torch.bucketize(flat, (book[1:] + book[:-1]) / 2)
            counts = torch.bincount(place, minlength=len(book))
            sums = torch.zeros_like(book).index_add_(0, place, flat)
            moved = (sums[counts > 0] / counts[counts > 0]).sort().values
            if moved.shape == book.shape and torch.equal(moved, book):
                break
            book = moved
        return book[torch.bucketize(flat, (book[1:] + book[:-1]) / 2)].view(values.shape).to(values.dtype)

    return project


def ternary(values: torch.Tensor) -> torch.Tensor:
    """Π onto −b, 0 and b: b is the mean of the k largest |v|, k where (Σ_{i≤k} |v|_(i))² / k is largest."""
    size = values.flatten().abs().double().sort(descending=True).values
    count = torch.arange(1, len(size) + 1, device=size.device)
    k = int((size.cumsum(0).square() / count).argmax()) + 1
    level, least = size[:k].mean(), size[k - 1]
    return torch.where(values.abs().double() >= least, values.sign() * level, 0).to(values.dtype)


def _numbers(given: Any) -> list[float]:
    return list(given.values()) if isinstance(given, Mapping) else [] if given is None else [given]
