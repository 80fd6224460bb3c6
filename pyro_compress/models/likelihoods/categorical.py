"""Classes: labels, or shares of classes; of an example, or of each of its positions."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.data.labels import IGNORED
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.distributions import CountedCategorical, SoftCategorical
from pyro_compress.models.likelihoods.base import Likelihood


@dataclass(frozen=True)
class Categorical(Likelihood):
    """y ~ Categorical(softmax(output)), output of shape (examples, classes), y of class indices.

    Or y of class probabilities, (examples, classes), with the cross-entropy in the place of −ln p:
    ln p(y | output) = Σ_k y_k ln softmax(output)_k.  Real targets of the outputs' shape are taken as such.

    With outputs (examples, classes, *positions), as of a segmentation, y is (examples, *positions).  The positions j of
    an example are one event,  ln p(y_i | output_i) = Σ_j ln softmax(output_ij)_{y_ij},  without those where y is −100,
    as in `torch.nn.functional.cross_entropy`.

    Args:
        class_axis: of outputs with positions: 1, as torch has it, or −1 for (examples, *positions, classes), as of
            language models.
    """

    class_axis: int = 1

    counts_errors = True
    has_logits = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_axis not in (1, -1):
            raise InferenceError(
                f"class_axis is 1 for outputs (examples, classes, *positions) or -1 for (examples, *positions, "
                f"classes), found {self.class_axis}"
            )

    def axis_of(self, output: torch.Tensor) -> int:
        """The axis of the classes: the last one where there are no positions."""
        return self.class_axis if output.ndim > 2 else -1

    def labels(self, output: torch.Tensor) -> torch.Tensor:
        """The most probable class, (examples, *positions)."""
        return output.argmax(self.axis_of(output))

    def distribution(self, output: torch.Tensor) -> TorchDistribution:
        if output.ndim <= 2:
            return dist.Categorical(logits=output, validate_args=False)
        logits = output.movedim(self.class_axis, -1)
        return CountedCategorical(logits=logits, validate_args=False).to_event(output.ndim - 2)

    def distribution_of(
        self, output: torch.Tensor, target: torch.Tensor | None, latent: torch.Tensor | None = None
    ) -> TorchDistribution:
        soft = target is not None and _are_soft(target, output)
        return self._in_shares(output) if soft else self.distribution(output)

    def _in_shares(self, output: torch.Tensor) -> SoftCategorical:
        positions = max(0, output.ndim - 2)
        return SoftCategorical(output, positions, -1 if self.axis_of(output) == -1 else -1 - positions)

    def check(self, output: torch.Tensor, target: torch.Tensor | None) -> None:
        if target is None or not _are_soft(target, output) or len(target) != len(output):
            super().check(output, target)

    def check_support(self, output: torch.Tensor, target: torch.Tensor, where: str) -> None:
        if _are_soft(target, output):
            self.check_teacher(target, where)
            return
        if output.ndim > 2:
            target = target.masked_fill(target == IGNORED, 0)
        super().check_support(output, target, where)

    def check_teacher(self, teacher: torch.Tensor, where: str) -> None:
        teacher = teacher.movedim(self.axis_of(teacher), -1)
        wrong = (teacher < 0).any(-1) | ((teacher.sum(-1) - 1).abs() > 1e-3)
        if bool(wrong.any()):
            index = tuple(torch.nonzero(wrong)[0].tolist())
            raise DataError(
                f"{where}: {teacher[index].tolist()} at index {index} is no distribution over classes: the "
                "categorical likelihood takes class labels, or probabilities, at least 0 and of the sum 1; change the "
                "targets or the likelihood"
            )

    def target_count(self, target: torch.Tensor) -> int | None:
        if target.ndim > 1 and not target.is_floating_point() and bool((target == IGNORED).any()):
            return None
        soft = target.is_floating_point() and target.ndim > 1
        return target[0].numel() // (target.shape[self.axis_of(target)] if soft else 1)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """1 where the most probable class is wrong; of class probabilities, where it is another than theirs.

        Of an example with positions it is the share of those that count.
        """
        self.check(output, target)
        label = self.labels(target) if _are_soft(target, output) else target
        wrong = self.labels(output) != label
        if wrong.ndim == 1:
            return wrong.float()
        known = label != IGNORED
        return (wrong & known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output.softmax(self.axis_of(output))

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.log()

    def cross_entropy(
        self, output: torch.Tensor, mean: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        return -self._in_shares(output).log_prob(mean)

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """p (1 − p) of each class."""
        mean = self.mean(output)
        return mean * (1 - mean)

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(mean).sum(-1) if mean.ndim <= 2 else torch.special.entr(mean).flatten(1).sum(1)

    def target_shape(self, output: torch.Tensor) -> tuple[int, ...]:
        shape = list(output.shape)
        del shape[self.axis_of(output)]
        return tuple(shape)


def _are_soft(target: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether targets are class probabilities."""
    return target.is_floating_point() and target.ndim > 1 and target.shape[1:] == output.shape[1:]
