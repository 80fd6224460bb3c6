"""Importance sampling: independent proposals, weighted by how far they are from the posterior.

    θ_s ~ q,   log w_s = [log p(y | θ_s) + log p(θ_s)] / T − log q(θ_s)
    E f ≈ Σ w_s f(θ_s) / Σ w_s

(Hesterberg 1995; Owen 2013, chapter 9: self-normalised.)  Effective sample size is (Σ w)² / Σ w² (Kong 1992).  At T = 1
the mean of w is an unbiased estimate of the evidence p(y).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from pyro_compress.errors import InferenceError, warn
from pyro_compress.inference.contract import Info, Method, Model, State
from pyro_compress.inference.independent.proposals import Guide, Proposals, Proposer
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.results.draw_store import DrawStore
from pyro_compress.inference.results.from_draws import point_posterior, posterior_from_draws
from pyro_compress.models.program import Program
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior

NOTED = ("lp", "log_likelihood")


@dataclass(frozen=True)
class ImportanceSampling(Method):
    """Weighted independent draws, for models of a few dimensions; sees all the data at once.

    Args:
        draws: S, proposals; every one is kept, with its weight in `Draws.log_weight`.
        proposal: q: None for the prior, a posterior with closed-form latents (as SVI gives), or a Pyro guide that is
            called with the model's arguments.
        at_once: proposals evaluated together.
        temperature: T.
        warn_below_percent: an effective sample size of less than that share of S is warned of.
        memory_limit_bytes: draws larger than that lie on disk.
    """

    draws: int = 10_000
    proposal: Posterior | Guide | None = field(default=None, repr=False)
    at_once: int = 1000
    temperature: float = 1.0
    warn_below_percent: float = 5.0
    memory_limit_bytes: int = 2**30

    round_name: ClassVar[str] = "proposals"
    objective_name: ClassVar[str] = "log joint"
    trains_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.at_once < 1 or not self.temperature > 0:
            raise InferenceError(
                "ImportanceSampling needs draws and at_once of at least 1 and temperature > 0; found "
                f"draws={self.draws}, at_once={self.at_once}, temperature={self.temperature}"
            )

    @property
    def rounds(self) -> int:
        return -(-self.draws // self.at_once)

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return iter((feed.tensors,))

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "ImportanceState":
        proposer = Proposer(model, size, self.proposal)
        store = DrawStore(
            1,
            self.draws,
            proposer.shapes(),
            NOTED,
            limit_bytes=self.memory_limit_bytes,
            dtype=np.float64 if proposer.dtype == torch.float64 else np.float32,
            derived=proposer.derived,
        )
        return ImportanceState(model, proposer, store)

    def step(self, state: "ImportanceState", batch: Batch) -> Info:
        found = state.proposer.draw(min(self.at_once, self.draws - state.store.filled), batch)
        log_joint = (found.log_likelihood + found.log_prior) / self.temperature
        log_weight = (log_joint - found.log_proposal).numpy()
        if np.isposinf(log_weight).any():
            raise InferenceError(
                f"step {state.steps_done}: a proposal has an infinite weight: the log joint of the model is infinite "
                "there, or the proposal has no density"
            )
        state.add(found, log_joint.numpy(), np.where(np.isnan(log_weight), -np.inf, log_weight))
        weights, statistics = state.weights(), state.store.statistics
        held = weights > 0
        data = weights[held] @ statistics["log_likelihood"][0, : len(weights)][held]
        joint = weights[held] @ statistics["lp"][0, : len(weights)][held] * self.temperature
        effective = 1.0 / np.square(weights).sum() if held.any() else 0.0
        return Info(float(data), float(data - joint), 1.0, 0.0, {"effective_sample_size": float(effective)})

    def draw(self, state: "ImportanceState") -> Posterior:
        """All proposals so far with their weights.

        Raises:
            InferenceError: none has any.
        """
        if not np.isfinite(state.log_weight).any():
            raise InferenceError(
                f"none of {len(state.log_weight):,} proposals has any likelihood: propose from a fitted posterior "
                "(proposal=...), or use NUTS(...)"
            )
        draws = state.store.draws(state.log_weight[None])
        statistics = self._statistics(state.model, draws)
        provenance = {"proposal": state.proposer.name}
        if statistics["effective_sample_percent"] < self.warn_below_percent:
            provenance["warning"] = self._warning(statistics)
            warn(provenance["warning"])
        posterior = posterior_from_draws(state.model, draws, "iid")
        return replace(posterior, statistics=statistics, provenance={**posterior.provenance, **provenance})

    def draw_for_validation(self, state: "ImportanceState") -> Posterior:
        """The proposal of the largest log joint so far, as a point."""
        best = int(np.argmax(state.store.statistics["lp"][0, : state.store.filled]))
        draws = state.store.draws()
        values = {name: torch.as_tensor(np.array(draws.site(name)[0, best])) for name in draws.shapes}
        return point_posterior(state.model, values)

    def _statistics(self, model: Model, draws: Draws) -> dict[str, float]:
        assert draws.log_weight is not None
        effective, top = draws.effective_count(), float(draws.log_weight.max())
        found = {
            "effective_sample_size": effective,
            "effective_sample_percent": 100 * effective / draws.count,
            "largest_weight": float(draws.weights().max()),
        }
        # of a prior that is scaled or masked there is none
        if self.temperature == 1.0 and not (isinstance(model, Program) and model.reweighted()):
            found["log_evidence_nats"] = top + math.log(float(np.exp(draws.log_weight - top).mean()))
        return found

    def _warning(self, statistics: dict[str, float]) -> str:
        return (
            f"{self.draws:,} proposals are worth {statistics['effective_sample_size']:.1f} equally weighted draws "
            f"({statistics['effective_sample_percent']:.2g} %, below {self.warn_below_percent:g} %), and the largest "
            f"weight is {100 * statistics['largest_weight']:.0f} % of all: do not rely on these moments; propose from "
            "a fitted posterior (proposal=...), take more draws, or use NUTS(...)"
        )


class ImportanceState(State):
    """The proposals so far and their log weights, (S,)."""

    def __init__(self, model: Model, proposer: Proposer, store: DrawStore) -> None:
        self.model, self.proposer, self.store = model, proposer, store
        self.log_weight = np.zeros(0)
        self.steps_done = 0

    def keep_in(self, folder: Any) -> None:
        self.store.keep_in(folder)

    def add(self, found: Proposals, log_joint: np.ndarray, log_weight: np.ndarray) -> None:
        """Store proposals, whose log joints and log weights are (count,)."""
        parts = [found.values[name].reshape(len(log_weight), -1).to(self.proposer.dtype) for name in self.store.shapes]
        flat = torch.cat(parts, 1).numpy()
        data = found.log_likelihood.numpy()
        for index in range(len(flat)):
            noted = {"lp": log_joint[index : index + 1], "log_likelihood": data[index : index + 1]}
            self.store.add(flat[index : index + 1], noted)
        self.log_weight = np.concatenate([self.log_weight, log_weight])
        self.steps_done += 1

    def weights(self) -> np.ndarray:
        """(S,), summing to one; zero where no proposal has any."""
        top = self.log_weight.max()
        raised = np.exp(self.log_weight - top) if np.isfinite(top) else np.zeros(len(self.log_weight))
        return raised / max(1.0, raised.sum())

    def capture(self) -> dict[str, Any]:
        return {
            "proposal": self.proposer.name,
            "store": self.store.capture(),
            "log_weight": torch.from_numpy(self.log_weight.copy()),
            "steps_done": self.steps_done,
        }

    def restore(self, captured: dict[str, Any]) -> None:
        if captured["proposal"] != self.proposer.name:
            raise InferenceError(
                f"the run was started with another proposal ({captured['proposal']}) than this one "
                f"({self.proposer.name}): resume with the one that it was started with"
            )
        self.store.restore(captured["store"])
        self.log_weight, self.steps_done = captured["log_weight"].numpy().copy(), captured["steps_done"]
