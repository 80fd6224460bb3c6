"""Distributions that Pyro and torch lack: log-uniform, scale mixture of two Gaussians, classes in part or in shares."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from pyro_compress.data.labels import IGNORED
from pyro_compress.errors import PriorError


class LogUniformDistribution(TorchDistribution):
    """Log-uniform density over both signs, with a flat core that makes it proper.

    p(x) = 1 / (Z · max(|x|, low)) for |x| ≤ high and 0 beyond, Z = 2 (1 + ln(high / low)).

    Sparse Variational Dropout (Molchanov et al. 2017) uses the improper limit low → 0, high → ∞.  Between the
    bounds both have the same shape, so gradients of the published KL are the same; only the proper form can be
    sampled, normalised and read as a description length.

    Args:
        low: half-width of the flat core; 0 asks for the improper form.
        high: largest |x|; ∞ asks for the improper form.

    Raises:
        PriorError: the improper form is sampled or its density is asked for.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, low: float = 1e-8, high: float = 1e2, shape: Any = ()) -> None:
        if not 0 <= low < high:
            raise PriorError(f"a log-uniform density needs 0 ≤ low < high, found low={low}, high={high}")
        # bounds are plain numbers: nothing of the size of a weight matrix is ever made of them
        self.low, self.high = float(low), float(high)
        super().__init__(torch.Size(shape), validate_args=False)

    @property
    def is_proper(self) -> bool:
        """Whether both bounds are there."""
        return self.low > 0 and math.isfinite(self.high)

    @property
    def log_normaliser(self) -> float:
        """ln Z of the proper form."""
        self._refuse_improper("normalised")
        return math.log(2.0) + math.log1p(math.log(self.high / self.low))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogUniformDistribution":
        return LogUniformDistribution(self.low, self.high, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Inverse-CDF draw: the core with probability 1/(1 + ln(high/low)), else exp of a uniform."""
        self._refuse_improper("sampled")
        shape = self._extended_shape(torch.Size(sample_shape))
        mass = torch.rand(shape) * (1 + math.log(self.high / self.low))
        size = torch.where(mass < 1, self.low * mass, self.low * torch.exp(mass - 1))
        return torch.where(torch.rand(shape) < 0.5, size, -size)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        inside = -torch.log(value.abs().clamp(min=self.low)) - self.log_normaliser
        return torch.where(value.abs() <= self.high, inside, torch.full_like(inside, -math.inf))

    def _refuse_improper(self, action: str) -> None:
        if not self.is_proper:
            raise PriorError(
                f"an improper log-uniform prior (low={self.low}, high={self.high}) cannot be {action}: it serves SVI "
                "only; give it bounds, e.g. LogUniform(low=1e-8, high=100)"
            )


class ScaleMixtureNormal(TorchDistribution):
    """π N(0, σ₁²) + (1 − π) N(0, σ₂²): the spike-and-slab stand-in of Bayes by Backprop (Blundell et al. 2015).

    Args:
        mixture: π, weight of the wide component, in (0, 1).
        wide: σ₁ > 0.
        narrow: σ₂ > 0.
        shape: batch shape.

    Raises:
        PriorError: a value outside these ranges.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, mixture: float, wide: float, narrow: float, shape: Any = ()) -> None:
        if not (0 < mixture < 1 and wide > 0 and narrow > 0):
            raise PriorError(
                f"a scale mixture needs 0 < mixture < 1 and positive scales; found mixture={mixture}, wide={wide}, "
                f"narrow={narrow}"
            )
        self.mixture, self.wide, self.narrow = float(mixture), float(wide), float(narrow)
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ScaleMixtureNormal":
        return ScaleMixtureNormal(self.mixture, self.wide, self.narrow, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape)
        return torch.where(torch.rand(shape) < self.mixture, self.wide * noise, self.narrow * noise)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        density: torch.Tensor = _ScaleMixtureLogDensity.apply(value, self.mixture, self.wide, self.narrow)[0]
        return density


class _ScaleMixtureLogDensity(torch.autograd.Function):
    """ln p(w), and −w ((1 − r)/σ₁² + r/σ₂²) with r the narrow component's responsibility, written down."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: torch.Tensor, mixture: float, wide: float, narrow: float) -> tuple[torch.Tensor, torch.Tensor]:
        square = value.square()
        wide_at_zero = math.log(mixture / wide) - 0.5 * math.log(2 * math.pi)
        narrow_at_zero = math.log((1 - mixture) / narrow) - 0.5 * math.log(2 * math.pi)
        half_wide, half_narrow = 0.5 / wide**2, 0.5 / narrow**2
        odds = square * (half_wide - half_narrow) + (narrow_at_zero - wide_at_zero)
        responsibility = torch.sigmoid(odds)
        slope = responsibility.mul_(2 * (half_wide - half_narrow)).sub_(2 * half_wide).mul_(value)
        return torch.nn.functional.softplus(odds).add_(square, alpha=-half_wide).add_(wide_at_zero), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None, None


class CountedCategorical(dist.Categorical):
    """Classes of which some are not known: ln p(y) = ln softmax(logits)_y, and 0 where y is `IGNORED`.

    Args:
        logits: (..., classes).
    """

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = super().log_prob(value.clamp(min=0))
        return torch.where(value == IGNORED, torch.zeros_like(found), found)


class SoftCategorical(TorchDistribution):
    """Classes in shares: ln p(y) = Σ_k y_k ln softmax(logits)_k for y ≥ 0 with Σ_k y_k = 1.

    Of a one-hot y that is the categorical's; of other y it is no density, but the mean of ln p over labels of these
    probabilities (the negative cross-entropy).

    Args:
        logits: (..., classes), or with positions (..., *positions and classes), which are one event.
        positions: how many axes these have.
        class_axis: that of the classes, counted from the last.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.simplex
    has_rsample = False

    def __init__(self, logits: torch.Tensor, positions: int = 0, class_axis: int = -1) -> None:
        self.logits, self.positions, self.class_axis = logits, positions, class_axis
        event = positions + 1
        super().__init__(logits.shape[:-event], logits.shape[-event:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SoftCategorical":
        return SoftCategorical(self.logits.expand(*batch_shape, *self.event_shape), self.positions, self.class_axis)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """One-hot classes."""
        logits = self.logits.movedim(self.class_axis, -1)
        drawn = torch.distributions.OneHotCategorical(logits=logits).sample(torch.Size(sample_shape))
        return drawn.movedim(-1, self.class_axis)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        each = value * self.logits.log_softmax(self.class_axis)
        return each.sum(tuple(range(-1 - self.positions, 0)))
