"""Targets from 0 to 1."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.models.likelihoods.base import Likelihood

# of Newton's method for the link, from a start that is right to a few per cent
_STEPS = 4
# |logit| from which the formulas are divided by 0 no longer
_SMALL = 0.05


@dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """p(y) ∝ λ^y (1 − λ)^(1−y) on [0, 1], each output the logit η of one target's λ; several are independent.

    Its mean is  1/(1 − e^−η) − 1/η,  and not λ (Loaiza-Ganem & Cunningham 2019).
    """

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return dist.ContinuousBernoulli(logits=output, validate_args=False).to_event(output.ndim - 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared error of the mean."""
        self.check(output, target)
        return (self.mean(output) - target).square().reshape(len(output), -1).mean(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return _moments(output)[0].to(output.dtype)

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        return _moments(output)[1].to(output.dtype)

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        """The logit with that mean, strictly between 0 and 1; by Newton's method, there is no closed form."""
        wanted = mean.double()
        # the mean is ½ + ½ L(η/2) of Langevin's function L, whose inverse Cohen (1991) approximates
        langevin = 2 * wanted - 1
        logit = 2 * langevin * (3 - langevin.square()) / (1 - langevin.square())
        for _ in range(_STEPS):
            found, slope = _moments(logit)
            logit = logit - (found - wanted) / slope
        return logit.to(mean.dtype)

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        """Differential entropy, at most 0."""
        found: torch.Tensor = self.distribution(self.link(mean)).entropy()
        return found


def _moments(logit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance, which is the mean's derivative, in float64."""
    logit = logit.double()
    small = logit.abs() < _SMALL
    safe = torch.where(small, 1.0, logit)
    mean = torch.where(small, 0.5 + logit / 12 - logit**3 / 720, -1 / torch.expm1(-safe) - 1 / safe)
    # 1/η² − 1/(4 sinh²(η/2)), whose second term vanishes before sinh overflows
    sinh = torch.sinh(0.5 * safe.clamp(-200, 200))
    variance = torch.where(small, 1 / 12 - logit**2 / 240, 1 / safe.square() - 0.25 / sinh.square())
    return mean, variance
