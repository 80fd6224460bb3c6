"""One leapfrog step of every chain at once: what Hamiltonian samplers ask for.

    r ← r + ½ ε Sᵀ ∇L(q);   q ← q + ε S r;   r ← r + ½ ε Sᵀ ∇L(q)

L is the log joint, S Sᵀ the inverse mass matrix and r the whitened momentum, so the energy is −L(q) + ½ rᵀr (Neal 2011,
section 5.2).  ε is signed: trees grow backwards in time too; a chain whose ε is 0 stays where it is, bit for bit.
"""

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from pyro_compress.errors import InferenceError, warn
from pyro_compress.inference.log_joint.flat_sites import in_precision
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.speed.compiling import Function, compiled
from pyro_compress.inference.speed.graph_passes import simplify
from pyro_compress.inference.speed.recording import record
from pyro_compress.models.failures import FAILURES, described

# rows of a phase, (3, D)
POSITION, MOMENTUM, GRADIENT = 0, 1, 2

# Where to step from, or None to go on from where the chain is, and the signed step size.
Request = tuple[np.ndarray | None, float]
# The phase after the step, log joint and kinetic energy there; the phase must not be written to.
Reply = tuple[np.ndarray, float, float]


class Leapfrog:
    """Steps of all chains on all the data.

    Args:
        log_joint: L.
        batch: all the data.
        scale: S of every chain, (chain, D) or (chain, D, D).
        compile_it: by inductor, which takes seconds and makes every step cheaper.
    """

    def __init__(self, log_joint: LogJoint, batch: Batch, scale: np.ndarray, *, compile_it: bool = False) -> None:
        self.log_joint, self.batch = log_joint, in_precision(batch, log_joint.dtype)
        self._scale = torch.from_numpy(scale).to(log_joint.dtype)
        self._function = self._built(compile_it)

    @property
    def chains(self) -> int:
        return len(self._scale)

    def set_scale(self, chain: int, scale: np.ndarray) -> None:
        """S of one chain."""
        self._scale[chain] = torch.from_numpy(scale).to(self._scale.dtype)

    def __call__(self, phase: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Advance.

        Args:
            phase: (chain, 3, D): position, momentum, gradient.
            step: (chain,), ε.

        Returns:
            (phase, (chain, 4) of log joint, kinetic energy, data and prior as in `Evaluation`).
        """
        with torch.no_grad():
            try:
                after, energies = self._function(phase, step, self._scale)
                return after, energies
            except FAILURES as error:
                self.log_joint.failure = described(error)
            except RuntimeError:
                self.log_joint.run_alone()
                self._function = self._built(compile_it=False)
            each = [self._alone(phase[c : c + 1], step[c : c + 1], self._scale[c : c + 1]) for c in range(self.chains)]
        return torch.cat([after for after, _ in each]), torch.cat([energies for _, energies in each])

    def _alone(self, phase: Tensor, step: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """One chain's step; where L cannot be computed the chain stays, and the log joint of the point is NaN."""
        try:
            return self._step(phase, step, scale, *self.batch)
        except FAILURES as error:
            self.log_joint.failure = described(error)
            return phase, torch.full((1, 4), torch.nan, dtype=phase.dtype)

    def evaluate(self, position: Tensor) -> Evaluation:
        """The log joint where every chain is, (chain, D): a step of size 0."""
        rest = torch.zeros_like(position)
        phase, energies = self(torch.stack([position, rest, rest], 1), torch.zeros(self.chains, dtype=position.dtype))
        return Evaluation(energies[:, 0], phase[:, GRADIENT], energies[:, 2], energies[:, 3])

    def _step(self, phase: Tensor, step: Tensor, scale: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        position, momentum, gradient = phase.unbind(1)
        size = step[:, None]
        if scale.ndim == 2:
            momentum = momentum + 0.5 * size * scale * gradient
            position = position + size * scale * momentum
        else:
            momentum = momentum + 0.5 * size * torch.einsum("cij,ci->cj", scale, gradient)
            position = position + size * torch.einsum("cij,cj->ci", scale, momentum)
        value, gradient, data, prior = self.log_joint.evaluate(position, *batch)
        whitened = scale * gradient if scale.ndim == 2 else torch.einsum("cij,ci->cj", scale, gradient)
        momentum = momentum + 0.5 * size * whitened
        kinetic = 0.5 * momentum.square().sum(1)
        return torch.stack([position, momentum, gradient], 1), torch.stack([value, kinetic, data, prior], 1)

    def _built(self, compile_it: bool) -> Function:
        def function(phase: Tensor, step: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            # the data are constants of the graph, and what follows from them alone is worked out once
            return self._step(phase, step, scale, *self.batch)

        if not self.log_joint.replay:
            return function
        phase = self.log_joint.example.to(self._scale.dtype).expand(self.chains, 3, -1).contiguous()
        examples = (phase, torch.zeros(self.chains, dtype=phase.dtype), self._scale)
        try:
            with torch.no_grad():
                graph = simplify(record(function, examples, self.log_joint.model))
        except InferenceError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            warn(f"the model cannot be traced and runs eagerly, which is slower ({reason})")
            return function
        return compiled(graph, examples) if compile_it else graph


def drive(leapfrog: Leapfrog, walks: dict[int, Generator[Request, Reply, None]]) -> int:
    """Run one generator per chain to its end; a step that several ask for is taken once, for all of them.

    No chain waits for another: one that has ended stays where it is while the rest go on.

    Args:
        leapfrog: takes the steps.
        walks: by chain.

    Returns:
        How often all chains stepped.
    """
    chains, width, dtype = leapfrog.chains, leapfrog.log_joint.width, leapfrog.log_joint.dtype
    phase = torch.zeros(chains, 3, width, dtype=dtype)
    step = torch.zeros(chains, dtype=dtype)
    phases, steps = phase.numpy(), step.numpy()
    active = []
    for chain, walk in walks.items():
        start, steps[chain] = next(walk)
        if start is None:
            raise ValueError("a chain's first step has nowhere to go on from")
        phases[chain] = start
        active.append((chain, walk))
    calls = 0
    while active:
        calls += 1
        after, energies = leapfrog(phase, step)
        reached, values = after.numpy(), energies.tolist()
        np.copyto(phases, reached)
        ended = set()
        for chain, walk in active:
            value, kinetic, _, _ = values[chain]
            try:
                start, steps[chain] = walk.send((reached[chain], value, kinetic))
            except StopIteration:
                steps[chain] = 0.0
                ended.add(chain)
                continue
            if start is not None:
                phases[chain] = start
        if ended:
            active = [(chain, walk) for chain, walk in active if chain not in ended]
    return calls
