"""Hard-concrete gates and the cost of an open one (L0 regularisation, Louizos et al. 2018)."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_compress.errors import InferenceError
from pyro_compress.models.gates.bernoulli import logistic_noise
from pyro_compress.posterior.families import BETA, GAMMA, ZETA

# ln α at which the gate that predicts becomes zero, and P(z ≠ 0) there
CLOSED = math.log(-GAMMA / ZETA)
LEAST_OPEN = 1 / (1 + math.exp(-(CLOSED - BETA * CLOSED)))
_NODES = [(float(t), float(w)) for t, w in zip(*np.polynomial.legendre.leggauss(16), strict=True)]


class HardConcrete(TorchDistribution):
    """z = min(1, max(0, s (ζ − γ) + γ)),  s = σ((ln u − ln(1 − u) + ln α) / β),  u uniform; an atom at 0 and one at 1.

    P(z > t) = σ(ln α − β ln((t − γ) / (ζ − t))) for 0 ≤ t < 1.

    Args:
        log_alpha: ln α.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, log_alpha: torch.Tensor) -> None:
        self.log_alpha = log_alpha
        super().__init__(log_alpha.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "HardConcrete":
        return HardConcrete(self.log_alpha.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        soft = torch.sigmoid((logistic_noise(shape, self.log_alpha) + self.log_alpha) / BETA)
        return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Refused: there is no density at an atom.

        Raises:
            InferenceError: always.
        """
        raise InferenceError(
            "hard-concrete gates have no density, since they are often exactly 0 or 1: methods that sample the "
            "complexity cannot use them; fit SVI(estimator='local') or 'shared'"
        )

    def above(self, t: float) -> torch.Tensor:
        """P(z > t) for 0 ≤ t < 1."""
        return torch.sigmoid(self.log_alpha - BETA * math.log((t - GAMMA) / (ZETA - t)))

    @property
    def open_probability(self) -> torch.Tensor:
        """P(z ≠ 0)."""
        return self.above(0.0)

    @property
    def at_prediction(self) -> torch.Tensor:
        """min(1, max(0, σ(ln α) (ζ − γ) + γ)), which predicts in the paper: exactly zero up to ln α = ln(−γ/ζ)."""
        return (torch.sigmoid(self.log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    @property
    def mean(self) -> torch.Tensor:
        """E z = ∫ P(z > t) dt over [0, 1], by Gauss-Legendre quadrature."""
        return sum((0.5 * w * self.above(0.5 * (t + 1)) for t, w in _NODES), torch.zeros_like(self.log_alpha))

    @property
    def variance(self) -> torch.Tensor:
        """E z² = ∫ 2t P(z > t) dt, less (E z)²."""
        parts = (0.5 * w * (t + 1) * self.above(0.5 * (t + 1)) for t, w in _NODES)
        return (sum(parts, torch.zeros_like(self.log_alpha)) - self.mean.square()).clamp(min=0)


class OpenGateCost(TorchDistribution):
    """z is 0 with probability 1 / (1 + e^(−cost)), else uniform on (0, 1]: every open gate costs so many nats more.

    Against hard-concrete gates it counts with E[−ln p(z)] = cost · P(z ≠ 0) + ln(1 + e^(−cost)), and not with a KL: the
    gates' entropy is left out, as in the paper.

    Args:
        cost: nats, more than 0.
        shape: batch shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, cost: float, shape: Any = ()) -> None:
        self.cost = cost
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OpenGateCost":
        return OpenGateCost(self.cost, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        closed = torch.rand(shape) < 1 / (1 + math.exp(-self.cost))
        return torch.where(closed, 0.0, 1 - torch.rand(shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Of the atom at 0 its probability, elsewhere the density."""
        return -self.cost * (value != 0) - self.log_normaliser

    @property
    def log_normaliser(self) -> float:
        """ln(1 + e^(−cost))."""
        return math.log1p(math.exp(-self.cost))


@register_kl(HardConcrete, OpenGateCost)
def _cost_of_open_gates(q: HardConcrete, p: OpenGateCost) -> torch.Tensor:
    return p.cost * q.open_probability + p.log_normaliser
