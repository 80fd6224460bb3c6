"""What Markov chain methods share: chains side by side, warm-up, thinning, draws, the posterior from them.

A chain's position is one flat vector in unconstrained space (`log_joint.py`); all chains move together, one batched
gradient serves them all.  Noise comes from torch's generator, which `fit` seeds and carries through checkpoints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_compress.errors import InferenceError, listed
from pyro_compress.inference.contract import Info, Method, MinibatchMethod, Model, State
from pyro_compress.inference.log_joint.chain_starts import Start, finite_starts, start_positions
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.loop.watching import Watch, Watcher
from pyro_compress.inference.results.draw_store import DrawStore
from pyro_compress.inference.results.from_draws import (
    derived_shapes,
    derived_values,
    point_posterior,
    posterior_from_draws,
)
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.posterior.posterior import Posterior

S = TypeVar("S", bound="ChainState")


class ChainState(State):
    """Positions of all chains, the log joint they move on, and the draws so far.

    Args:
        model: as `fit` gives it.
        log_joint: of that model.
        position: (chain, D), unconstrained.
        warmup: steps before draws are kept.
        thin: steps from one kept draw to the next.
        capacity: draws per chain that will be kept.
        noted: names of the statistics kept with every draw.
        limit_bytes: draws larger than that lie on disk.
    """

    def __init__(
        self,
        model: Model,
        log_joint: LogJoint,
        position: Tensor,
        *,
        warmup: int,
        thin: int,
        capacity: int,
        noted: tuple[str, ...],
        limit_bytes: int,
    ) -> None:
        self.model, self.log_joint, self.position = model, log_joint, position
        self.warmup, self.thin, self.steps_done = warmup, thin, 0
        self.watch = Watch(warmup + thin * capacity)
        shapes = {site.name: tuple(site.shape) for site in log_joint.sites} | derived_shapes(model)
        points = tuple(site.name for site in log_joint.sites if site.where.start >= log_joint.latents.stop)
        self.store = DrawStore(
            len(position),
            capacity,
            shapes,
            noted,
            limit_bytes=limit_bytes,
            dtype=np.float64 if log_joint.dtype == torch.float64 else np.float32,
            derived=(*points, *derived_shapes(model)),
            fixed=log_joint.fixed(),
        )

    @property
    def in_warmup(self) -> bool:
        """Whether the step that comes next belongs to the warm-up."""
        return self.steps_done < self.warmup

    def check_recordings_again(self) -> None:
        self.log_joint.check_recordings_again()

    def keep_in(self, folder: Path) -> None:
        self.store.keep_in(folder)

    def watched_by(self, watcher: Watcher) -> None:
        self.watch.watcher = watcher

    def finish_step(self, statistics: Mapping[str, Tensor | np.ndarray]) -> None:
        """Count the step; after the warm-up keep every `thin`-th position with what was noted, (chain,) each."""
        self.steps_done += 1
        past = self.steps_done - self.warmup
        if past > 0 and past % self.thin == 0 and past // self.thin <= self.store.capacity:
            noted = {name: np.asarray(values, dtype=np.float64) for name, values in statistics.items()}
            self.store.add(self.values(self.position.detach()), noted)
        self.watch.tell_all(len(self.position), self.steps_done, past <= 0, statistics)

    def finish_block(self, positions: Tensor, statistics: Mapping[str, np.ndarray]) -> None:
        """Count several steps that have been taken; as `finish_step` after each.

        Args:
            positions: (step, chain, D).
            statistics: (step, chain) each.
        """
        first, self.steps_done = self.steps_done, self.steps_done + len(positions)
        self.position = positions[-1].clone()
        past = np.arange(first + 1, self.steps_done + 1) - self.warmup
        keep = np.flatnonzero((past > 0) & (past % self.thin == 0) & (past // self.thin <= self.store.capacity))
        if not len(keep):
            return
        chains = len(self.position)
        flat = self.values(positions[keep].reshape(len(keep) * chains, -1)).reshape(len(keep), chains, -1)
        for row, index in zip(flat, keep, strict=True):
            self.store.add(row, {name: values[index] for name, values in statistics.items()})

    def move_to_finite_starts(
        self, batch: Batch, method: "MinibatchChains | TransitionChains", *, exact: bool = True
    ) -> None:
        """Before the first step: move chains to where log joint and gradient are finite, and refuse random ones."""
        moved = finite_starts(
            self.log_joint,
            self.position,
            batch,
            method.spread,
            method.start,
            type(method).__name__,
            exact=exact,
        )
        self.position = moved.contiguous()

    def values(self, positions: Tensor) -> np.ndarray:
        """(n, all sites) of positions (n, D), as they are stored: in the precision of the log joint."""
        constrained = self.log_joint.constrained(positions)
        parts = [constrained[site.name].reshape(len(positions), -1) for site in self.log_joint.sites]
        if isinstance(self.model, BayesianNetwork) and derived_shapes(self.model):
            each = [
                derived_values(self.model, {name: value[chain] for name, value in constrained.items()})
                for chain in range(len(positions))
            ]
            parts += [torch.stack([one[name].reshape(-1) for one in each]) for name in derived_shapes(self.model)]
        return torch.cat(parts, 1).to(self.log_joint.dtype).numpy()

    def capture(self) -> dict[str, Any]:
        buffers = dict(self.model.network.named_buffers()) if isinstance(self.model, BayesianNetwork) else {}
        return {
            "position": self.position.clone(),
            "steps_done": self.steps_done,
            "store": self.store.capture(),
            "buffers": {name: buffer.clone() for name, buffer in buffers.items()},
        }

    def restore(self, captured: dict[str, Any]) -> None:
        self.position = captured["position"].clone()
        self.steps_done = captured["steps_done"]
        self.store.restore(captured["store"])
        if isinstance(self.model, BayesianNetwork):
            for name, buffer in self.model.network.named_buffers():
                buffer.copy_(captured["buffers"][name])


class _FromChains(Method):
    """`draw` and `draw_for_validation` of methods whose state is a `ChainState`."""

    objective_name: ClassVar[str] = "log joint"
    trains_network: ClassVar[bool] = False

    def draw(self, state: ChainState) -> Posterior:
        """The draws so far.

        Raises:
            InferenceError: there are none yet.
        """
        if not state.store.filled:
            raise InferenceError(
                f"step {state.steps_done}: no draw has been kept yet, the warm-up lasts {state.warmup} steps"
            )
        return posterior_from_draws(state.model, state.store.draws(), "chains")

    def draw_for_validation(self, state: ChainState) -> Posterior:
        """Where the first chain is, as a point."""
        first = state.position[0]
        return point_posterior(state.model, state.log_joint.constrained(first.detach()))


@dataclass(frozen=True)
class MinibatchChains(MinibatchMethod, _FromChains):
    """Base of stochastic-gradient samplers: a step sees a batch.

    Args:
        epochs: passes over the training data, warm-up included.
        batch_size: examples per step.
        chains: moved side by side.
        warmup: share of the steps before draws are kept.
        draws: per chain that are kept, evenly over the rest of the run; all of them if there are fewer.
        temperature: T; draws follow p(θ | data)^(1/T).
        spread: sd of the normal noise added to where a network's chains start, in unconstrained space.
        memory_limit_bytes: draws larger than that lie on disk.
        start: values to start from by site, or a posterior; see `chain_starts.start_positions`.
    """

    chains: int = 1
    warmup: float = 0.5
    draws: int = 1000
    temperature: float = 1.0
    spread: float = 0.0
    memory_limit_bytes: int = 2**30
    start: Start = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1 or self.batch_size < 1:
            raise InferenceError(
                f"{type(self).__name__} needs epochs and batch_size of at least 1; found epochs={self.epochs}, "
                f"batch_size={self.batch_size}"
            )
        _check_counts(self, 0 <= self.warmup < 1, "a share of the steps in [0, 1)")

    def budget(self, held: int) -> tuple[int, int, int]:
        """(warm-up steps, thinning, draws kept per chain) of a run over that many examples."""
        steps = self.steps(held)
        warmup = min(steps - 1, round(self.warmup * steps))
        thin = max(1, (steps - warmup) // self.draws)
        return warmup, thin, min(self.draws, (steps - warmup) // thin)


@dataclass(frozen=True)
class TransitionChains(_FromChains):
    """Base of samplers whose every transition sees all the data.

    Args:
        chains: moved side by side.
        warmup: transitions before draws are kept; step sizes adapt during them.
        draws: kept per chain.
        thin: transitions from one kept draw to the next.
        temperature: T; draws follow p(θ | data)^(1/T).
        spread: sd of the normal noise added to where a network's chains start, in unconstrained space.
        memory_limit_bytes: draws larger than that lie on disk.
        start: values to start from by site, or a posterior; see `chain_starts.start_positions`.
    """

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000
    thin: int = 1
    temperature: float = 1.0
    spread: float = 0.1
    memory_limit_bytes: int = 2**30
    start: Start = field(default=None, repr=False, kw_only=True)

    round_name: ClassVar[str] = "transitions"
    per_round: ClassVar[int] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, self.warmup >= 0, "a number of transitions, at least 0")
        if self.thin < 1:
            raise InferenceError(f"{type(self).__name__} needs thin of at least 1, found {self.thin}")

    @property
    def transitions(self) -> int:
        """Of the whole run."""
        return self.warmup + self.draws * self.thin

    @property
    def rounds(self) -> int:
        return -(-self.transitions // self.per_round)

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        count = min(self.per_round, self.transitions - round * self.per_round)
        return iter([feed.tensors] * count)

    def fresh(self, kind: type[S], model: Model, size: int, noted: tuple[str, ...]) -> S:
        """A state of that kind whose chains stand at their starts; `noted` names the statistics kept with a draw."""
        log_joint = self.log_joint(model, size)
        return kind(
            model,
            log_joint,
            start_positions(log_joint, self.chains, self.spread, self.start),
            warmup=self.warmup,
            thin=self.thin,
            capacity=self.draws,
            noted=noted,
            limit_bytes=self.memory_limit_bytes,
        )

    def log_joint(self, model: Model, size: int, dtype: torch.dtype | None = None) -> LogJoint:
        """Of a model that gives every parameter a prior.

        Raises:
            InferenceError: a parameter has none: its posterior need not exist.
        """
        found = LogJoint(model, size, temperature=self.temperature, dtype=dtype)
        if isinstance(model, BayesianNetwork) and model.free_values():
            names = list(model.free_values())
            raise InferenceError(
                f"{type(self).__name__} samples every parameter, and {listed(names)} "
                f"{'has' if len(names) == 1 else 'have'} no prior: name one, as in "
                "prior={'*.weight': ..., '*.bias': Normal()}, or take a prior that covers biases, such as Normal()"
            )
        return found


def _check_counts(method: Any, warmup_is_good: bool, meaning: str) -> None:
    name = type(method).__name__
    if method.chains < 1 or method.draws < 1:
        raise InferenceError(
            f"{name} needs at least 1 chain and 1 draw; found chains={method.chains}, draws={method.draws}"
        )
    if not warmup_is_good:
        raise InferenceError(f"{name}: warmup is {meaning}, found {method.warmup}")
    if method.spread < 0 or not method.temperature > 0:
        raise InferenceError(
            f"{name} needs spread ≥ 0 and temperature > 0; found spread={method.spread}, "
            f"temperature={method.temperature}"
        )


def refuse_non_finite(evaluation: Evaluation, where: str, advice: str, failure: str | None = None) -> None:
    """Stop a run whose log joint is NaN or infinite.

    Args:
        evaluation: of every chain.
        where, advice: for the sentence.
        failure: what the model raised there, if it did.

    Raises:
        InferenceError: names the first such chain and whether the data or the prior did it.
    """
    if bool(torch.isfinite(evaluation.log_joint).all()):
        return
    chain = int(torch.nonzero(~torch.isfinite(evaluation.log_joint))[0])
    culprit = "the log prior" if bool(torch.isfinite(evaluation.data[chain])) else "the log-likelihood"
    if failure is not None:
        raise InferenceError(
            f"{where}: the model cannot be computed where chain {chain} is ({failure}); {advice}; the last good state "
            "is kept"
        )
    raise InferenceError(
        f"{where}: the log joint of chain {chain} is {float(evaluation.log_joint[chain])}, {culprit} first; {advice}; "
        "the last good state is kept"
    )


def info_of(evaluation: Evaluation, step_size: float, **extra: float) -> Info:
    """What a human watches, means over chains: complexity is −log prior."""
    return Info(float(evaluation.data.mean()), -float(evaluation.prior.mean()), 1.0, step_size, extra)
