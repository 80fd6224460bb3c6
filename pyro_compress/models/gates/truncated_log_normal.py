"""Truncated log-normal and log-uniform distributions on one interval (structured Bayesian pruning).

All in float64: tails of the normal distribution on either side of the interval count.
"""

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.special import log_ndtr, ndtri

from pyro_compress.posterior.families import HIGH, LOW


class LogUniformBetween(TorchDistribution):
    """p(x) = 1 / ((high − low) x) for e^low ≤ x ≤ e^high.

    Args:
        shape: batch shape.
        low, high: bounds of ln x.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, shape: Any = (), low: float = LOW, high: float = HIGH) -> None:
        self.low, self.high = low, high
        super().__init__(torch.Size(shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return constraints.interval(math.exp(self.low), math.exp(self.high))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogUniformBetween":
        return LogUniformBetween(batch_shape, self.low, self.high)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        uniform = torch.rand(self._extended_shape(torch.Size(sample_shape)))
        return torch.exp(self.low + (self.high - self.low) * uniform)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        logarithm = torch.log(value)
        inside = (logarithm >= self.low - 1e-5) & (logarithm <= self.high + 1e-5)
        return torch.where(inside, -logarithm - math.log(self.high - self.low), -math.inf)


class TruncatedLogNormal(TorchDistribution):
    """ln x ~ N(loc, scale²) given that low ≤ ln x ≤ high.

    With a = (low − loc)/scale, b = (high − loc)/scale and Z = Φ(b) − Φ(a),

        E x^t = exp(t·loc + t²·scale²/2) (Φ(b − t·scale) − Φ(a − t·scale)) / Z.

    Args:
        loc: at least `low` and at most some 30 scales beyond `high`, for Z to be a number.
        scale: of ln x before it is truncated.
        low, high: bounds of ln x.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, loc: torch.Tensor, scale: torch.Tensor, low: float = LOW, high: float = HIGH) -> None:
        self.loc, self.scale, self.low, self.high = loc, scale, low, high
        self._loc, self._scale = loc.double(), scale.double()
        self._a, self._b = (low - self._loc) / self._scale, (high - self._loc) / self._scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return constraints.interval(math.exp(self.low), math.exp(self.high))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "TruncatedLogNormal":
        return TruncatedLogNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.low, self.high)

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        """By inversion; uniform numbers are Φ of normal ones, which a run draws from one stream."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = _phi_below(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).double())
        below = _phi_below(self._a)
        logarithm = self._loc + self._scale * ndtri(below + uniform * (_phi_below(self._b) - below))
        return torch.exp(logarithm.clamp(self.low, self.high)).to(self.loc.dtype)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        logarithm = torch.log(value.double())
        inside = (logarithm >= self.low - 1e-5) & (logarithm <= self.high + 1e-5)
        density = (
            _log_phi((logarithm - self._loc) / self._scale) - torch.log(self._scale) - self._log_mass(0) - logarithm
        )
        return torch.where(inside, density, -math.inf).to(self.loc.dtype)

    def entropy(self) -> torch.Tensor:
        """H[x] = H[ln x] + E ln x, elementwise nats."""
        at_a, at_b = (torch.exp(_log_phi(edge) - self._log_mass(0)) for edge in (self._a, self._b))
        mean_log = self._loc + self._scale * (at_a - at_b)
        return (self._entropy_of_log() + mean_log).to(self.loc.dtype)

    @property
    def mean(self) -> torch.Tensor:
        """E x."""
        return torch.exp(self._log_moment(1)).to(self.loc.dtype)

    @property
    def variance(self) -> torch.Tensor:
        """Var x; where it is next to nothing, what float64 leaves of the difference of two moments."""
        first = torch.exp(self._log_moment(1))
        spread = torch.expm1(self._log_moment(2) - 2 * self._log_moment(1))
        return (first.square() * spread.clamp(min=1e-12)).to(self.loc.dtype)

    def kl_to_log_uniform(self) -> torch.Tensor:
        """KL to the log-uniform distribution on the same interval: ln(high − low) − H[ln x], elementwise nats."""
        return (math.log(self.high - self.low) - self._entropy_of_log()).to(self.loc.dtype)

    def _log_mass(self, t: int) -> torch.Tensor:
        """ln(Φ(b − t·scale) − Φ(a − t·scale))."""
        below, above = log_ndtr(self._a - t * self._scale), log_ndtr(self._b - t * self._scale)
        return above + torch.log1p(-torch.exp(below - above))

    def _log_moment(self, t: int) -> torch.Tensor:
        return t * self._loc + 0.5 * t**2 * self._scale.square() + self._log_mass(t) - self._log_mass(0)

    def _entropy_of_log(self) -> torch.Tensor:
        """½ ln(2πe scale²) + ln Z + (a φ(a) − b φ(b)) / (2Z)."""
        log_mass = self._log_mass(0)
        ends = [edge * torch.exp(_log_phi(edge) - log_mass) for edge in (self._a, self._b)]
        whole = 0.5 * math.log(2 * math.pi * math.e) + torch.log(self._scale)
        return whole + log_mass + 0.5 * (ends[0] - ends[1])


def _log_phi(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * x.square() - 0.5 * math.log(2 * math.pi)


def _phi_below(x: torch.Tensor) -> torch.Tensor:
    """Φ; torch's own is zero from −9 on."""
    return 0.5 * torch.erfc(-x / math.sqrt(2))


@register_kl(TruncatedLogNormal, LogUniformBetween)
def _kl_truncated_log_normal(q: TruncatedLogNormal, p: LogUniformBetween) -> torch.Tensor:
    """Neklyudov et al. 2017, eq. 10, elementwise nats."""
    if (q.low, q.high) != (p.low, p.high):
        raise NotImplementedError
    return q.kl_to_log_uniform()
