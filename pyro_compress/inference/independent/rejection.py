"""Rejection sampling: independent exact draws, from proposals that are thrown away.

    θ ~ p(θ),  accepted with probability p(y | θ) / M,   M ≥ max_θ p(y | θ)

(von Neumann 1951.)  A given bound that a proposal exceeds is an error.  One that was found by maximisation is raised
where a proposal exceeds it, and draws that were accepted before are kept with probability M_old / M_new, after which
they are as they would have been under the new one (Caffo, Booth & Davis 2002); the result says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Method, Model, State
from pyro_compress.inference.independent.proposals import Proposals, Proposer
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.results.from_draws import point_posterior, posterior_from_draws
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior

# proposals from which the search for the bound starts, and by which a hopeless run is known
PILOT = 25
# the best of all proposals would have to lie that far below the bound
HOPELESS_NATS = 100.0
# what a bound that was found is raised by: the search ends near a maximum, not on it
SLACK_NATS = 0.01


@dataclass(frozen=True)
class RejectionSampling(Method):
    """Independent draws of exactly the posterior, for models of very few dimensions; sees all the data at once.

    Args:
        draws: that are wanted.
        log_bound: ln M, an upper bound of the log-likelihood of all data in nats; None searches for the maximum.
        starts: draws from the prior that the search starts at.
        tries: proposals after which it gives up.
        at_once: proposals evaluated together.
    """

    draws: int = 1000
    log_bound: float | None = None
    starts: int = 10
    tries: int = 1_000_000
    at_once: int = 1000

    round_name: ClassVar[str] = "hundreds of draws"
    objective_name: ClassVar[str] = "log joint"
    trains_network: ClassVar[bool] = False
    per_round: ClassVar[int] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.draws, self.starts, self.tries, self.at_once) < 1:
            raise InferenceError(
                "RejectionSampling needs draws, starts, tries and at_once of at least 1; found "
                f"draws={self.draws}, starts={self.starts}, tries={self.tries}, at_once={self.at_once}"
            )
        if self.log_bound is not None and not math.isfinite(self.log_bound):
            raise InferenceError(f"RejectionSampling: log_bound must be a number, found {self.log_bound}")

    @property
    def rounds(self) -> int:
        return -(-self.draws // self.per_round)

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return iter((feed.tensors,))

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "RejectionState":
        return RejectionState(model, Proposer(model, size), size)

    def step(self, state: "RejectionState", batch: Batch) -> Info:
        """Propose until another hundred draws have been accepted.

        Raises:
            InferenceError: the limit of tries is reached or will be without one draw, or a proposal exceeds the bound
                that was given.
        """
        if state.log_bound is None:
            state.log_bound = self.log_bound
            if state.log_bound is None:
                state.log_bound = SLACK_NATS + largest_log_likelihood(state, batch, self.starts, self.tries)
                self._refuse_hopeless(state)
        wanted = min(self.draws, self.per_round * (state.steps_done + 1))
        while state.accepted < wanted:
            if state.proposed >= self.tries:
                raise InferenceError(self._gave_up(state))
            self._propose(state, batch, min(self.at_once, self.tries - state.proposed))
            self._refuse_hopeless(state)
        state.steps_done += 1
        data, prior = float(state.log_likelihood.mean()), float(state.log_prior.mean())
        return Info(data, -prior, 1.0, 0.0, {"acceptance_rate": state.acceptance_rate})

    def _refuse_hopeless(self, state: "RejectionState") -> None:
        assert state.log_bound is not None
        if state.accepted or state.log_bound <= state.hopeless_bound(self.tries):
            return
        raise InferenceError(
            f"rejection sampling is hopeless here and stops after {state.seen:,} proposals from the prior: the best of "
            f"them has a log-likelihood of {state.best:,.0f} nats, the bound is {state.log_bound:,.0f} or more, and "
            f"over {state.width:,} latent numbers {self.tries:,} proposals would not come near enough for one draw; "
            "use NUTS(...), or SVI(...)"
        )

    def _propose(self, state: "RejectionState", batch: Batch, count: int) -> None:
        assert state.log_bound is not None
        found = state.proposer.draw(count, batch)
        self._refuse_other_priors(found)
        log_likelihood = torch.nan_to_num(found.log_likelihood, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        top = float(log_likelihood.max())
        if top > state.log_bound:
            if self.log_bound is not None or top == math.inf:
                raise InferenceError(
                    f"the log-likelihood of a proposal is {top:.6g} nats, above the bound of {state.log_bound:.6g}: "
                    "draws under it would be wrong; give a log_bound that holds, or use ImportanceSampling(...)"
                )
            state.raise_bound(top + SLACK_NATS)
        taken = torch.rand(count, dtype=torch.float64).log() < log_likelihood - state.log_bound
        parts = [found.values[name].reshape(count, -1)[taken].to(state.proposer.dtype) for name in state.shapes]
        state.add(torch.cat(parts, 1), log_likelihood[taken], found.log_prior[taken])
        state.proposed += count
        state.saw(count, top)

    def _refuse_other_priors(self, found: Proposals) -> None:
        apart = (found.log_prior - found.log_proposal).abs() > 1e-4 * (1 + found.log_prior.abs())
        if bool(apart.any()):
            raise InferenceError(
                "latent sites of the model are scaled or masked, so the prior that counts is not the one that is drawn "
                "from, and rejection sampling needs both to be one: use ImportanceSampling(...) or NUTS(...)"
            )

    def draw(self, state: "RejectionState") -> Posterior:
        """The first `draws` accepted ones."""
        kept = slice(0, self.draws)
        lp = (state.log_likelihood + state.log_prior)[kept].numpy()[None]
        flat = state.flat[kept].numpy()[None]
        draws = Draws(flat, state.shapes, None, {"lp": lp}, state.proposer.derived)
        assert state.log_bound is not None
        statistics = {
            "acceptance_rate": state.acceptance_rate,
            "proposals": float(state.proposed),
            "log_bound_nats": state.log_bound,
            # E_prior p(y | θ) is the share that is accepted, times M
            "log_evidence_nats": math.log(state.acceptance_rate) + state.log_bound,
        }
        bound = (
            "given" if self.log_bound is not None else f"found by maximisation from {self.starts} draws of the prior"
        )
        if state.times_raised:
            bound += f", then raised {state.times_raised} times where a proposal exceeded it"
        posterior = posterior_from_draws(state.model, draws, "iid")
        provenance = {**posterior.provenance, "proposal": "prior", "bound": bound}
        return replace(posterior, statistics=statistics, provenance=provenance)

    def draw_for_validation(self, state: "RejectionState") -> Posterior:
        """The latest draw, as a point."""
        last, start, values = state.flat[-1], 0, {}
        for name, shape in state.shapes.items():
            end = start + math.prod(shape)
            values[name] = last[start:end].reshape(shape)
            start = end
        return point_posterior(state.model, values)

    def _gave_up(self, state: "RejectionState") -> str:
        seen = f"{state.accepted:,} of {state.proposed:,} proposals from the prior"
        rate = f"an acceptance rate of {state.acceptance_rate:.2g}" if state.accepted else "none of them in fact"
        return (
            f"rejection sampling accepted {seen}, {rate}, and {self.draws:,} draws are wanted: raise `tries`, give a "
            "smaller `log_bound` if one holds, or use ImportanceSampling(...) or NUTS(...)"
        )


class RejectionState(State):
    """Draws accepted so far, in memory, and the bound."""

    def __init__(self, model: Model, proposer: Proposer, size: int) -> None:
        self.model, self.proposer, self.size = model, proposer, size
        self.shapes = proposer.shapes()
        self.flat = torch.zeros(0, sum(math.prod(shape) for shape in self.shapes.values()), dtype=proposer.dtype)
        self.log_likelihood = torch.zeros(0, dtype=torch.float64)
        self.log_prior = torch.zeros(0, dtype=torch.float64)
        self.log_bound: float | None = None
        self.steps_done = self.proposed = self.times_raised = self.seen = 0
        self.best = -math.inf

    @property
    def accepted(self) -> int:
        """Number of draws so far."""
        return len(self.flat)

    @property
    def acceptance_rate(self) -> float:
        """Share of the proposals that were accepted."""
        return self.accepted / max(1, self.proposed)

    @property
    def width(self) -> int:
        """D, latent numbers."""
        return sum(math.prod(self.shapes[name]) for name in self.proposer.latents)

    def saw(self, count: int, best: float) -> None:
        """Note the largest log-likelihood of so many proposals."""
        self.seen, self.best = self.seen + count, max(self.best, best)

    def hopeless_bound(self, tries: int) -> float:
        """ln M from which on not one of `tries` proposals will be accepted.

        The nearest of n points to a mode is n^(−1/D) away, so what it lacks in log-likelihood falls as n^(−2/D).
        """
        if not math.isfinite(self.best):
            return math.inf
        return self.best + HOPELESS_NATS * max(1.0, tries / self.seen) ** (2 / self.width)

    def add(self, flat: torch.Tensor, log_likelihood: torch.Tensor, log_prior: torch.Tensor) -> None:
        """Append draws, (count, D) and (count,)."""
        self.flat = torch.cat([self.flat, flat])
        self.log_likelihood = torch.cat([self.log_likelihood, log_likelihood])
        self.log_prior = torch.cat([self.log_prior, log_prior])

    def raise_bound(self, log_bound: float) -> None:
        """Make the draws so far what they would be under a larger bound."""
        assert self.log_bound is not None
        kept = torch.rand(self.accepted, dtype=torch.float64).log() < self.log_bound - log_bound
        self.flat = self.flat[kept]
        self.log_likelihood, self.log_prior = self.log_likelihood[kept], self.log_prior[kept]
        self.log_bound, self.times_raised = log_bound, self.times_raised + 1

    def capture(self) -> dict[str, Any]:
        held = {"flat": self.flat, "log_likelihood": self.log_likelihood, "log_prior": self.log_prior}
        counts = {name: getattr(self, name) for name in ("steps_done", "proposed", "times_raised", "seen")}
        tensors = {name: value.clone() for name, value in held.items()}
        return {**tensors, **counts, "best": self.best, "log_bound": self.log_bound}

    def restore(self, captured: dict[str, Any]) -> None:
        for name, value in captured.items():
            setattr(self, name, value.clone() if isinstance(value, torch.Tensor) else value)


def largest_log_likelihood(state: RejectionState, batch: Batch, starts: int, tries: int) -> float:
    """max_θ log p(y | θ) in nats by L-BFGS in unconstrained space, the largest of several starts.

    The search ends early where it has become hopeless that one of `tries` proposals is accepted.

    Raises:
        InferenceError: a discrete site, or no start that ends at a finite value.
    """
    if any(getattr(fn.support, "is_discrete", False) for fn in getattr(state.model, "sites", {}).values()):
        raise InferenceError(
            "the largest likelihood of a model with discrete latent sites is not searched for: give log_bound (0 holds "
            "where all observations are discrete)"
        )
    log_joint = LogJoint(state.model, state.size, replay=False)
    proposed = state.proposer.draw(max(starts, PILOT), batch)
    state.saw(len(proposed.log_likelihood), float(torch.nan_to_num(proposed.log_likelihood, nan=-math.inf).max()))
    found, enough = -math.inf, state.hopeless_bound(tries)
    for index in range(starts):
        start = {site.name: proposed.values[site.name][index] for site in log_joint.sites}
        found = max(found, _climb(log_joint, log_joint.unconstrained(start), batch, enough))
        if found > enough:
            break
    if not math.isfinite(found):
        raise InferenceError(f"no maximum of the likelihood was found from {starts} starts: give log_bound")
    return found


def _climb(log_joint: LogJoint, position: torch.Tensor, batch: Batch, enough: float) -> float:
    leaf = position.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([leaf], max_iter=20, line_search_fn="strong_wolfe")
    best = -math.inf

    def loss() -> torch.Tensor:
        nonlocal best
        optimizer.zero_grad()
        data = log_joint.terms(leaf, *batch)[1][0]
        reached = float(data.detach())
        if math.isfinite(reached):
            best = max(best, reached)
        # without observations it is a constant
        if data.requires_grad:
            (-data).backward()
        return -data

    for _ in range(10):
        before = best
        optimizer.step(loss)
        if best > enough or not best > before:
            break
    return best
