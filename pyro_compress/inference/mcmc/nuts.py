"""The no-U-turn sampler with multinomial weights (Hoffman & Gelman 2014; Betancourt 2017), as Stan runs it.

A trajectory doubles in a random direction of time until it turns back on itself.  States are drawn from it with
weights exp(−H): uniformly within a new half, with a bias towards the new half when the two are joined.  With whitened
momenta r and their sum ρ over a trajectory, it has turned when

    r_first · ρ ≤ 0   or   r_last · ρ ≤ 0

and likewise between either half and the nearest state of the other, which catches the trajectories whose ends alone
look fine (Stan's extra checks).
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from pyro_compress.errors import InferenceError
from pyro_compress.inference.mcmc.hamiltonian import HamiltonianChains
from pyro_compress.inference.mcmc.leapfrog import MOMENTUM, Reply, Request
from pyro_compress.inference.mcmc.trajectories import MAX_ENERGY_ERROR, Outcome, Walk, with_momentum


@dataclass(frozen=True)
class NUTS(HamiltonianChains):
    """The no-U-turn sampler.

    Args:
        chains, warmup, draws, thin, temperature, spread, memory_limit_bytes: see `TransitionChains`.
        step_size, target_acceptance, mass, precision, compile: see `HamiltonianChains`.
        max_tree_depth: a trajectory has at most 2^max_tree_depth − 1 leapfrog steps.
    """

    max_tree_depth: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tree_depth < 1:
            raise InferenceError(f"NUTS needs max_tree_depth of at least 1, found {self.max_tree_depth}")

    def transition(self, phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator) -> Walk:
        """One trajectory and the state drawn from it."""
        return (yield from tree(phase, log_joint, step_size, random, self.max_tree_depth))


def tree(phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator, most: int) -> Walk:
    """A trajectory that doubles until it turns, `most` times at most, and the state drawn from it."""
    start, kinetic = with_momentum(phase, random)
    tally = Tally(kinetic - log_joint)
    # `first` is its past end, `last` its future one
    whole = Span.of(start, log_joint, tally.energy, 0.0)
    depth = 0
    while depth < most:
        forward = random.random() < 0.5
        near = whole if forward else whole.reversed()
        new = yield from grow(near.last, step_size if forward else -step_size, depth, random, tally)
        depth += 1
        if new is None:
            break
        gain = new.log_weight - whole.log_weight
        near = near.joined(new, gain >= 0.0 or random.random() < math.exp(gain))
        whole = near if forward else near.reversed()
        if near.turning:
            break
    acceptance = tally.acceptance / tally.steps
    return Outcome(whole.chosen, whole.value, whole.energy, acceptance, tally.steps, tally.diverging, depth)


@dataclass
class Tally:
    """What a trajectory counts.

    Attributes:
        energy: H where it began.
        steps: leapfrog steps.
        acceptance: Σ min(1, exp(H₀ − H)) over them.
        diverging: whether a step's energy error was beyond `MAX_ENERGY_ERROR`.
    """

    energy: float
    steps: int = 0
    acceptance: float = 0.0
    diverging: bool = False


class Span:
    """A piece of a trajectory, in the direction in which it was walked, and the state drawn from it.

    Attributes:
        first, last: phases of its ends, (3, D).
        rho: sum of its momenta, (D,).
        log_weight: ln Σ exp(H₀ − H).
        chosen, value, energy: the state drawn, its log joint and H.
        turning: whether it has turned back on itself.
    """

    __slots__ = ("chosen", "energy", "first", "last", "log_weight", "rho", "turning", "value")

    def __init__(self, first: np.ndarray, last: np.ndarray, rho: np.ndarray, log_weight: float) -> None:
        self.first, self.last, self.rho, self.log_weight = first, last, rho, log_weight
        self.turning = False
        self.chosen, self.value, self.energy = first, 0.0, 0.0

    @staticmethod
    def of(phase: np.ndarray, value: float, energy: float, log_weight: float) -> "Span":
        """A single state."""
        return Span(phase, phase, phase[MOMENTUM], log_weight).chose(phase, value, energy)

    def chose(self, phase: np.ndarray, value: float, energy: float) -> "Span":
        """Sets the state drawn."""
        self.chosen, self.value, self.energy = phase, value, energy
        return self

    def reversed(self) -> "Span":
        """The same, walked the other way."""
        return Span(self.last, self.first, self.rho, self.log_weight).chose(self.chosen, self.value, self.energy)

    def joined(self, new: "Span", take_new: bool) -> "Span":
        """The one and then `new`, with the state drawn from one of them."""
        rho = self.rho + new.rho
        high, low = self.log_weight, new.log_weight
        if low > high:
            high, low = low, high
        found = Span(self.first, new.last, rho, high + math.log1p(math.exp(low - high)))
        found.turning = _turning(self, new, rho)
        source = new if take_new else self
        return found.chose(source.chosen, source.value, source.energy)


def _turning(before: Span, after: Span, rho: np.ndarray) -> bool:
    first, last = before.first[MOMENTUM], after.last[MOMENTUM]
    if first.dot(rho) <= 0.0 or last.dot(rho) <= 0.0:
        return True
    if before.first is before.last and after.first is after.last:
        # of two single states the further checks are the same one
        return False
    nearest = after.first[MOMENTUM]
    extended = before.rho + nearest
    if first.dot(extended) <= 0.0 or nearest.dot(extended) <= 0.0:
        return True
    nearest = before.last[MOMENTUM]
    extended = after.rho + nearest
    return bool(nearest.dot(extended) <= 0.0 or last.dot(extended) <= 0.0)


def grow(
    edge: np.ndarray, step_size: float, depth: int, random: np.random.Generator, tally: Tally
) -> Generator[Request, Reply, Span | None]:
    """Walk 2^depth steps on from `edge`: the new half of a trajectory, or None if it diverges or turns on the way.

    Every pair of neighbouring halves of it, quarters and so on is checked as soon as it is complete, so what waits
    is one span per level.
    """
    waiting: list[Span] = []
    start: np.ndarray | None = edge
    for count in range(1, 2**depth + 1):
        reached, value, kinetic = yield start, step_size
        start = None
        energy = kinetic - value
        change = tally.energy - energy
        tally.steps += 1
        # NaN compares false
        if not change > -MAX_ENERGY_ERROR:
            tally.diverging = True
            return None
        tally.acceptance += 1.0 if change >= 0.0 else math.exp(change)
        span = Span.of(reached, value, energy, change)
        while not count & 1:
            count >>= 1
            before = waiting.pop()
            # P(new) = w_new / (w_before + w_new)
            odds = before.log_weight - span.log_weight
            take_new = odds < MAX_ENERGY_ERROR / 2 and random.random() * (1.0 + math.exp(odds)) < 1.0
            span = before.joined(span, take_new)
            if span.turning:
                return None
        waiting.append(span)
    return waiting[0]
