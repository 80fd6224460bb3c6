"""Counts."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.models.likelihoods.base import Likelihood


@dataclass(frozen=True)
class Poisson(Likelihood):
    """y ~ Poisson(exp(output)): the output is the log rate."""

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return dist.Poisson(output.exp(), validate_args=False).to_event(output.ndim - 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared error of the rate."""
        self.check(output, target)
        return (output.exp() - target).square().reshape(len(output), -1).mean(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output.exp()

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.log()
