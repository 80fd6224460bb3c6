"""Preconditioned SGLD (Li, Chen, Carlson & Carin 2016): Langevin steps scaled per parameter as RMSprop scales them.

    V ← α V + (1 − α) ḡ∘ḡ,   G = 1 / (λ + √V),   Δu = ε_t/2 G ∇ log p(u) + N(0, ε_t T G)

with ḡ the gradient of the log joint per example, ∇ log p / N, and V divided by 1 − α^t as Adam does, so that first
steps are not ten times too long.  The paper's term Γ = ∂G/∂u is left out, as the paper does too.  By default G is
learned in the warm-up and then stays, so that Γ = 0 and no error comes of that.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import DefaultFloat
from pyro_compress.inference.stochastic_gradient.base import GradientChainState, PolynomialSteps


@dataclass(frozen=True)
class PreconditionedSGLD(PolynomialSteps):
    """Preconditioned SGLD; see the head of this module.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a, b, gamma: of the step sizes, see `PolynomialSteps`; a/2 (b + t)^−γ is RMSprop's learning rate.
        decay: α in [0, 1), of the running mean of squared gradients.
        damping: λ > 0, bounds G by 1/λ.
        freeze: keep G as it is at the end of the warm-up; otherwise it adapts all along, as in the paper, and draws
            have a bias that no step size removes.
    """

    a: float = DefaultFloat(0.02)
    decay: float = 0.99
    damping: float = 1e-5
    freeze: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.decay < 1 and self.damping > 0):
            raise InferenceError(
                f"PreconditionedSGLD needs decay in [0, 1) and damping > 0; found decay={self.decay}, "
                f"damping={self.damping}"
            )
        if self.freeze and self.warmup == 0:
            raise InferenceError(
                "PreconditionedSGLD(freeze=True) learns its preconditioner in the warm-up: give warmup > 0, or "
                "freeze=False"
            )

    def state(self, *arguments: Any, **keywords: Any) -> "PreconditionedState":
        return PreconditionedState(*arguments, **keywords)

    def scale_of(self, precision: Tensor, size: int) -> Tensor:
        # of draws of the posterior E g² is the precision's diagonal
        return size / precision.diagonal().sqrt()

    def langevin_step(self, state: "PreconditionedState", size: float) -> Tensor:
        return size * state.scale.mean(0)

    def move(self, state: "PreconditionedState", gradient: Tensor, size: float, samples: bool) -> None:
        # steps_done already counts this step
        if not self.freeze or state.averaged == 0 or state.steps_done <= state.warmup:
            self._average(state, gradient)
        scale, root = state.scale, state.scale.sqrt() if state.root is None else state.root
        state.root = root
        size = size * self.temperature
        state.position.addcmul_(scale, gradient, value=0.5 * size)
        if samples:
            where = state.log_joint.latents
            state.sampled.addcmul_(root[:, where], state.fresh_noise(), value=math.sqrt(size))

    def _average(self, state: "PreconditionedState", gradient: Tensor) -> None:
        per_example = self.temperature / max(1, state.log_joint.size)
        state.averaged += 1
        state.squares.mul_(self.decay).addcmul_(gradient, gradient, value=(1 - self.decay) * per_example**2)
        corrected = state.squares / (1 - self.decay**state.averaged)
        state.scale = corrected.sqrt_().add_(self.damping).reciprocal_()
        state.root = None


class PreconditionedState(GradientChainState):
    """Adds V, per chain, and G, which follows from it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.squares = torch.zeros_like(self.position)
        self.scale = torch.ones_like(self.position)
        self.root: Tensor | None = None
        self.averaged = 0

    def capture(self) -> dict[str, Any]:
        extra = {"squares": self.squares.clone(), "scale": self.scale.clone(), "averaged": self.averaged}
        return {**super().capture(), **extra}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.squares, self.scale = captured["squares"].clone(), captured["scale"].clone()
        self.averaged, self.root = captured["averaged"], None
