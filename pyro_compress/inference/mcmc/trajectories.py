"""Pieces of one chain's walk: a fresh momentum, where a transition ends, the search for a step size."""

import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from pyro_compress.errors import InferenceError
from pyro_compress.inference.mcmc.leapfrog import MOMENTUM, Reply, Request

# an energy error beyond it is a divergence, as in Stan
MAX_ENERGY_ERROR = 1000.0


class Outcome(NamedTuple):
    """Where a transition ended, and what it noted.

    Attributes:
        phase: (3, D); its momentum is spent.
        log_joint: there.
        energy: there, −log joint + kinetic, before the next momentum is drawn.
        acceptance: mean acceptance probability over the steps.
        steps: leapfrog steps taken.
        diverging: whether the energy error grew beyond `MAX_ENERGY_ERROR`.
        depth: of the tree; 0 without one.
    """

    phase: np.ndarray
    log_joint: float
    energy: float
    acceptance: float
    steps: int
    diverging: bool
    depth: int = 0


Walk = Generator[Request, Reply, Outcome]


def search_step_size(
    phase: np.ndarray, log_joint: float, guess: float, random: np.random.Generator, where: str
) -> Generator[Request, Reply, float]:
    """A step size at which one step's acceptance probability crosses 0.8: doubled or halved until it does.

    Hoffman & Gelman (2014), algorithm 4, with Stan's threshold and a fresh momentum every time.

    Raises:
        InferenceError: there is none.
    """
    size, direction = guess, 0
    while True:
        start, kinetic = with_momentum(phase, random)
        _, reached, kinetic_there = yield start, size
        change = (reached - kinetic_there) - (log_joint - kinetic)
        wanted = 1 if change > math.log(0.8) else -1
        if direction and wanted != direction:
            return size
        direction = wanted
        size = size * 2.0**direction
        if size > 1e7:
            raise InferenceError(
                f"{where}: the step size grew beyond 10⁷ and is still accepted: is the posterior proper?"
            )
        if size < 1e-12:
            raise InferenceError(
                f"{where}: no step size is small enough to be accepted: the gradient is wrong or not finite there, or "
                "the log joint is not continuous"
            )


def with_momentum(phase: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """(A copy of `phase` with a fresh momentum r ~ N(0, I), ½ rᵀr)."""
    start = phase.copy()
    momentum = random.standard_normal((start.shape[1],))
    start[MOMENTUM] = momentum
    return start, 0.5 * float(momentum.dot(momentum))


def acceptance_of(change: float) -> float:
    """min(1, exp(change)); 0 for NaN."""
    return 1.0 if change >= 0.0 else math.exp(change) if change > -MAX_ENERGY_ERROR else 0.0
