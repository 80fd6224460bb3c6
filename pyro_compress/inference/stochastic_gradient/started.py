"""What samplers on batches do with a Pyro model where nothing is set: step, length and start from the best normal fit.

Its covariance Σ says what the step may be, since the smallest variance bounds it, and how long the chain must be, since
the largest says how many steps it takes to forget.  With H = Σ⁻¹ and G what the method scales its steps by,

    ε = 4 δ / λ_max(G^½ H G^½),    δ the share by which the smallest variance may be too large,

and a chain is some hundred times as long as its slowest direction remembers.  All the data at every step, chains that
start at draws of the fit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Method, Model, State
from pyro_compress.inference.defaults.best_normal import BestNormal
from pyro_compress.inference.log_joint.whole_data import whole_data_of
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

if TYPE_CHECKING:
    from pyro_compress.inference.stochastic_gradient.base import StochasticGradientChains

SHARE = 0.04
MEMORIES, LEAST_STEPS, MOST_STEPS = 130, 2000, 20_000
MOST_EXAMPLES = 2**30  # that all steps together look at
CHAINS, WARMUP = 4, 0.2


@dataclass(frozen=True)
class Started(Method):
    """A sampler whose chains start where they are told.

    Args:
        sampler: with the settings that were chosen.
        positions: (chain, D), in unconstrained space.
    """

    sampler: "StochasticGradientChains"
    positions: Tensor

    @property
    def rounds(self) -> int:
        return self.sampler.rounds

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return self.sampler.batches(feed, seed, round)

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> State:
        state = self.sampler.init(model, size, seed, held)
        state.position.copy_(self.positions)
        return state

    def step(self, state: Any, batch: Batch) -> Info:
        return self.sampler.step(state, batch)

    def draw(self, state: Any) -> Posterior:
        return self.sampler.draw(state)

    def draw_for_validation(self, state: Any) -> Posterior:
        return self.sampler.draw_for_validation(state)


def best_normal(model: Model, feed: Feed) -> tuple[Tensor, Tensor] | None:
    """(mean, root of the covariance) of the best normal guide; None where it cannot be had."""
    whole = whole_data_of(model, feed)
    if whole is None or whole.points < 4 * whole.log_joint.width:
        return None
    assert isinstance(model, Program)
    fit = BestNormal(independent=False)
    state = fit.init(model, feed.size, 0)
    try:
        for _ in range(fit.rounds):
            fit.step(state, feed.tensors)
            if fit.finished(state):
                break
    except InferenceError:
        return None
    assert state.mean is not None and state.root is not None
    return state.mean, state.root


def started(sampler: "StochasticGradientChains", model: Model, feed: Feed) -> Method:
    """The sampler with step, length and starts of its own; itself where they cannot be had."""
    found = best_normal(model, feed)
    if found is None:
        return sampler
    mean, root = found
    precision = torch.linalg.inv(root @ root.T)
    scale = sampler.scale_of(precision, feed.size).sqrt()
    curvatures = torch.linalg.eigvalsh(scale[:, None] * precision * scale)
    largest, least = float(curvatures[-1]), float(curvatures[0])
    step = sampler.step_within(SHARE, largest)
    needed = math.ceil(MEMORIES * sampler.memory(step, least) / (1 - WARMUP))
    steps = max(LEAST_STEPS, min(needed, MOST_STEPS, MOST_EXAMPLES // max(1, feed.size)))
    noise = torch.randn(CHAINS, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = sampler.with_step(step * max(1, feed.size), epochs=steps, batch_size=max(1, feed.held))
    return Started(chosen, (mean + noise @ root.T).float())
