"""One Gaussian mixture over all weights of a network (soft weight sharing; Ullrich, Meeds & Welling, ICLR 2017)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from pyro_compress.errors import PriorError
from pyro_compress.models.hyperparameters import Hyperparameter
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.network.quantizers import MOST_LEVELS, Codebook

# weights whose responsibilities are held at once
AT_ONCE = 2**18
# components that far below the largest count nothing in single precision, where so small numbers are slow
NEGLIGIBLE_NATS = 50.0


class SharedMixture(TorchDistribution):
    """p(w) = Σⱼ πⱼ N(w; μⱼ, 1/λⱼ).

    Args:
        shares: π, (J,), adding up to 1.
        means: μ, (J,).
        precisions: λ, (J,).
        shape: batch shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, shares: torch.Tensor, means: torch.Tensor, precisions: torch.Tensor, shape: Any = ()) -> None:
        self.shares, self.means, self.precisions = shares, means, precisions
        super().__init__(torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SharedMixture":
        return SharedMixture(self.shares, self.means, self.precisions, batch_shape)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            chosen = torch.multinomial(self.shares, math.prod(shape), replacement=True).reshape(shape)
            return self.means[chosen] + torch.randn(shape) / self.precisions[chosen].sqrt()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        joint = self.log_joint(value)
        largest = joint.detach().amax(0)
        return largest + (joint - largest).clamp_min(-NEGLIGIBLE_NATS).exp().sum(0).log()

    def log_joint(self, value: torch.Tensor) -> torch.Tensor:
        """ln πⱼ + ln N(w; μⱼ, 1/λⱼ), (J, *value shape)."""
        # as a polynomial of w, so that one product of matrices makes it for all weights and components
        square, linear = -0.5 * self.precisions, self.precisions * self.means
        log_density = 0.5 * torch.log(self.precisions / (2 * math.pi)) - 0.5 * self.precisions * self.means.square()
        factors = torch.stack([square, linear, self.shares.log() + log_density], 1)
        powers = torch.stack([value.square(), value, torch.ones_like(value)])
        return (factors @ powers.flatten(1)).unflatten(1, value.shape) if value.ndim else factors @ powers

    def most_responsible(self, value: torch.Tensor) -> torch.Tensor:
        """For every number the component of largest πⱼ N(w; μⱼ, 1/λⱼ), int64, of the shape of the numbers."""
        parts = value.reshape(-1).split(AT_ONCE)
        return torch.cat([self.log_joint(part).argmax(0) for part in parts]).reshape(value.shape)

    def merged(self, nats: float) -> "SharedMixture":
        """Components merged two by two, the nearest first, as long as KL(i ‖ j) + KL(j ‖ i) is at most `nats`.

        Mean and precision of a merged component are those of the two in proportion to their shares; the first component
        keeps its mean.
        """
        columns = torch.stack([self.shares, self.means, self.precisions], 1).detach()
        parts = [*columns.double().cpu().numpy()]
        while len(parts) > 1:
            pairs = [(i, j) for j in range(len(parts)) for i in range(j)]
            i, j = min(pairs, key=lambda pair: _divergence(parts[pair[0]], parts[pair[1]]))
            if _divergence(parts[i], parts[j]) > nats:
                break
            gone = parts.pop(j)
            share = parts[i][0] + gone[0]
            joined = (parts[i][0] * parts[i] + gone[0] * gone) / share
            parts[i] = np.array([share, parts[i][1] if i == 0 else joined[1], joined[2]])
        return SharedMixture(*torch.from_numpy(np.stack(parts)).to(columns).unbind(1))


def _divergence(one: np.ndarray, other: np.ndarray) -> float:
    """KL(i ‖ j) + KL(j ‖ i) of normals given as (share, mean, precision)."""
    (_, mean, precision), (_, other_mean, other_precision) = one, other
    ratio = precision / other_precision
    return float(0.5 * (ratio + 1 / ratio - 2 + (precision + other_precision) * (mean - other_mean) ** 2))


@dataclass(frozen=True)
class SoftWeightSharing(Prior):
    """w ~ Σⱼ πⱼ N(μⱼ, 1/λⱼ), one mixture for all weights that this prior covers; component 0 has μ₀ = 0 and π₀ fixed.

    λ₀ ~ Gamma(zero_shape, zero_rate) and λⱼ ~ Gamma(shape, rate).  Means, precisions and shares are learned with the
    weights, by `MAP` as in the paper: τ is its `kl_weight`, and rates there are 5e-4 for weights, 1e-4 for means
    (`rates={"hyper": 0.2}`) and 3e-3 for ln λ and ln π (`{"scale": 6}`).  Means start evenly over the range of the
    weights, so the network should be a trained one.

    What is stored of a weight is the mean of its most responsible component, after those that are nearly alike have
    been merged.

    Args:
        components: besides the one at zero.
        zero_share: π₀.
        deviation: 1/√λ of every component at the start.
        zero_shape, zero_rate: of the Gamma density of λ₀.
        shape, rate: of those of the others.
        merge_nats: components are merged where KL(i ‖ j) + KL(j ‖ i) is at most that.
        initial_log_variance: log σ² that a guide starts from, under methods that have one.
    """

    components: int = 16
    zero_share: float = 0.99
    deviation: float = 0.25
    zero_shape: float = 5e3
    zero_rate: float = 2.0
    shape: float = 250.0
    rate: float = 0.1
    merge_nats: float = 0.01
    initial_log_variance: float = -9.0
    covers_biases: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.components <= MOST_LEVELS:
            raise PriorError(f"a mixture has 1 to {MOST_LEVELS} components besides that at zero: {self.components}")
        if not 0 < self.zero_share < 1:
            raise PriorError(f"zero_share is a probability between 0 and 1, found {self.zero_share}")
        for name in ("deviation", "zero_rate", "rate"):
            if not getattr(self, name) > 0:
                raise PriorError(f"{name} must be positive, found {getattr(self, name)}")
        if not (self.zero_shape >= 1 and self.shape >= 1):
            raise PriorError(
                "the Gamma densities of the precisions need shapes of at least 1, so that they have a mode; found "
                f"zero_shape={self.zero_shape}, shape={self.shape}"
            )
        if self.merge_nats < 0:
            raise PriorError(f"merge_nats must not be negative, found {self.merge_nats}")

    def shared_hyperparameters(self, covered: Sequence[tuple[Parameter, torch.Tensor]]) -> tuple[Hyperparameter, ...]:
        lowest = min(float(value.min()) for _, value in covered)
        highest = max(float(value.max()) for _, value in covered)
        others = torch.ones(self.components)
        hyperprior = dist.Gamma(
            torch.cat([torch.tensor([self.zero_shape]), self.shape * others]),
            torch.cat([torch.tensor([self.zero_rate]), self.rate * others]),
        )
        precisions = torch.full((self.components + 1,), self.deviation**-2)
        return (
            Hyperparameter("means", torch.linspace(lowest, highest, self.components)),
            Hyperparameter("precisions", precisions, constraints.positive, "scale", hyperprior),
            Hyperparameter("log_shares", 0 * others, role="scale"),
        )

    def mixture(self, parameter: Parameter) -> SharedMixture:
        """As it stands; component 0 is the one at zero."""
        hyper = parameter.hyper
        means, log_shares = hyper["means"], hyper["log_shares"]
        others = (1 - self.zero_share) * torch.softmax(log_shares, 0)
        shares = torch.cat([torch.full_like(others[:1], self.zero_share), others])
        return SharedMixture(shares, torch.cat([torch.zeros_like(means[:1]), means]), hyper["precisions"])

    def sample(self, parameter: Parameter) -> Any:
        prior = self.mixture(parameter).expand(parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        return (LatentSite(parameter.name, "normal", parameter.shape, value, self.initial_log_variance, "weight"),)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return sites[parameter.name].mean, sites[parameter.name].variance

    def stored(self, parameter: Parameter, mean: torch.Tensor) -> tuple[Codebook, torch.Tensor]:
        mixture = self.mixture(parameter).merged(self.merge_nats)
        levels = mixture.means[mixture.means != 0].unique().tolist()
        return Codebook(tuple(levels)), mixture.means[mixture.most_responsible(mean)]
