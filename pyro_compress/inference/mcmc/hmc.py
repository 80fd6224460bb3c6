"""Hamiltonian Monte Carlo with a path length that varies (Duane et al. 1987; Neal 2011).

    r ~ N(0, I);   n = ⌈T u / ε⌉ leapfrog steps, u uniform around 1;   accept with probability min(1, exp(H − H'))

T is in units of the mass matrix: with an adapted one, of posterior standard deviations.  A path of fixed length can
return to where it began, over and over; varying it mends that (Neal 2011, section 5.4.2.2).

T says nothing before the mass matrix is known: far from the posterior, or with scales of thousands, a path of that
length goes nowhere.  So the part of the warm-up that learns the mass matrix walks by trees that double until they turn,
as NUTS does, and the rest of it finds the step size of paths of length T.
"""

import math
from dataclasses import dataclass

import numpy as np

from pyro_compress.errors import InferenceError
from pyro_compress.inference.mcmc.hamiltonian import HamiltonianChains
from pyro_compress.inference.mcmc.nuts import tree
from pyro_compress.inference.mcmc.trajectories import MAX_ENERGY_ERROR, Outcome, Walk, acceptance_of, with_momentum


@dataclass(frozen=True)
class HMC(HamiltonianChains):
    """Hamiltonian Monte Carlo.

    Args:
        chains, warmup, draws, thin, temperature, spread, memory_limit_bytes: see `TransitionChains`.
        step_size, target_acceptance, mass, precision, compile: see `HamiltonianChains`.
        trajectory_length: T, in force once the mass matrix has been learned; π/2 is a quarter of a period in a Gaussian
            whose scales it has.
        leapfrog_steps: n in place of T u / ε; None leaves it to T.
        jitter: u, or the factor of ε where n is given, is uniform on (1 − jitter, 1 + jitter).
        max_steps: largest n.
    """

    trajectory_length: float = math.pi / 2
    leapfrog_steps: int | None = None
    jitter: float = 0.5
    max_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trajectory_length > 0 or not 0 <= self.jitter < 1:
            raise InferenceError(
                f"HMC needs trajectory_length > 0 and jitter in [0, 1); found {self.trajectory_length}, {self.jitter}"
            )
        if self.max_steps < 1 or (self.leapfrog_steps is not None and self.leapfrog_steps < 1):
            raise InferenceError(
                f"HMC needs leapfrog_steps and max_steps of at least 1; found {self.leapfrog_steps}, {self.max_steps}"
            )

    def explore(self, phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator) -> Walk:
        """A tree of at most about `max_steps` steps, or the `leapfrog_steps` that were asked for."""
        if self.leapfrog_steps is not None:
            return self.transition(phase, log_joint, step_size, random)
        return tree(phase, log_joint, step_size, random, max(1, round(math.log2(self.max_steps))))

    def transition(self, phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator) -> Walk:
        """One trajectory, accepted or not."""
        factor = 1.0 + self.jitter * (2.0 * random.random() - 1.0)
        if self.leapfrog_steps is None:
            count = min(self.max_steps, math.ceil(self.trajectory_length * factor / step_size))
        else:
            count, step_size = self.leapfrog_steps, step_size * factor
        start, kinetic = with_momentum(phase, random)
        before = kinetic - log_joint
        reached, value, kinetic = yield start, step_size
        taken = 1
        while taken < count and kinetic - value - before < MAX_ENERGY_ERROR:
            reached, value, kinetic = yield None, step_size
            taken += 1
        change = before - (kinetic - value)
        acceptance = acceptance_of(change)
        diverging = not change > -MAX_ENERGY_ERROR
        if random.random() < acceptance:
            return Outcome(reached, value, kinetic - value, acceptance, taken, diverging)
        return Outcome(phase, log_joint, before, acceptance, taken, diverging)
