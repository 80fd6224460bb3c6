"""Classes: labels, or shares of classes."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.errors import DataError
from pyro_compress.models.distributions import SoftCategorical
from pyro_compress.models.likelihoods.base import Likelihood


@dataclass(frozen=True)
class Categorical(Likelihood):
    """y ~ Categorical(softmax(output)), output of shape (examples, classes), y of class indices.

    Or y of class probabilities, (examples, classes), with the cross-entropy in the place of −ln p:
    ln p(y | output) = Σ_k y_k ln softmax(output)_k.  Real targets of the outputs' shape are taken as such.
    """

    counts_errors = True
    has_logits = True

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


def _are_soft(target: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether targets are class probabilities."""
    return target.is_floating_point() and target.ndim > 1 and target.shape[1:] == output.shape[1:]
