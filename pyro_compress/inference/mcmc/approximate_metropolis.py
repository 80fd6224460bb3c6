"""Metropolis–Hastings that looks at no more data than a decision needs (Korattikara, Chen & Welling 2014).

The proposal θ' is accepted if the mean of lᵢ = [log p(yᵢ | θ') − log p(yᵢ | θ)] / T over the N examples exceeds

    μ₀ = [ln u + log p(θ) − log p(θ')] / N,   u uniform on (0, 1)

Examples are drawn without replacement, a batch at a time.  With n of them, mean l̄ and standard deviation s, the
standard error of l̄ is σ = s/√n · √(1 − (n − 1)/(N − 1)), and the sign of l̄ − μ₀ is wrong with probability
δ = P(t_{n−1} > |l̄ − μ₀| / σ).  The decision falls as soon as δ < ε, at the latest when all data have been seen.
ε = 0 is exact; ε > 0 buys more transitions for the same data at the price of a bias, and the risk of an estimate,
bias² + variance, is least in between.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import stdtr
from torch import Tensor
from torch.func import vmap

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.mcmc.metropolis import Metropolis, MetropolisState
from pyro_compress.inference.speed.graph_passes import simplify
from pyro_compress.inference.speed.recording import record
from pyro_compress.models.failures import FAILURES, described
from pyro_compress.models.program import Program

NOTED = ("acceptance_rate", "step_size", "data_share")


@dataclass(frozen=True)
class ApproximateMetropolis(Metropolis):
    """Random-walk Metropolis–Hastings by a sequential test.  Draws carry 'data_share', the share of data seen.

    Args:
        chains, warmup, draws, thin, temperature, spread, memory_limit_bytes: see `TransitionChains`.
        step_size, target_acceptance: see `Metropolis`.
        error: ε of every look, in [0, 0.5): 0 looks at all data.
        batch_size: examples added per look; means of fewer than some hundred are hardly normal.
    """

    error: float = 0.01
    batch_size: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.error < 0.5 or self.batch_size < 2:
            raise InferenceError(
                f"ApproximateMetropolis needs error in [0, 0.5) and batch_size of at least 2; found error={self.error},"
                f" batch_size={self.batch_size}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "ApproximateState":
        if isinstance(model, Program) and model.arguments:
            model.rows("use Metropolis(...), which looks at all of them")
        state = self.fresh(ApproximateState, model, size, NOTED)
        state.step_size = torch.full((self.chains,), self.step_size)
        state.shuffle = np.random.Generator(np.random.PCG64(seed))
        return state

    def step(self, state: Any, batch: Batch) -> Info:
        """One transition of every chain.

        Raises:
            InferenceError: the model has no examples to look at one by one, or they have no finite log-likelihood
                where a chain starts.
        """
        examples = _examples(batch)
        if not state.steps_done:
            state.move_to_finite_starts(batch, self)
        proposal = state.position + state.step_size[:, None] * torch.randn_like(state.position)
        thresholds = torch.rand(self.chains).log().tolist()
        decisions = []
        for chain in range(self.chains):
            pair = torch.stack([state.position[chain], proposal[chain]])
            order = state.shuffle.permutation(examples)
            decisions.append(self._decide(state, pair, thresholds[chain], batch, order))
        accepted = torch.tensor([decision.accepted for decision in decisions])
        state.position = torch.where(accepted[:, None], proposal, state.position)
        self.adapt(state, accepted)
        shares = np.array([decision.share for decision in decisions])
        state.shares = shares
        state.finish_step(
            {"acceptance_rate": accepted.float(), "step_size": state.step_size, "data_share": torch.from_numpy(shares)}
        )
        data, prior = (float(np.mean([getattr(one, name) for one in decisions])) for name in ("data", "prior"))
        extra = {"acceptance_rate": float(accepted.float().mean()), "data_share": float(shares.mean())}
        return Info(data, -prior, 1.0, float(state.step_size.mean()), extra)

    def _decide(
        self, state: "ApproximateState", pair: Tensor, log_uniform: float, batch: Batch, order: np.ndarray
    ) -> "Decision":
        """Look at batches in that order until the test is sure enough.

        Args:
            pair: (2, D), where the chain is and the proposal.
            log_uniform: ln u.
        """
        size, held = state.log_joint.size, len(order)
        seen, total, squares, data, bound = 0, 0.0, 0.0, np.zeros(2), 0.0
        while True:
            # an example alone has no standard deviation: the last look takes it along
            end = held if held - seen <= self.batch_size + 1 else seen + self.batch_size
            chosen = torch.from_numpy(order[seen:end])
            each, prior = state.looked(pair, tuple(part[chosen] for part in batch))
            if seen == 0:
                bound = (log_uniform + float(prior[0]) - float(prior[1])) / size
                if not (math.isfinite(float(prior[0])) and bool(torch.isfinite(each[0]).all())):
                    raise InferenceError(
                        f"transition {state.steps_done}: the log joint is not finite where a chain is; start elsewhere"
                    )
            difference = ((each[1] - each[0]) / self.temperature).double()
            data += each.double().sum(1).numpy()
            total, squares = total + float(difference.sum()), squares + float(difference.square().sum())
            seen = end
            mean = total / seen
            # NaN and −∞ compare false: such a proposal is rejected at once
            if not math.isfinite(mean) or not math.isfinite(bound):
                accepted = False
                break
            accepted = mean > bound
            if seen == held or wrong_sign(mean - bound, squares / seen - mean * mean, seen, held) < self.error:
                break
        where = int(accepted)
        return Decision(accepted, seen / held, float(data[where]) * size / seen, float(prior[where]))


class Decision(NamedTuple):
    """What a sequential test came to.

    Attributes:
        accepted: the proposal.
        share: of the data that were looked at.
        data, prior: estimated log-likelihood of all the data, and log prior / T + Jacobian, where the chain is now.
    """

    accepted: bool
    share: float
    data: float
    prior: float


class ApproximateState(MetropolisState):
    """Adds the order in which data are looked at, the share that the last decision saw, and the graphs by which."""

    shuffle: np.random.Generator

    def __init__(self, *positional: Any, **keywords: Any) -> None:
        super().__init__(*positional, **keywords)
        self.shares = np.zeros(len(self.position))
        self._graphs: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {}

    def looked(self, pair: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-likelihoods (2, n) and log priors (2,) of two positions (2, D)."""
        count = len(batch[0])
        if count not in self._graphs:
            self._graphs[count] = self._traced(pair, batch)
        with torch.no_grad():
            try:
                return self._graphs[count](pair, *batch)
            except FAILURES as error:
                self.log_joint.failure = described(error)
            each = [self._alone(row, batch) for row in pair]
        return torch.stack([data for data, _ in each]), torch.stack([prior for _, prior in each])

    def _alone(self, row: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        try:
            return self.log_joint.apart(row, *batch)
        except FAILURES as error:
            self.log_joint.failure = described(error)
            return torch.full((len(batch[0]),), torch.nan), torch.tensor(torch.nan)

    def _traced(self, pair: Tensor, batch: Batch) -> Callable[..., tuple[Tensor, Tensor]]:
        def one_by_one(pair: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
            first, second = (self.log_joint.apart(row, *batch) for row in pair)
            return torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]])

        if not self.log_joint.replay:
            return one_by_one
        together = vmap(self.log_joint.apart, in_dims=(0, *(None for _ in batch)))
        try:
            with torch.no_grad():
                found: Callable[..., Any] = simplify(record(together, (pair, *batch), self.log_joint.model))
        except InferenceError:
            raise
        except Exception:
            self.log_joint.replay = False
            return one_by_one
        return found

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "shuffle": json.dumps(self.shuffle.bit_generator.state)}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.shuffle.bit_generator.state = json.loads(captured["shuffle"])


def wrong_sign(distance: float, variance: float, seen: int, held: int) -> float:
    """δ: the probability that the mean over all `held` examples lies on the other side of the threshold.

    Args:
        distance: l̄ − μ₀ over the examples seen.
        variance: their mean squared deviation from l̄, n in the denominator.
    """
    left = 1.0 - (seen - 1) / (held - 1)
    error = math.sqrt(max(0.0, variance) * left / (seen - 1))
    if error == 0.0:
        return 0.0 if distance else 0.5
    return float(stdtr(seen - 1, -abs(distance) / error))


def _examples(batch: Batch) -> int:
    count = len(batch[0]) if batch and batch[0].ndim else 0
    if count < 2 or any(not part.ndim or len(part) != count for part in batch):
        shapes = ", ".join(str(tuple(part.shape)) for part in batch)
        raise InferenceError(
            "ApproximateMetropolis looks at examples side by side, and the model's arguments are not that (shapes "
            f"{shapes or 'none'}): use Metropolis(...)"
        )
    return count
