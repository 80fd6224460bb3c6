"""Gates that are 0 or 1, with the gradient of a concrete relaxation, and the priors they go with."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch.distributions import Bernoulli, constraints
from torch.distributions.kl import register_kl
from torch.special import log_ndtr

# of the relaxation that gradients go through (Maddison et al. 2017)
TEMPERATURE = 2 / 3


def logistic_noise(shape: Any, like: torch.Tensor) -> torch.Tensor:
    """ln u − ln(1 − u) for uniform u = Φ(ε), made of normal numbers ε, which a run draws from one stream."""
    noise = torch.randn(shape, dtype=like.dtype, device=like.device)
    return log_ndtr(noise) - log_ndtr(-noise)


class BernoulliGate(TorchDistribution):
    """z = 1 with probability θ = 1/(1 + e^(−logits)), else 0.

    Draws are exact, z = [ln u − ln(1 − u) + logits > 0]; their gradient is that of the concrete relaxation
    σ((ln u − ln(1 − u) + logits) / T) at the same u (straight through; Bengio et al. 2013, Jang et al. 2017), which is
    biased.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.boolean
    has_rsample = True

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BernoulliGate":
        return BernoulliGate(self.logits.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        above = logistic_noise(shape, self.logits) + self.logits
        soft = torch.sigmoid(above / TEMPERATURE)
        return (above > 0).to(soft.dtype) + (soft - soft.detach())

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return value * F.logsigmoid(self.logits) + (1 - value) * F.logsigmoid(-self.logits)

    def entropy(self) -> torch.Tensor:
        return F.softplus(self.logits) - self.logits * self.mean

    @property
    def mean(self) -> torch.Tensor:
        """θ."""
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> torch.Tensor:
        """θ (1 − θ)."""
        return self.mean * torch.sigmoid(-self.logits)


class BetaBernoulli(TorchDistribution):
    """z ~ Bernoulli(θ) with θ ~ Beta(alpha, beta), one θ for every z: P(z = 1) = alpha / (alpha + beta).

    Against a `BernoulliGate` it counts with −ln Beta(θ; alpha, beta) of the gate's own θ: the MAP estimate of θ.  At a
    sample it would count as Bernoulli(alpha / (alpha + beta)), which is another model, so that it has none.
    """

    sampled_complexity: ClassVar[bool] = False

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.boolean
    has_rsample = False

    def __init__(self, alpha: float, beta: float, shape: Any = ()) -> None:
        self.alpha, self.beta = alpha, beta
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BetaBernoulli":
        return BetaBernoulli(self.alpha, self.beta, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return (torch.rand(shape) < self.alpha / (self.alpha + self.beta)).to(torch.get_default_dtype())

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return torch.log(value * self.alpha + (1 - value) * self.beta) - math.log(self.alpha + self.beta)

    def density_of_rate(self, logits: torch.Tensor) -> torch.Tensor:
        """ln Beta(θ; alpha, beta), elementwise nats, from the logits of θ."""
        constant = math.lgamma(self.alpha + self.beta) - math.lgamma(self.alpha) - math.lgamma(self.beta)
        return constant + (self.alpha - 1) * F.logsigmoid(logits) + (self.beta - 1) * F.logsigmoid(-logits)


@register_kl(BernoulliGate, BetaBernoulli)
def _map_of_rate(q: BernoulliGate, p: BetaBernoulli) -> torch.Tensor:
    return -p.density_of_rate(q.logits)


@register_kl(BernoulliGate, Bernoulli)
def _kl_bernoulli_gate(q: BernoulliGate, p: Bernoulli) -> torch.Tensor:
    """θ ln(θ/π) + (1 − θ) ln((1 − θ)/(1 − π)), elementwise nats."""
    cross = q.mean * F.logsigmoid(p.logits) + (1 - q.mean) * F.logsigmoid(-p.logits)
    return -q.entropy() - cross
