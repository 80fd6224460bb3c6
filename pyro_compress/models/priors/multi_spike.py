"""Multi-spike prior with a learned codebook (Variational Network Quantization, Achterhold et al., ICLR 2018)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import Normal, constraints
from torch.distributions.kl import register_kl

from pyro_compress.errors import PriorError
from pyro_compress.models.hyperparameters import Hyperparameter
from pyro_compress.models.kl import LOG_UNIFORM_CONSTANT, log_alpha, negative_kl_log_uniform
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.network.quantizers import Codebook
from pyro_compress.posterior.criterion import Criterion

# sd of a spike's window in distances to the nearest spike: 0.075 for levels ±0.2 in the paper
WINDOW = 0.375
MOST_LEVELS = 255


class MultiSpikeDistribution(TorchDistribution):
    """A log-uniform density about each of K spikes, with flat cores that make it proper.

    p(w) = Σₖ 1 / max(|w − cₖ|, low) / Z for |w| ≤ high and 0 beyond, over cₖ ∈ {0, ±s₁, ±(s₁ + s₂), …},
    Z = Σₖ [2 + ln((high − cₖ) / low) + ln((high + cₖ) / low)].

    Args:
        steps: s, (m,), positive: from each level to the next one farther from zero; K = 2m + 1.
        low: half-width of the flat cores.
        high: largest |w|.
        shape: batch shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, steps: torch.Tensor, low: float = 1e-8, high: float = 1e2, shape: Any = ()) -> None:
        self.steps, self.low, self.high = steps, low, high
        super().__init__(torch.Size(shape), validate_args=False)

    @property
    def levels(self) -> torch.Tensor:
        """The positive ones, (m,), increasing."""
        return self.steps.cumsum(0)

    @property
    def spikes(self) -> torch.Tensor:
        """c, (K,), increasing."""
        levels = self.levels
        return torch.cat([-levels.flip(0), torch.zeros_like(levels[:1]), levels])

    @property
    def log_normaliser(self) -> torch.Tensor:
        """ln Z."""
        return self._masses().sum().log()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MultiSpikeDistribution":
        return MultiSpikeDistribution(self.steps, self.low, self.high, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """A spike and a side by their mass, then the inverse of the distribution function there."""
        shape = self._extended_shape(torch.Size(sample_shape))
        masses, spikes = self._masses().detach(), self.spikes.detach()
        chosen = torch.multinomial(masses.reshape(-1), math.prod(shape), replacement=True).reshape(shape)
        mass = torch.rand(shape) * masses.reshape(-1)[chosen]
        size = torch.where(mass < 1, self.low * mass, self.low * torch.exp(mass - 1))
        sign = torch.where(chosen % 2 == 0, 1.0, -1.0)
        return spikes[chosen // 2] + sign * size

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(value)
        for spike in self.spikes:
            total = total + (value - spike).abs().clamp(min=self.low).reciprocal()
        inside = total.log() - self.log_normaliser
        return torch.where(value.abs() <= self.high, inside, torch.full_like(inside, -math.inf))

    def windows(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every spike but that at zero, and the width of its window."""
        levels, last = self.levels, len(self.steps) - 1
        for place, step in enumerate(self.steps):
            width = WINDOW * (step if place == last else torch.minimum(step, self.steps[place + 1]))
            yield levels[place], width
            yield -levels[place], width

    def _masses(self) -> torch.Tensor:
        """(K, 2): of each spike, above it and below it, before they are normalised."""
        spikes = self.spikes
        return 1 + torch.log(torch.stack([self.high - spikes, self.high + spikes], dim=1) / self.low)


@register_kl(Normal, MultiSpikeDistribution)
def _kl_normal_multi_spike(q: Normal, p: MultiSpikeDistribution) -> torch.Tensor:
    """Elementwise nats: Σₖ Ωₖ(θ) KL(q ‖ log-uniform about cₖ) + ln Z, Ωₖ = exp(−(θ − cₖ)² / 2τₖ²), Ω₀ = 1 − Σₖ Ωₖ.

    As published, with the constants that the proper density has.  It is larger than the divergence: at the spikes by up
    to half a nat for small σ, since windows of neighbours overlap there, and by up to ln K + 0.4 where all matter.
    """
    log_variance = 2 * torch.log(q.scale)

    def about(spike: torch.Tensor | float) -> torch.Tensor:
        return -negative_kl_log_uniform(log_alpha(q.loc - spike, log_variance))

    of_zero = about(0.0)
    total = of_zero
    for spike, width in p.windows():
        window = torch.exp(-0.5 * ((q.loc - spike) / width).square())
        total = total + window * (about(spike) - of_zero)
    return total + (LOG_UNIFORM_CONSTANT + p.log_normaliser)


@dataclass(frozen=True)
class MultiSpike(Prior):
    """p(w) ∝ Σₖ 1/|w − cₖ| over a codebook of every parameter that is learned; guide N(θ, σ²).

    What is stored is 0 where log α is above the threshold, else the level nearest to θ.  In the paper the levels move
    at a hundredth of the learning rate, `rates={"hyper": 0.01}`, and log σ² at the rate itself, `{"log_variance": 1}`.

    Args:
        levels: K, odd: 3 is ternary (−a, 0, a).  Levels on either side of zero are alike.
        level: from each level to the next at the start; a of a ternary codebook.
        low: half-width of the flat cores about the spikes.
        high: largest |w|.
        initial_log_variance: log σ² that the guide starts from.
        min_log_variance, max_log_variance: its bounds.
        threshold: cut on log α; θ stays within the outermost levels and e^(−threshold/2) σ, where log α about these is
            the threshold (their outer funnels).
    """

    levels: int = 3
    level: float = 0.2
    low: float = 1e-8
    high: float = 1e2
    initial_log_variance: float = -8.0
    min_log_variance: float = -10.0
    max_log_variance: float = 1.0
    threshold: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels % 2 == 0 or not 3 <= self.levels <= 2 * MOST_LEVELS + 1:
            raise PriorError(
                f"a multi-spike prior has an odd number of levels, from 3 to {2 * MOST_LEVELS + 1}: zero, which pruned "
                f"weights are, and as many above as below it; found levels={self.levels}"
            )
        if not (0 < self.low < self.level and self.level * (self.levels // 2) < self.high < math.inf):
            raise PriorError(
                "a multi-spike prior needs 0 < low < level and its outermost level below high; found "
                f"low={self.low}, level={self.level}, levels={self.levels}, high={self.high}"
            )
        if not self.min_log_variance < self.max_log_variance:
            raise PriorError(
                f"min_log_variance must lie below max_log_variance, found {self.min_log_variance} and "
                f"{self.max_log_variance}"
            )

    @property
    def criterion(self) -> Criterion:
        return Criterion("log_alpha", "weight", self.threshold, label="log α")

    def hyperparameters(self, parameter: Parameter, value: torch.Tensor) -> tuple[Hyperparameter, ...]:
        return (Hyperparameter("steps", torch.full((self.levels // 2,), self.level), constraints.positive),)

    def sample(self, parameter: Parameter) -> Any:
        prior = MultiSpikeDistribution(parameter.hyper["steps"], self.low, self.high, parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        reach = math.exp(-0.5 * self.threshold)

        def outermost(scale: torch.Tensor) -> torch.Tensor:
            return parameter.hyper["steps"].sum() + reach * scale

        return (
            LatentSite(
                parameter.name,
                "normal",
                parameter.shape,
                value,
                self.initial_log_variance,
                "weight",
                min_log_variance=self.min_log_variance,
                max_log_variance=self.max_log_variance,
                loc_bound=outermost,
            ),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance

    def stored(self, parameter: Parameter, mean: torch.Tensor) -> tuple[Codebook, torch.Tensor]:
        levels = parameter.hyper["steps"].detach().cumsum(0).tolist()
        return Codebook((*(-level for level in reversed(levels)), *levels)), mean
