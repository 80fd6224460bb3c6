"""Random-walk Metropolis–Hastings: the smallest sampler that is exact.

    u' = u + h ξ,  ξ ~ N(0, I);   accept with probability min(1, p(y, u') / p(y, u))

(Metropolis et al. 1953; Hastings 1970.)  The step h adapts during the warm-up towards an acceptance rate, by the
recursion ln h ← ln h + k^(−0.6) (accepted − target) of Andrieu & Thoms (2008), and is fixed after it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.chains.chains import ChainState, TransitionChains, info_of
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.log_joint.log_joint import Evaluation
from pyro_compress.inference.loop.feed import Batch

NOTED = ("lp", "acceptance_rate", "step_size", "no_probability")


@dataclass(frozen=True)
class Metropolis(TransitionChains):
    """Random-walk Metropolis–Hastings on all the data.

    The statistic 'no_probability' is 1 where a proposal had none, since the model could not be computed there.

    Args:
        chains, warmup, draws, thin, temperature, spread, memory_limit_bytes: see `TransitionChains`.
        step_size: h at the start, in unconstrained space; 2.4 / √D of the target's sd mixes best (Roberts et al. 1997).
        target_acceptance: rate that h adapts to in the warm-up; 0 leaves h as it is.
    """

    step_size: float = 0.1
    target_acceptance: float = 0.234

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_size > 0 or not 0 <= self.target_acceptance < 1:
            raise InferenceError(
                f"{type(self).__name__} needs step_size > 0 and target_acceptance in [0, 1); found "
                f"step_size={self.step_size}, target_acceptance={self.target_acceptance}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "MetropolisState":
        state = self.fresh(MetropolisState, model, size, NOTED)
        state.step_size = torch.full((self.chains,), self.step_size)
        return state

    def step(self, state: Any, batch: Batch) -> Info:
        if state.present is None:
            if not state.steps_done:
                state.move_to_finite_starts(batch, self)
            state.present = state.log_joint(state.position, batch)
        proposal = state.position + state.step_size[:, None] * torch.randn_like(state.position)
        proposed = state.log_joint(proposal, batch)
        # a NaN compares false, so it is rejected
        accepted = torch.rand(self.chains).log() < proposed.log_joint - state.present.log_joint
        state.position = torch.where(accepted[:, None], proposal, state.position)
        state.present = _chosen(accepted, proposed, state.present)
        self.adapt(state, accepted)
        noted = {
            "lp": state.present.log_joint,
            "acceptance_rate": accepted.float(),
            "step_size": state.step_size,
            "no_probability": (~torch.isfinite(proposed.log_joint)).float(),
        }
        state.finish_step(noted)
        acceptance = float(accepted.float().mean())
        return info_of(state.present, float(state.step_size.mean()), acceptance_rate=acceptance)

    def adapt(self, state: "MetropolisState", accepted: Tensor) -> None:
        """Learn each chain's step size from whether it moved, (chain,); in the warm-up alone."""
        if state.in_warmup and self.target_acceptance > 0:
            gain = (state.steps_done + 1) ** -0.6
            state.step_size = state.step_size * torch.exp(gain * (accepted.float() - self.target_acceptance))


class MetropolisState(ChainState):
    """Adds the step size per chain; the log joint at the present position is found again after a restart."""

    step_size: Tensor
    present: Evaluation | None = None

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "step_size": self.step_size.clone()}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.step_size, self.present = captured["step_size"].clone(), None


def _chosen(accepted: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    return Evaluation(
        torch.where(accepted, new.log_joint, old.log_joint),
        torch.where(accepted[:, None], new.gradient, old.gradient),
        torch.where(accepted, new.data, old.data),
        torch.where(accepted, new.prior, old.prior),
    )
