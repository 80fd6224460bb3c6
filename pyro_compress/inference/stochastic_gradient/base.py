"""What stochastic-gradient samplers share: a gradient from a batch, a step size by schedule, noise, weighted draws.

A step takes the gradient g of the log joint at u from a batch, keeps u as a draw if it is one's turn, and moves u by
the method's own rule.  Noise for all chains and all parameters is drawn once per step, as one tensor.

Parameters that no prior covers, such as biases under group priors, have no posterior to sample: they follow the same
gradients without noise, and their draws are the path of a point estimate.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.chains.chains import ChainState, MinibatchChains, info_of, refuse_non_finite
from pyro_compress.inference.contract import DefaultFloat, Info, Method, Model, left_at_defaults
from pyro_compress.inference.log_joint.chain_starts import start_positions
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.speed.normal_stream import Noise
from pyro_compress.inference.stochastic_gradient.started import CHAINS, WARMUP, started
from pyro_compress.posterior.posterior import Posterior

ADVICE = "lower the step size (a=...) or check the inputs"
# a log joint that has fallen by so many times its size at the start, and the number of dimensions, will not come back
LOST = 1000.0
# of a method with a step per coordinate: what the provenance keeps
MOST_STEPS = 10_000


@dataclass(frozen=True)
class ScheduledStep:
    """What a schedule says of one step.

    Attributes:
        size: step size times N.
        samples: whether noise is added, and the position may be kept as a draw.
    """

    size: float
    samples: bool = True


class GradientChainState(ChainState):
    """Adds the stream of noise; positions move in place.

    Args:
        seed: of the noise.
        steps_planned: of the whole run.
        **chains: see `ChainState`.
    """

    def __init__(
        self, model: Model, log_joint: LogJoint, position: Tensor, *, seed: int, steps_planned: int, **chains: Any
    ) -> None:
        super().__init__(model, log_joint, position.contiguous(), **chains)
        self.noise, self.steps_planned = Noise(seed), steps_planned
        self.watch.planned = steps_planned
        self._fresh = torch.empty(len(position), log_joint.latents.stop)
        self.floor: Tensor | None = None

    @property
    def sampled(self) -> Tensor:
        """(chain, latents): the part of the positions that has a prior, a view."""
        return self.position[:, self.log_joint.latents]

    def fresh_noise(self) -> Tensor:
        """(chain, latents) new standard normal numbers; the tensor is filled again by the next call."""
        return self.noise.fill(self._fresh)

    def refuse_lost(self, found: Evaluation) -> None:
        """Stop a run that a too long step has thrown out of the posterior, though numbers are finite still.

        Raises:
            InferenceError: names the first such chain.
        """
        if self.floor is None:
            self.floor = found.log_joint - LOST * (found.log_joint.abs() + self.log_joint.width)
        lost = found.log_joint < self.floor
        if bool(lost.any()):
            chain = int(torch.nonzero(lost)[0])
            raise InferenceError(
                f"step {self.steps_done} of {self.steps_planned}: the log joint of chain {chain} has fallen to "
                f"{float(found.log_joint[chain]):.3g} nats, far below where it started: the steps are too long; "
                f"{ADVICE}; the last good state is kept"
            )

    def pass_over(self) -> None:
        """Count a step whose position is no draw: the warm-up ends that much later."""
        self.steps_done += 1
        if self.steps_done > self.warmup:
            self.warmup += 1

    def capture(self) -> dict[str, Any]:
        floor = None if self.floor is None else self.floor.clone()
        return {**super().capture(), "warmup": self.warmup, "noise": self.noise.capture(), "floor": floor}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.warmup = captured["warmup"]
        self.noise.restore(captured["noise"])
        self.floor = captured["floor"]


@dataclass(frozen=True)
class StochasticGradientChains(MinibatchChains):
    """Base of the methods; see the head of this module.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
    """

    # whether step and length may be chosen where nothing is set
    chooses: ClassVar[bool] = False

    @property
    def is_constant(self) -> bool:
        """Whether all steps have one size, so that all draws count the same."""
        return False

    @abstractmethod
    def schedule(self, step: int, steps: int) -> ScheduledStep:
        """Of step number `step`, from 0, of `steps`."""

    @abstractmethod
    def move(self, state: Any, gradient: Tensor, size: float, samples: bool) -> None:
        """Move `state.position` in place.

        Args:
            state: of this method.
            gradient: (chain, D), of the tempered log joint, total nats.
            size: step size.
            samples: whether to add noise.
        """

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> GradientChainState:
        log_joint = LogJoint(model, size, temperature=self.temperature)
        examples = size if held is None else held
        warmup, thin, capacity = self.budget(examples)
        return self.state(
            model,
            log_joint,
            start_positions(log_joint, self.chains, self.spread, self.start),
            seed=seed,
            steps_planned=self.steps(examples),
            warmup=warmup,
            thin=thin,
            capacity=capacity,
            noted=("lp", "step_size") if self.is_constant else ("lp", "step_size", "log_weight"),
            limit_bytes=self.memory_limit_bytes,
        )

    def state(self, *arguments: Any, **keywords: Any) -> GradientChainState:
        """The state that this method needs; arguments as for `GradientChainState`."""
        return GradientChainState(*arguments, **keywords)

    def draw(self, state: Any) -> Posterior:
        posterior = super().draw(state)
        assert posterior.draws is not None
        mean = float((posterior.draws.weights() * posterior.draws.statistics["step_size"]).sum())
        step = self.langevin_step(state, mean)
        if step.numel() > MOST_STEPS:
            return posterior
        share, known = self.batch_noise(state, mean)
        noise = {"batch_size": self.batch_size, "share": share.tolist(), "known": known}
        found = {"langevin_step": step.tolist(), "batch_noise": noise}
        return replace(posterior, provenance={**posterior.provenance, **found})

    def for_model(self, model: Model, feed: Feed) -> Method:
        """`Started`, for a Pyro model where nothing was set and the method knows what its steps do."""
        if not self.chooses or not left_at_defaults(self, ("draws", "memory_limit_bytes")):
            return self
        return started(self, model, feed)

    def with_step(self, a: float, **settings: Any) -> "StochasticGradientChains":
        """The same with a constant step."""
        return replace(self, a=a, gamma=0.0, chains=CHAINS, warmup=WARMUP, **settings)  # type: ignore[call-arg]

    def scale_of(self, precision: Tensor, size: int) -> Tensor:
        """G at a normal posterior of that precision, (D,)."""
        return torch.ones(len(precision), dtype=precision.dtype)

    def step_within(self, share: float, curvature: float) -> float:
        """The step that makes the variance 1 / curvature too large by that share."""
        return 4 * share / curvature

    def memory(self, step: float, curvature: float) -> float:
        """Steps after which a direction of that curvature counts as drawn anew: (1 + ρ) / (1 − ρ)."""
        return 4 / (step * curvature)

    def langevin_step(self, state: Any, size: float) -> Tensor:
        """The step ε of Langevin dynamics that has the error of a step of that size, one number or (D,).

        Draws of a normal posterior of variance σ² then have the variance σ² / (1 − ε / (4 σ²)).
        """
        return torch.tensor(size)

    def batch_noise(self, state: Any, size: float) -> tuple[Tensor, float]:
        """(c, k), one number or (D,) and a number: gradients of variance V make a variance larger by the share c V − k.

        Of Langevin steps the noise of batches adds ε² V / 4 to the ε that is drawn.
        """
        return self.langevin_step(state, size) / 4, 0.0

    def step(self, state: GradientChainState, batch: Batch) -> Info:
        if not state.steps_done:
            state.move_to_finite_starts(batch, self, exact=False)
        found = state.log_joint(state.position, batch)
        where = f"step {state.steps_done} of {state.steps_planned}"
        refuse_non_finite(found, where, ADVICE, state.log_joint.failure)
        state.refuse_lost(found)
        stage = self.schedule(state.steps_done, state.steps_planned)
        size = stage.size / max(1, state.log_joint.size)
        if stage.samples:
            same = np.full(self.chains, size)
            state.finish_step({"lp": found.log_joint, "step_size": same, "log_weight": np.log(same)})
        else:
            state.pass_over()
        self.move(state, found.gradient, size, stage.samples)
        return info_of(found, size)


@dataclass(frozen=True)
class PolynomialSteps(StochasticGradientChains):
    """Step sizes ε_t = (a/N) (b + t)^−γ, t = 0, 1, … steps (Welling & Teh 2011).

    The factor 1/N makes a independent of the number of examples; without data N counts as 1.  The draw that step t
    was taken from has a weight proportional to ε_t, so averages are Σ ε_t f(u_t) / Σ ε_t as in the paper.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a: scale of the steps.
        b: steps after which they begin to fall.
        gamma: γ in [0, 1]; 0 is a constant step a/N, 1/3 has the best rate (Teh, Thiery & Vollmer 2016), and the paper
            asks for more than 1/2.
    """

    chooses: ClassVar[bool] = True

    a: float = DefaultFloat(2.0)
    b: float = 1000.0
    gamma: float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.a > 0 and self.b > 0 and 0 <= self.gamma <= 1):
            raise InferenceError(
                f"{type(self).__name__} needs a > 0, b > 0 and gamma in [0, 1]; found a={self.a}, b={self.b}, "
                f"gamma={self.gamma}"
            )

    @property
    def is_constant(self) -> bool:
        return self.gamma == 0

    def schedule(self, step: int, steps: int) -> ScheduledStep:
        return ScheduledStep(self.a * math.pow(self.b + step, -self.gamma))
