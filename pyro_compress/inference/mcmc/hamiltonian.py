"""What HMC and NUTS share: chains that walk by leapfrog steps, momenta, warm-up, statistics.

A chain's walk is a generator that asks for leapfrog steps; `leapfrog.drive` serves all chains with one batched
gradient.  Each chain has its own numpy generator, its own step size and its own mass matrix, so what it does depends
on no other chain and on no batching.
"""

import json
from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.chains.chains import ChainState, TransitionChains, info_of
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.log_joint.chain_starts import start_positions
from pyro_compress.inference.log_joint.flat_sites import in_precision
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.mcmc.adaptation import Adaptation
from pyro_compress.inference.mcmc.leapfrog import POSITION, Leapfrog, Reply, Request, drive
from pyro_compress.inference.mcmc.trajectories import Outcome, Walk, search_step_size

# so many leapfrog steps of all chains are worth the seconds that compiling takes
COMPILE_FROM_STEPS = 50_000
MASSES = ("diagonal", "dense", "identity")
PRECISIONS = {"single": torch.float32, "double": torch.float64}


@dataclass(frozen=True)
class HamiltonianChains(TransitionChains):
    """Base of HMC and NUTS.

    Args:
        chains, warmup, draws, thin, temperature, spread, memory_limit_bytes: see `TransitionChains`.
        step_size: ε at the start; None looks for one.
        target_acceptance: acceptance statistic that ε adapts to in the warm-up; 0 leaves ε as it is.
        mass: what the warm-up learns of the posterior's shape: 'diagonal', 'dense' or 'identity' (nothing).
        precision: of log joint and gradient, 'single' or 'double'; double where energies beyond 10⁶ nats meet.
        compile: 'always', 'never', or 'auto': gradients are compiled by inductor as soon as the trajectories so far
            say that at least `COMPILE_FROM_STEPS` steps are left.
    """

    step_size: float | None = None
    target_acceptance: float = 0.8
    mass: str = "diagonal"
    precision: str = "single"
    compile: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if (self.step_size is not None and not self.step_size > 0) or not 0 <= self.target_acceptance < 1:
            raise InferenceError(
                f"{name} needs step_size > 0 and target_acceptance in [0, 1); found step_size={self.step_size}, "
                f"target_acceptance={self.target_acceptance}"
            )
        for field, known in (
            ("mass", MASSES),
            ("precision", tuple(PRECISIONS)),
            ("compile", ("auto", "always", "never")),
        ):
            if getattr(self, field) not in known:
                raise InferenceError(f"{name}: {field} is one of {', '.join(known)}; found {getattr(self, field)!r}")

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        """All the data once: a step is a block of `per_round` transitions, in which no chain waits for another."""
        return iter([feed.tensors])

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "HamiltonianState":
        log_joint = self.log_joint(model, size, PRECISIONS[self.precision])
        return HamiltonianState(
            self, model, log_joint, start_positions(log_joint, self.chains, self.spread, self.start)
        )

    def step(self, state: "HamiltonianState", batch: Batch) -> Info:
        """A block of transitions of every chain.

        Raises:
            InferenceError: the log joint is not finite where a chain starts, or no step size is small enough.
        """
        count = max(1, min(self.per_round, self.transitions - state.steps_done))
        state.compiled = state.compiled or self._worth_compiling(state)
        if state.phase is None:
            state.move_to_finite_starts(in_precision(batch, state.log_joint.dtype), self)
        leapfrog = state.leapfrog(batch)
        if state.phase is None:
            state.begin(leapfrog)
        block = _Block.of(state, count)
        state.calls += drive(
            leapfrog, {chain: self._walk(state, leapfrog, block, chain) for chain in range(self.chains)}
        )
        state.finish_block(torch.from_numpy(block.positions), block.statistics)
        return block.info(leapfrog.evaluate(state.position))

    def _worth_compiling(self, state: "HamiltonianState") -> bool:
        """By counts and not by the clock, so that a run is the same wherever it runs and after an interruption."""
        if self.compile != "auto" or not state.steps_done:
            return False
        left = self.transitions - state.steps_done
        return state.calls * left >= COMPILE_FROM_STEPS * state.steps_done

    def _walk(
        self, state: "HamiltonianState", leapfrog: Leapfrog, block: "_Block", chain: int
    ) -> Generator[Request, Reply, None]:
        """One chain's transitions of the block."""
        adaptation, random = state.adaptations[chain], state.randoms[chain]
        phase, log_joint = state.phase[chain], state.present[chain]
        for index in range(block.count):
            if adaptation.search_due:
                where = f"chain {chain}, transition {state.steps_done + index}"
                found = yield from search_step_size(phase, log_joint, adaptation.step_size, random, where)
                adaptation.found(found)
            step_size = adaptation.step_size
            walk = self.explore if adaptation.is_learning_mass else self.transition
            outcome = yield from walk(phase, log_joint, step_size, random)
            phase, log_joint = outcome.phase, outcome.log_joint
            block.note(chain, index, outcome, step_size)
            self._tell(state, block, chain, index)
            if adaptation.learn(outcome.acceptance, phase[POSITION]):
                leapfrog.set_scale(chain, adaptation.scale)
        state.phase[chain], state.present[chain] = phase, log_joint

    def _tell(self, state: "HamiltonianState", block: "_Block", chain: int, index: int) -> None:
        done = state.steps_done + index + 1
        state.divergences[chain] += done > state.warmup and bool(block.statistics["diverging"][index, chain])
        if state.watch.is_due(chain, done):
            numbers = block.so_far(chain, index) | {"divergences": float(state.divergences[chain])}
            state.watch.tell(chain, done, done <= state.warmup, numbers)

    def explore(self, phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator) -> Walk:
        """As `transition`, while the mass matrix is being learned."""
        return self.transition(phase, log_joint, step_size, random)

    @abstractmethod
    def transition(self, phase: np.ndarray, log_joint: float, step_size: float, random: np.random.Generator) -> Walk:
        """One transition from `phase`, which is not written to: asks for leapfrog steps, returns an `Outcome`."""


