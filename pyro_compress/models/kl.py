"""Kullback–Leibler divergences KL(q ‖ p) in nats, closed form where one exists.

`kl_nats` is what the ELBO calls.  The two pairs that rule the cost of a step (a normal against the standard
normal, a normal against the log-uniform) are fused: their gradients are written down, so autograd keeps no
intermediate tensor of the size of the weights.  All are also registered with `torch.distributions.kl`.
"""

import math
from typing import Any

import torch
from pyro.distributions import InverseGamma
from torch.distributions import Gamma, Independent, LogNormal, Normal, kl_divergence
from torch.distributions.kl import register_kl

from pyro_compress.errors import PriorError
from pyro_compress.models.distributions import LogUniformDistribution

# Constants of Molchanov et al. 2017, eq. 14.
K1, K2, K3 = 0.63576, 1.87320, 1.48695
# KL(N(0, σ²) ‖ 1/|w|): ½ ln(2πe) + (γ + ln 2)/2 with its sign, what the published form leaves out as 'constant'.
LOG_UNIFORM_CONSTANT = -0.5 * math.log(2 * math.pi * math.e) - 0.5 * (0.5772156649015329 + math.log(2.0))
# half-width of the core below which it counts for less than a thousandth of a nat, at a standard deviation of 0.001
WIDEST_CORE = 1e-6


