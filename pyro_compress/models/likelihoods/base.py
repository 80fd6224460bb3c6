"""Likelihoods: how a network's output becomes the distribution of one example's target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import pyro
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.models.support import refuse_outside, same_support, support_of
from pyro_compress.posterior.error_unit import PERCENT, ErrorUnit


@dataclass(frozen=True)
class Likelihood(ABC):
    """p(y | network output); `distribution` has the examples as its batch shape."""

    counts_errors: ClassVar[bool] = False
    """Whether `error` is the share of an example's targets that are wrong."""
    has_logits: ClassVar[bool] = False
    """Whether outputs are logits, which a temperature divides."""
    error_unit: ClassVar[ErrorUnit] = PERCENT
    """What `error` is printed in."""
    factorises: ClassVar[bool] = True
    """Whether p(y | output) is a product over examples, so that a batch's, times N/n, estimates the whole."""

    def __post_init__(self) -> None:
        """Options of another type than declared are refused; a likelihood that checks more calls this first."""
        check_options(self, InferenceError)

    @abstractmethod
    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        """The target's distribution given outputs of shape (examples, ...)."""

    @abstractmethod
    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Per-example error, shape (examples,): what validation and reports average."""

    @abstractmethod
    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """E[y | output]; class probabilities for the categorical."""

    @abstractmethod
    def link(self, mean: torch.Tensor) -> torch.Tensor:
        """An output with that mean: the inverse of `mean`."""

    def distribution_given(self, output: torch.Tensor, latent: torch.Tensor | None) -> TorchDistribution:
        """`distribution`, with a value of the likelihood's own latent site where it has one."""
        return self.distribution(output)

    def distribution_of(
        self, output: torch.Tensor, target: torch.Tensor | None, latent: torch.Tensor | None = None
    ) -> TorchDistribution:
        """`distribution_given`, as it scores targets of that kind."""
        return self.distribution_given(output, latent)

    def log_prob(self, output: torch.Tensor, target: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """ln p(y | output) in nats, (examples,)."""
        found: torch.Tensor = self.distribution_of(output, target, latent).log_prob(target)
        return found

    def error_scale(self, target: torch.Tensor) -> float:
        """What a rise of the mean error is divided by: 1 for counts, else the targets' variance, over outputs."""
        return 1.0 if self.counts_errors else float(target.double().var(0, correction=0).mean()) or 1.0

    def target_count(self, target: torch.Tensor) -> int | None:
        """How many targets an example has; None where it is not the same of all that are given."""
        return target[0].numel()

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """Var[y | output], in the shape of `mean`."""
        return self.distribution_given(output, latent).variance

    def entropy(self, mean: torch.Tensor) -> torch.Tensor | None:
        """Entropy in nats, (examples,), of a target with that mean; None where the mean does not determine it.

        Of several outputs it is the sum of each one's own.
        """
        return None

    def cross_entropy(
        self, output: torch.Tensor, mean: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """−E ln p(y | output) in nats, (examples,), over targets of the given mean; up to what no output changes.

        The families here are exponential: that part of log p is linear in y, so its mean is its value at the mean.
        """
        found: torch.Tensor = -self.distribution_given(output, latent).log_prob(mean)
        return found

    def latents(self) -> tuple[LatentSite, ...]:
        """Latent sites of the likelihood itself, such as an unknown noise scale."""
        return ()

    def at(self, values: Mapping[str, torch.Tensor]) -> Self:
        """The same with its own latent sites at these values, by name; those that are not named stay latent."""
        return self

    def sample_latents(self) -> torch.Tensor | None:
        """The sample statements of `latents`; called outside the data plate, handed to `observe`."""
        return None

    def observe(self, output: torch.Tensor, target: torch.Tensor | None, latent: torch.Tensor | None) -> torch.Tensor:
        """The observation statement; called inside the data plate."""
        self.check(output, target)
        return pyro.sample("y", self.distribution_of(output, target, latent), obs=target)

    def target_shape(self, output: torch.Tensor) -> tuple[int, ...]:
        """Shape of the targets that outputs of this shape go with."""
        return tuple(output.shape)

    def check(self, output: torch.Tensor, target: torch.Tensor | None) -> None:
        """Refuse targets that would only fit by broadcasting one example's over another's.

        Raises:
            DataError: says both shapes.
        """
        expected = self.target_shape(output)
        if target is not None and tuple(target.shape) != expected:
            raise DataError(
                f"{type(self).__name__} likelihood: outputs of shape {tuple(output.shape)} go with targets of shape "
                f"{expected}, found {tuple(target.shape)}: reshape the targets or change the network's last layer"
            )

    def check_teacher(self, teacher: torch.Tensor, where: str) -> None:
        """Refuse outputs of a teacher that are no means of this likelihood.

        Raises:
            DataError: names the first.
        """
        return

    def check_support(self, output: torch.Tensor, target: torch.Tensor, where: str) -> None:
        """Refuse targets that `distribution` gives no probability, whatever the output is.

        A support that follows from the output, such as that of a uniform distribution up to it, is not looked at: there
        the log-likelihood says so.

        Args:
            output: of at least one example.
            target: of any number of examples.
            where: the targets are, for the message.

        Raises:
            DataError: names the likelihood, the first such target and its index.
        """
        first = output[:1].to(target.device)
        support, other = (support_of(self.distribution(one)) for one in (first, first + 1))
        if support is not None and same_support(support, other):
            refuse_outside(support, target, type(self).__name__, where)