class HamiltonianState(ChainState):
    """Adds, per chain, gradient and log joint where it is, its adaptation and its random numbers.

    Attributes:
        calls: leapfrog steps of all chains together so far.
        divergences: transitions of each chain after the warm-up that diverged, (chain,).
        compiled: whether they are compiled.
    """

    def __init__(self, method: HamiltonianChains, model: Model, log_joint: LogJoint, position: Tensor) -> None:
        super().__init__(
            model,
            log_joint,
            position,
            warmup=method.warmup,
            thin=method.thin,
            capacity=method.draws,
            noted=("lp", "acceptance_rate", "step_size", "n_steps", "diverging", "energy", "tree_depth"),
            limit_bytes=method.memory_limit_bytes,
        )
        self.adaptations = [
            Adaptation(log_joint.width, method.warmup, method.step_size, method.target_acceptance, method.mass)
            for _ in range(method.chains)
        ]
        seeds = torch.randint(2**62, (method.chains,)).tolist()
        self.randoms = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self.phase: Any = None
        self.present = np.zeros(method.chains)
        self.calls, self.compiled = 0, method.compile == "always"
        self.divergences = np.zeros(method.chains, np.int64)
        self._leapfrog: Leapfrog | None = None
        self._leapfrog_compiled = False

    def leapfrog(self, batch: Batch) -> Leapfrog:
        """Made for the data that it first sees; all steps see the same."""
        if self._leapfrog is None or self._leapfrog_compiled != self.compiled:
            scales = np.stack([adaptation.scale for adaptation in self.adaptations])
            self.log_joint.example = self.position[0].to(self.log_joint.dtype)
            self._leapfrog = Leapfrog(self.log_joint, batch, scales, compile_it=self.compiled)
            self._leapfrog_compiled = self.compiled
        return self._leapfrog

    def begin(self, leapfrog: Leapfrog) -> None:
        """Log joint and gradient where the chains start."""
        position = self.position.to(self.log_joint.dtype)
        evaluation = leapfrog.evaluate(position)
        rows = torch.stack([position, torch.zeros_like(position), evaluation.gradient], 1)
        self.phase, self.present = rows.numpy().copy(), evaluation.log_joint.double().numpy()

    def capture(self) -> dict[str, Any]:
        found = {
            **super().capture(),
            "calls": self.calls,
            "divergences": torch.from_numpy(self.divergences.copy()),
            "compiled": self.compiled,
            "adaptations": [adaptation.capture() for adaptation in self.adaptations],
            # a generator's state holds integers of 128 bits
            "randoms": [json.dumps(random.bit_generator.state) for random in self.randoms],
        }
        if self.phase is not None:
            found["phase"] = torch.from_numpy(self.phase.copy())
            found["present"] = torch.from_numpy(self.present.copy())
        return found

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.calls, self.compiled = captured["calls"], captured["compiled"]
        self.divergences = captured["divergences"].numpy().copy()
        for chain, adaptation in enumerate(self.adaptations):
            adaptation.restore(captured["adaptations"][chain])
            self.randoms[chain].bit_generator.state = json.loads(captured["randoms"][chain])
            if self._leapfrog is not None:
                self._leapfrog.set_scale(chain, adaptation.scale)
        self.phase = captured["phase"].numpy().copy() if "phase" in captured else None
        if self.phase is not None:
            self.present = captured["present"].numpy().copy()


@dataclass
class _Block:
    """What a block of transitions leaves behind.

    Attributes:
        count: transitions.
        positions: (transition, chain, D).
        statistics: (transition, chain) each, by ArviZ's names.
    """

    count: int
    positions: np.ndarray
    statistics: dict[str, np.ndarray]

    @staticmethod
    def of(state: HamiltonianState, count: int) -> "_Block":
        chains = len(state.position)
        positions = np.zeros((count, chains, state.log_joint.width), state.phase.dtype)
        return _Block(count, positions, {name: np.zeros((count, chains)) for name in state.store.statistics})

    def note(self, chain: int, index: int, outcome: Outcome, step_size: float) -> None:
        self.positions[index, chain] = outcome.phase[POSITION]
        for name, value in (
            ("lp", outcome.log_joint),
            ("acceptance_rate", outcome.acceptance),
            ("step_size", step_size),
            ("n_steps", outcome.steps),
            ("diverging", outcome.diverging),
            ("energy", outcome.energy),
            ("tree_depth", outcome.depth),
        ):
            self.statistics[name][index, chain] = value

    def so_far(self, chain: int, index: int) -> dict[str, float]:
        """Of one chain: means over its transitions of the block, and its present step size."""
        seen = {name: values[: index + 1, chain] for name, values in self.statistics.items()}
        means = {name: float(seen[name].mean()) for name in ("acceptance_rate", "n_steps")}
        return means | {"step_size": float(seen["step_size"][-1])}

    def info(self, last: Evaluation) -> Info:
        """Means over the block; data and prior are those of its last positions."""
        watched = ("acceptance_rate", "n_steps", "diverging")
        extra = {name: float(self.statistics[name].mean()) for name in watched}
        return info_of(last, float(self.statistics["step_size"][-1].mean()), **extra)
