"""Cyclical stochastic-gradient MCMC (Zhang, Li, Zhang, Chen & Wilson 2020): warm restarts find other modes.

    ε_t = (a/N) (cos(π r_t) + 1) / 2,   r_t = (t mod L) / L,   L = ⌈steps / cycles⌉

While r < β the method explores: it descends without noise, with steps long enough to leave a mode.  Then it samples,
as SGLD or SGHMC do.  Every draw has a weight proportional to the step that was taken from it.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.stochastic_gradient.base import GradientChainState, ScheduledStep, StochasticGradientChains
from pyro_compress.inference.stochastic_gradient.sghmc import Friction
from pyro_compress.inference.stochastic_gradient.sgld import langevin


@dataclass(frozen=True)
class CyclicalSteps(StochasticGradientChains):
    """The schedule; see the head of this module.

    Args:
        epochs, batch_size, chains, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`; draws are
            spread evenly over the sampling stages of all cycles.
        warmup: share of the steps before draws are kept, on top of the exploration of every cycle.
        a: step at the start of a cycle, times N.
        cycles: number of them.
        exploration: β in [0, 1), share of a cycle.
    """

    warmup: float = 0.0
    a: float = 0.4
    cycles: int = 4
    exploration: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.a > 0 and self.cycles >= 1 and 0 <= self.exploration < 1):
            raise InferenceError(
                f"{type(self).__name__} needs a > 0, at least 1 cycle and exploration in [0, 1); found a={self.a}, "
                f"cycles={self.cycles}, exploration={self.exploration}"
            )

    def schedule(self, step: int, steps: int) -> ScheduledStep:
        length = math.ceil(steps / self.cycles)
        place = step % length / length
        return ScheduledStep(0.5 * self.a * (math.cos(math.pi * place) + 1), place >= self.exploration)

    def budget(self, held: int) -> tuple[int, int, int]:
        steps = self.steps(held)
        warmup = min(steps - 1, round(self.warmup * steps))
        sampling = sum(self.schedule(step, steps).samples for step in range(warmup, steps))
        if not sampling:
            raise InferenceError(
                f"{type(self).__name__}: {self.cycles} cycles in {steps} steps, of which the share {self.exploration} "
                "explores, leave no step for sampling: give more epochs, fewer cycles or a smaller exploration"
            )
        thin = max(1, sampling // self.draws)
        return warmup, thin, min(self.draws, sampling // thin)


@dataclass(frozen=True)
class CyclicalSGLD(CyclicalSteps):
    """Cyclical SGLD.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a, cycles, exploration: see `CyclicalSteps`; a/2 is the first learning rate of each cycle.
    """

    def move(self, state: GradientChainState, gradient: Tensor, size: float, samples: bool) -> None:
        langevin(state, gradient, size * self.temperature, samples)


@dataclass(frozen=True)
class CyclicalSGHMC(CyclicalSteps, Friction):
    """Cyclical SGHMC.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a, cycles, exploration: see `CyclicalSteps`; a is the first learning rate of each cycle.
        friction, noise_estimate: see `Friction`.
    """

    a: float = 0.02
