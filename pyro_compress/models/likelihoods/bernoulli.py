"""Binary targets."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.models.likelihoods.base import Likelihood


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Each output is the logit of one binary target; several outputs are independent."""

    counts_errors = True
    has_logits = True

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=output, validate_args=False).to_event(output.ndim - 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Share of an example's targets on the wrong side of ½."""
        self.check(output, target)
        return ((output > 0) != (target > 0.5)).float().reshape(len(output), -1).mean(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output.sigmoid()

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.logit()

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        return (torch.special.entr(mean) + torch.special.entr(1 - mean)).reshape(len(mean), -1).sum(1)
