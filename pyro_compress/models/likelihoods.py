"""Likelihoods: how a network's output becomes the distribution of one example's target."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.config.keyword_options import check_options
from pyro_compress.config.registry import Registry
from pyro_compress.errors import DataError, InferenceError, RunError
from pyro_compress.models.distributions import SoftCategorical
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.models.support import refuse_outside, same_support, support_of


@dataclass(frozen=True)
class Likelihood(ABC):
    """p(y | network output); `distribution` has the examples as its batch shape."""

    counts_errors: ClassVar[bool] = False
    """Whether `error` is the share of an example's targets that are wrong."""

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

    def target_count(self, target: torch.Tensor) -> int:
        """How many targets an example has."""
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


@dataclass(frozen=True)
class Categorical(Likelihood):
    """y ~ Categorical(softmax(output)), output of shape (examples, classes), y of class indices.

    Or y of class probabilities, (examples, classes), with the cross-entropy in the place of −ln p:
    ln p(y | output) = Σ_k y_k ln softmax(output)_k.  Real targets of the outputs' shape are taken as such.
    """

    counts_errors = True

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        return dist.Categorical(logits=output, validate_args=False)

    def distribution_of(
        self, output: torch.Tensor, target: torch.Tensor | None, latent: torch.Tensor | None = None
    ) -> TorchDistribution:
        soft = target is not None and _are_soft(target, output)
        return SoftCategorical(output) if soft else self.distribution(output)

    def check(self, output: torch.Tensor, target: torch.Tensor | None) -> None:
        if target is None or not _are_soft(target, output) or len(target) != len(output):
            super().check(output, target)

    def check_support(self, output: torch.Tensor, target: torch.Tensor, where: str) -> None:
        if not _are_soft(target, output):
            super().check_support(output, target, where)
            return
        self.check_teacher(target, where)

    def check_teacher(self, teacher: torch.Tensor, where: str) -> None:
        wrong = (teacher < 0).any(-1) | ((teacher.sum(-1) - 1).abs() > 1e-3)
        if bool(wrong.any()):
            index = tuple(torch.nonzero(wrong)[0].tolist())
            raise DataError(
                f"{where}: {teacher[index].tolist()} at index {index} is no distribution over classes: the "
                "categorical likelihood takes class labels, or probabilities, at least 0 and of the sum 1; change the "
                "targets or the likelihood"
            )

    def target_count(self, target: torch.Tensor) -> int:
        return target[0].numel() // (target.shape[-1] if target.is_floating_point() and target.ndim > 1 else 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """1 where the most probable class is wrong; of class probabilities, where it is another than theirs."""
        self.check(output, target)
        label = target.argmax(-1) if _are_soft(target, output) else target
        return (output.argmax(-1) != label).float()

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output.softmax(-1)

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.log()

    def cross_entropy(
        self, output: torch.Tensor, mean: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        return -SoftCategorical(output).log_prob(mean)

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """p (1 − p) of each class."""
        mean = self.mean(output)
        return mean * (1 - mean)

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(mean).sum(-1)

    def target_shape(self, output: torch.Tensor) -> tuple[int, ...]:
        return tuple(output.shape[:-1])


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Each output is the logit of one binary target; several outputs are independent."""

    counts_errors = True

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


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """y ~ N(output, σ²).

    Args:
        noise: known σ > 0, or None: σ is then a latent site 'noise' with a log-normal prior.
        noise_log_mean: location of that prior's ln σ.
        noise_log_scale: its scale.
    """

    noise: float | None = None
    noise_log_mean: float = 0.0
    noise_log_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.noise is not None and not 0 < self.noise < math.inf) or not 0 < self.noise_log_scale < math.inf:
            raise InferenceError(
                f"a Gaussian likelihood needs noise > 0 or None, and noise_log_scale > 0; found noise={self.noise}, "
                f"noise_log_scale={self.noise_log_scale}"
            )

    def latents(self) -> tuple[LatentSite, ...]:
        if self.noise is not None:
            return ()
        return (LatentSite("noise", "lognormal", torch.Size(()), torch.tensor(self.noise_log_mean), -4.0),)

    def sample_latents(self) -> torch.Tensor | None:
        if self.noise is not None:
            return None
        return pyro.sample("noise", dist.LogNormal(self.noise_log_mean, self.noise_log_scale))

    def distribution(self, output: torch.Tensor, noise: torch.Tensor | None = None) -> TorchDistribution:
        """N(output, σ²); a learned σ is taken at its prior median where none is given."""
        known = math.exp(self.noise_log_mean) if self.noise is None else self.noise
        scale = torch.tensor(known) if noise is None else noise
        return dist.Normal(output, scale, validate_args=False).to_event(output.ndim - 1)

    def distribution_given(self, output: torch.Tensor, latent: torch.Tensor | None) -> TorchDistribution:
        return self.distribution(output, latent)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared error."""
        self.check(output, target)
        return (output - target).square().reshape(len(output), -1).mean(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean


def _are_soft(target: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether targets are class probabilities."""
    return target.is_floating_point() and target.ndim > 1 and target.shape[1:] == output.shape[1:]


LIKELIHOODS: Registry[Likelihood] = Registry(
    "likelihood",
    RunError,
    "pyro_compress.likelihoods",
    {"categorical": Categorical, "gaussian": Gaussian, "bernoulli": Bernoulli, "poisson": Poisson},
)
