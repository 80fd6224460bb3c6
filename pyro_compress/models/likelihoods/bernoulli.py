"""Binary targets, or probabilities of binary targets."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.models.support import refuse_outside


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Each output is the logit of one binary target; several outputs are independent.

    Args:
        soft_targets: whether targets may be probabilities, from 0 to 1, such as grey pixels.  They count with the
            cross-entropy −y ln p − (1 − y) ln(1 − p) in the place of −ln p(y), as is common in training autoencoders;
            that is no density of y, for which there is `ContinuousBernoulli`.
    """

    soft_targets: bool = False

    counts_errors = True
    has_logits = True

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=output, validate_args=False).to_event(output.ndim - 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Share of an example's targets on the wrong side of ½."""
        self.check(output, target)
        return ((output > 0) != (target > 0.5)).float().reshape(len(output), -1).mean(1)

    def check_support(self, output: torch.Tensor, target: torch.Tensor, where: str) -> None:
        if self.soft_targets:
            refuse_outside(constraints.unit_interval, target, type(self).__name__, where)
        else:
            super().check_support(output, target, where)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output.sigmoid()

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.logit()

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        return (torch.special.entr(mean) + torch.special.entr(1 - mean)).reshape(len(mean), -1).sum(1)