def log_alpha(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Dropout rate of N(θ, αθ²) on a log scale: log α = log σ² − log θ², large but finite at θ = 0."""
    return log_variance - 2 * torch.log(mean.abs().clamp(min=torch.finfo(mean.dtype).tiny))


def negative_kl_log_uniform(log_alpha_value: torch.Tensor) -> torch.Tensor:
    """−KL(N(θ, αθ²) ‖ log-uniform) + C ≈ k₁ σ(k₂ + k₃ log α) − ½ log(1 + 1/α) − k₁, elementwise nats.

    Molchanov et al. 2017, eq. 14; within 0.01 nats of the exact value for every α.
    """
    falling = K1 * torch.sigmoid(-K2 - K3 * log_alpha_value)
    return -falling - 0.5 * torch.nn.functional.softplus(-log_alpha_value)


class _NormalLogUniformTotal(torch.autograd.Function):
    """Σ KL(N(θ, σ²) ‖ log-uniform), published approximation, with its gradient in θ and σ written down.

    Nothing is squared that could overflow, so value and gradient hold for all numbers that have a ratio |θ|/σ.
    """

    @staticmethod
    def forward(ctx: Any, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        # q = |θ|/σ = α^−½; u = min(q, 1/q)² vanishes where it does not matter
        ratio = torch.div(mean, scale).abs_().clamp_(max=torch.finfo(mean.dtype).max)
        log_ratio = torch.log(ratio)
        small = torch.minimum(ratio, ratio.reciprocal()).square_()
        # 1 − σ(k₂ + k₃ log α), and ½ ln(1 + q²) = max(ln q, 0) + ½ ln(1 + u)
        falling = torch.sigmoid(log_ratio.mul(2 * K3).sub_(K2))
        total = K1 * falling.sum() + log_ratio.clamp_(min=0).sum() + 0.5 * torch.log1p(small).sum()
        # −2 d KL / d log α = 2 k₁k₃ s (1 − s) + q² / (1 + q²)
        slope = torch.addcmul(falling, falling, falling, value=-1).mul_(2 * K1 * K3)
        slope.add_(torch.where(ratio > 1, 1.0, small).div_(small.add_(1)))
        ctx.save_for_backward(mean, scale, slope)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale, slope = ctx.saved_tensors
        # d log α / dθ = −2/θ, d log α / dσ = 2/σ; where θ is next to nothing the slope is θ²/σ², which may underflow
        ratio = mean / scale
        of_mean = torch.where(ratio.abs() < 1e-9, ratio / scale, slope / mean)
        return of_mean.mul_(grads[0]), (slope / scale).mul_(-grads[0])


class _StandardNormalTotal(torch.autograd.Function):
    """Σ KL(N(μ, σ²) ‖ N(0, 1)) = Σ ½ (σ² + μ² − 1) − ln σ."""

    @staticmethod
    def forward(ctx: Any, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mean, scale)
        squares = torch.dot(mean.flatten(), mean.flatten()) + torch.dot(scale.flatten(), scale.flatten())
        return 0.5 * (squares - mean.numel()) - torch.log(scale).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale = ctx.saved_tensors
        return mean * grads[0], (scale - scale.reciprocal()).mul_(grads[0])


def kl_nats(q: Any, p: Any) -> torch.Tensor:
    """Total KL(q ‖ p) in nats over all elements, a scalar.

    Raises:
        NotImplementedError: no closed form is registered; the ELBO then takes a Monte Carlo estimate.
    """
    q_base, p_base = base_of(q), base_of(p)
    if isinstance(q_base, Normal) and isinstance(p_base, LogUniformDistribution):
        published = _NormalLogUniformTotal.apply(q_base.loc, q_base.scale)
        return published + q_base.loc.numel() * log_uniform_constant(p_base)
    if isinstance(q_base, Normal) and isinstance(p_base, StandardNormal):
        return _StandardNormalTotal.apply(q_base.loc, q_base.scale)
    return kl_divergence(q_base, p_base).sum()


class StandardNormal(Normal):
    """N(0, 1) of a given shape; a type of its own so that its KL can be fused."""

    def __init__(self, shape: Any) -> None:
        super().__init__(torch.zeros(()).expand(shape), torch.ones(()).expand(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StandardNormal":
        return StandardNormal(batch_shape)


def base_of(distribution: Any) -> Any:
    """The distribution of single elements."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def log_uniform_constant(p: Any) -> Any:
    """What turns the published KL of a weight into nats against the proper form; 0 for the improper one.

    It is that of a density which goes on to zero: q's mass within the flat core, (ln low/|w|) nats of it, is left out.

    Raises:
        PriorError: the core is so wide that it counts.
    """
    if not p.is_proper:
        return 0.0
    if p.low > WIDEST_CORE:
        raise PriorError(
            "the KL to a log-uniform prior is known in closed form where its flat core is narrow, low ≤ "
            f"{WIDEST_CORE:g}; found low={p.low:g}: give a smaller one, or fit with BayesByBackprop(...) or NUTS(...), "
            "which take its density at draws"
        )
    return LOG_UNIFORM_CONSTANT + p.log_normaliser


@register_kl(Normal, LogUniformDistribution)
def _kl_normal_log_uniform(q: Normal, p: LogUniformDistribution) -> torch.Tensor:
    published = -negative_kl_log_uniform(log_alpha(q.loc, 2 * torch.log(q.scale)))
    published = torch.where(q.loc == 0, 0.0, published)
    return published + log_uniform_constant(p)


@register_kl(LogNormal, Gamma)
def _kl_lognormal_gamma(q: LogNormal, p: Gamma) -> torch.Tensor:
    """KL(LN(μ, σ²) ‖ Gamma(a, rate b)) = −H[q] − (a − 1) μ + b e^{μ+σ²/2} + lnΓ(a) − a ln b."""
    mean, scale = q.loc, q.scale
    negative_entropy = -mean - 0.5 * math.log(2 * math.pi * math.e) - torch.log(scale)
    shape, rate = p.concentration, p.rate
    cross = (
        -(shape - 1) * mean + rate * torch.exp(mean + 0.5 * scale**2) + torch.lgamma(shape) - shape * torch.log(rate)
    )
    return negative_entropy + cross


@register_kl(LogNormal, InverseGamma)
def _kl_lognormal_inverse_gamma(q: LogNormal, p: InverseGamma) -> torch.Tensor:
    """The mirror image: 1/x is LN(−μ, σ²) and Gamma(a, rate b), and KL does not change under x → 1/x."""
    mirrored = LogNormal(-q.loc, q.scale, validate_args=False)
    return _kl_lognormal_gamma(mirrored, Gamma(p.concentration, p.rate, validate_args=False))
