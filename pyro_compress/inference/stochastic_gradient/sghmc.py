"""Stochastic gradient Hamiltonian Monte Carlo with friction (Chen, Fox & Guestrin 2014, eq. 15).

    v ← (1 − α) v + η_t ∇ log p(u) + N(0, 2 (α − β̂) η_t T),      u ← u + v

α is the friction, β̂ an estimate of what minibatch noise adds: gradients of variance V ask for β̂ = η V / 2.  For small
steps this is SGLD with ε = 2 η / α.  On a normal target of variance σ² and with full gradients and β̂ = 0 draws have
the variance σ² / (1 − η / (2 σ² (2 − α))).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import DefaultFloat
from pyro_compress.inference.stochastic_gradient.base import (
    GradientChainState,
    PolynomialSteps,
    StochasticGradientChains,
)


@dataclass(frozen=True)
class Friction(StochasticGradientChains):
    """Moves with a velocity.

    Args:
        friction: α in (0, 1]; 1 − α is the momentum.
        noise_estimate: β̂ in [0, α).
    """

    friction: float = 0.1
    noise_estimate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.friction <= 1 and 0 <= self.noise_estimate < self.friction):
            raise InferenceError(
                f"{type(self).__name__} needs friction in (0, 1] and noise_estimate in [0, friction); found "
                f"friction={self.friction}, noise_estimate={self.noise_estimate}"
            )

    def state(self, *arguments: Any, **keywords: Any) -> "VelocityState":
        return VelocityState(*arguments, **keywords)

    def step_within(self, share: float, curvature: float) -> float:
        return 2 * share * (2 - self.friction) / curvature

    def memory(self, step: float, curvature: float) -> float:
        # slow directions creep with ε = 2 η / α, fast ones swing and forget their velocity
        return max(2 * self.friction / (step * curvature), 4 / self.friction)

    def langevin_step(self, state: Any, size: float) -> Tensor:
        # σ² / (1 − η / (2 σ² (2 − α)))
        return torch.tensor(2 * size / (2 - self.friction))

    def batch_noise(self, state: Any, size: float) -> tuple[Tensor, float]:
        # 2 (α − β̂) η is drawn, η² V comes with the gradients, and 2 α η is right
        return torch.tensor(size / (2 * self.friction)), self.noise_estimate / self.friction

    def move(self, state: "VelocityState", gradient: Tensor, size: float, samples: bool) -> None:
        size = size * self.temperature
        state.velocity.mul_(1 - self.friction).add_(gradient, alpha=size)
        if samples:
            share = 2 * (self.friction - self.noise_estimate)
            state.velocity[:, state.log_joint.latents].add_(state.fresh_noise(), alpha=math.sqrt(share * size))
        state.position.add_(state.velocity)


@dataclass(frozen=True)
class SGHMC(PolynomialSteps, Friction):
    """Stochastic gradient HMC; see the head of this module.

    η is N⁻¹ times the learning rate of SGD with momentum 1 − α on the mean loss per example: the default starts as
    0.01 would.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a, b, gamma: of the step sizes η_t, see `PolynomialSteps`.
        friction, noise_estimate: α and β̂.
    """

    a: float = DefaultFloat(0.1)


class VelocityState(GradientChainState):
    """Adds v, at rest at the start."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.velocity = torch.zeros_like(self.position)

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "velocity": self.velocity.clone()}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.velocity = captured["velocity"].clone()
