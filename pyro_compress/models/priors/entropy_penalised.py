"""A learned step and a learned probability model of the integers (Oktay, Ballé, Singh & Shrivastava, ICLR 2020)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from pyro_compress.errors import PriorError
from pyro_compress.models.hyperparameters import Hyperparameter
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.network.quantizers import Uniform

LEAST_MASS = 1e-12


class RateDistribution(TorchDistribution):
    """Whole numbers under a mixture of logistics, p(q) = F(q + ½) − F(q − ½), F(v) = Σₖ πₖ σ((v − lₖ) / bₖ).

    Of a real v it stands for ln p(v + u), u uniform between −½ and ½ and drawn anew at every call: what it costs to
    store v, in −nats, with a gradient that rounding would not have (Ballé, Laparra & Simoncelli 2017).

    Args:
        shares, locations, scales: π, l, b, (K,).
        shape: batch shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, shares: torch.Tensor, locations: torch.Tensor, scales: torch.Tensor, shape: Any = ()) -> None:
        self.shares, self.locations, self.scales = shares, locations, scales
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RateDistribution":
        return RateDistribution(self.shares, self.locations, self.scales, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            chosen = torch.multinomial(self.shares, math.prod(shape), replacement=True).reshape(shape)
            logistic = torch.logit(torch.rand(shape), eps=1e-6)
            return self.locations[chosen] + self.scales[chosen] * logistic + torch.rand(shape) - 0.5

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.log_mass(value + torch.rand_like(value) - 0.5)

    def log_mass(self, value: torch.Tensor) -> torch.Tensor:
        """ln p(v): of whole numbers v, that they cost; it goes on between them."""
        mass = torch.full_like(value, LEAST_MASS)
        for share, location, scale in zip(self.shares, self.locations, self.scales, strict=True):
            # by the distance, so that no difference is of two numbers near one
            distance = (value - location).abs()
            above, below = torch.sigmoid((0.5 - distance) / scale), torch.sigmoid((-0.5 - distance) / scale)
            mass = mass + share * (above - below)
        return mass.log()


def rounded_moments(mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of round(φ), φ ~ N(mean, variance): a sum, or mean and variance + 1/12 where σ is above 1."""
    # a variance of 0 at the middle between two integers is no 0 / 0
    scale, nearest = variance.sqrt().clamp(min=torch.finfo(variance.dtype).tiny), mean.round()
    offset = mean - nearest
    first, second = torch.zeros_like(mean), torch.zeros_like(mean)
    for whole in range(1, 8):
        above = torch.special.ndtr((offset - whole + 0.5) / scale)
        below = torch.special.ndtr((-offset - whole + 0.5) / scale)
        first, second = first + above - below, second + (2 * whole - 1) * (above + below)
    wide = scale > 1
    return torch.where(wide, mean, nearest + first), torch.where(wide, variance + 1 / 12, second - first.square())


@dataclass(frozen=True)
class EntropyPenalised(Prior):
    """w = Δ round(φ), with Δ and p of every parameter learned: the bits are counted of a coder that knows p.

    The data see rounded numbers, whose gradient passes straight through; the rate −ln p is taken at φ + u (see
    `RateDistribution`).  Under `MAP`, `kl_weight` is nats of fit per nat of code, the paper's λ times N.  φ is counted
    in steps, so rates suit it that are 1/Δ times those of weights: `rates={"weight": 32}` for Δ = 1/32.

    Args:
        step: Δ at the start.
        components: K, logistics in p.
        initial_log_variance: log σ² of φ that a guide starts from, under methods that have one.
    """

    step: float = 2.0**-5
    components: int = 3
    initial_log_variance: float = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2.0**-60 < self.step < 2.0**60:
            raise PriorError(f"a step lies between 2**-60 and 2**60, found {self.step}")
        if self.components < 1:
            raise PriorError(f"a mixture has at least one component, found components={self.components}")

    def hyperparameters(self, parameter: Parameter, value: torch.Tensor) -> tuple[Hyperparameter, ...]:
        deviation = float((value / self.step).square().mean().sqrt())
        # from narrower than the integers are to wider
        spread = torch.logspace(-1, 1, self.components) if self.components > 1 else torch.ones(1)
        return (
            Hyperparameter("step", torch.tensor(self.step), constraints.positive),
            Hyperparameter("locations", torch.zeros(self.components), role="scale"),
            Hyperparameter("scales", spread * max(0.5 * deviation, 0.1), constraints.positive, "scale"),
            Hyperparameter("log_shares", torch.zeros(self.components), role="scale"),
        )

    def rate(self, parameter: Parameter) -> RateDistribution:
        """p as it stands."""
        hyper = parameter.hyper
        return RateDistribution(torch.softmax(hyper["log_shares"], 0), hyper["locations"], hyper["scales"])

    def sample(self, parameter: Parameter) -> Any:
        prior = self.rate(parameter).expand(parameter.shape).to_event(len(parameter.shape))
        steps = pyro.sample(f"{parameter.name}.steps", prior)
        return parameter.hyper["step"] * (steps + (torch.round(steps) - steps).detach())

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (
            LatentSite(
                f"{parameter.name}.steps",
                "normal",
                parameter.shape,
                value / parameter.hyper["step"].detach(),
                self.initial_log_variance,
                "weight",
                axes=tuple(range(len(parameter.shape))),
            ),
        )

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        step, site = parameter.hyper["step"].detach(), sites[f"{parameter.name}.steps"]
        mean, variance = rounded_moments(site.mean, site.variance)
        return step * mean, step.square() * variance

    def stored(self, parameter: Parameter, mean: torch.Tensor) -> tuple[Uniform, torch.Tensor]:
        return Uniform(float(parameter.hyper["step"].detach())), mean
