"""The likelihood of a decoder's outputs, judged in nats."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution

from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.posterior.error_unit import NATS, ErrorUnit


@dataclass(frozen=True)
class InNats(Likelihood):
    """Another likelihood, whose error of an example is −ln p(x | decoder's output) in nats.

    Args:
        inner: p(x | output).
    """

    inner: Likelihood

    error_unit: ClassVar[ErrorUnit] = NATS

    def __post_init__(self) -> None:
        """`inner` has checked its own options."""

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return self.inner.distribution(output)

    def log_prob(self, output: torch.Tensor, target: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        return self.inner.log_prob(output, target, latent)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """−ln p(x | output), (examples,)."""
        self.check(output, target)
        return -self.log_prob(output, target)

    def error_scale(self, target: torch.Tensor) -> float:
        """1: nats are a scale of their own."""
        return 1.0

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return self.inner.mean(output)

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return self.inner.link(mean)
