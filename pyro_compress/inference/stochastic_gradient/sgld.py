"""Stochastic gradient Langevin dynamics (Welling & Teh 2011).

    Δu = ε_t/2 ∇ log p(u) + N(0, ε_t T),      log p(u) = (N/n) Σ_i log p(y_i | x_i, u) + log p(u)

There is no accept step, so a finite ε leaves a bias: on a normal target of variance σ² and with full gradients, draws
have the variance σ² / (1 − ε / (4 σ²)); gradients with minibatch noise of variance V multiply that by 1 + ε V / 4.
With decreasing steps and weighted draws both errors vanish.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_compress.inference.stochastic_gradient.base import GradientChainState, PolynomialSteps


@dataclass(frozen=True)
class SGLD(PolynomialSteps):
    """Stochastic gradient Langevin dynamics; see the head of this module.

    ε/2 is N⁻¹ times the learning rate of SGD on the mean loss per example: the default starts as SGD at 0.1 would.

    Args:
        epochs, batch_size, chains, warmup, draws, temperature, spread, memory_limit_bytes: see `MinibatchChains`.
        a, b, gamma: of the step sizes, see `PolynomialSteps`.
    """

    def move(self, state: GradientChainState, gradient: Tensor, size: float, samples: bool) -> None:
        langevin(state, gradient, size * self.temperature, samples)


def langevin(state: GradientChainState, gradient: Tensor, size: float, samples: bool) -> None:
    """u ← u + ε/2 g + √ε ξ; the gradient of log p / T at ε = T ε_t is that of log p at ε_t with noise ε_t T."""
    state.position.add_(gradient, alpha=0.5 * size)
    if samples:
        state.sampled.add_(state.fresh_noise(), alpha=math.sqrt(size))
