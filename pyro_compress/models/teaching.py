"""What a teacher's outputs count for in the log-likelihood of a student's example.

    (1 − λ) log p(y_i | v_i) − λ H_i,    v_i = student(x_i; w),   z_i = teacher(x_i)

with one of four H, by what the teacher hands over and what of the student it is held against:

    H(m_i, v_i)                          of means m_i of the likelihood, such as class probabilities
    T² H(mean(z_i / T), v_i / T)         of outputs z_i at temperature T (Hinton, Vinyals & Dean 2015)
    ½ ‖z_i − v_i‖²                       of outputs at T = ∞: logit matching (Ba & Caruana 2014)
    any of these, v_i a hidden output    of hidden outputs: hints (Romero et al. 2015)

H(m, v) is the likelihood's cross-entropy, `mean` its mean: of classes softmax, and softmax(z / T) is the softmax at
temperature T.  Of K classes the gradient of the second in v, before the factor T², is

    (1 / T) (softmax(v / T) − softmax(z / T))  →  ((v − v̄) − (z − z̄)) / (K T²)     as T grows,

K T² being far above what outputs differ by, so that the factor keeps the term's gradient in place whatever T is, and
the limit is that of logit matching, divided by K, of outputs whose mean over classes was taken off.
"""

import math
from dataclasses import dataclass

import torch

from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.likelihoods import Categorical, Likelihood


@dataclass(frozen=True)
class Teaching:
    """How a teacher counts; see the head of this module.

    Attributes:
        weight: λ, from 0 to 1; at 1 the targets do not count.
        temperature: T > 0 of the teacher's outputs, `math.inf` for logit matching; None where it hands over means.
        hint: dotted name of the student's module whose output is v_i; the network's own output if not given.

    Raises:
        InferenceError: a weight or temperature out of range, or a hint that is to be compared as a distribution.
    """

    weight: float = 0.5
    temperature: float | None = None
    hint: str | None = None

    def __post_init__(self) -> None:
        check_options(self, InferenceError)
        if not 0 <= self.weight <= 1:
            raise InferenceError(f"teacher_weight is a share from 0 to 1, found {self.weight}")
        if self.temperature is not None and not self.temperature > 0:
            raise InferenceError(
                f"the temperature of a teacher's outputs is above 0, or inf to match them, found {self.temperature}"
            )
        if self.hint is not None and self.temperature != math.inf:
            raise InferenceError(
                f"hint='{self.hint}': a hidden output has no distribution to soften, and is matched: give "
                f"temperature=math.inf, found {self.temperature}"
            )
        if self.hint is not None and self.weight == 1:
            raise InferenceError(
                f"hint='{self.hint}' with teacher_weight=1 leaves what stands behind it without a gradient: give a "
                "weight below 1"
            )

    @property
    def takes_outputs(self) -> bool:
        """Whether the teacher hands over outputs, and not means of the likelihood."""
        return self.temperature is not None

    def cross_entropy(
        self, likelihood: Likelihood, output: torch.Tensor, teacher: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """H_i in nats, (examples,), up to what no student's output changes.

        Args:
            likelihood: p(y | output).
            output: v, (examples, ...).
            teacher: m or z, (examples, ...).
            latent: value of the likelihood's own latent site.
        """
        if self.temperature is None:
            return likelihood.cross_entropy(output, teacher, latent)
        if math.isinf(self.temperature):
            return 0.5 * (output - teacher).square().reshape(len(output), -1).sum(1)
        softened = likelihood.mean(teacher / self.temperature)
        return self.temperature**2 * likelihood.cross_entropy(output / self.temperature, softened, latent)

    def check_likelihood(self, likelihood: Likelihood) -> None:
        """Refuse a temperature where outputs are no logits.

        Raises:
            InferenceError: names the likelihood.
        """
        if self.temperature not in (None, math.inf) and not likelihood.has_logits:
            raise InferenceError(
                f"temperature={self.temperature}: outputs of the {type(likelihood).__name__} likelihood are no logits "
                "and have no temperature: leave it out, or give math.inf to match the teacher's outputs"
            )

    def check(self, likelihood: Likelihood, output: torch.Tensor, teacher: torch.Tensor, where: str) -> None:
        """Refuse outputs of a teacher that do not go with a student's.

        Args:
            likelihood: p(y | output).
            output: v, of any number of examples.
            teacher: m or z, likewise.
            where: the data, for the message.

        Raises:
            DataError: of another shape, or means in the place of outputs or the other way round; a likelihood that
                infers its noise.
        """
        if self.weight > 0 and self.temperature != math.inf and likelihood.latents():
            raise DataError(
                f"{where}: a teacher says what targets are in the mean and not how far they spread, from which "
                f"{type(likelihood).__name__} would infer its {likelihood.latents()[0].name}: give it, as in "
                "Gaussian(noise=0.1), or temperature=math.inf, which matches outputs"
            )
        expected = output if self.takes_outputs else likelihood.mean(output)
        if teacher.shape[1:] != expected.shape[1:]:
            of = "the likelihood's mean, such as class probabilities"
            if self.takes_outputs:
                of = f"the output of the student's '{self.hint}'" if self.hint else "the student's outputs"
            raise DataError(
                f"the teacher's outputs have the shape {tuple(teacher.shape[1:])} per example, expected that of "
                f"{of}, {tuple(expected.shape[1:])}"
            )
        if not self.takes_outputs:
            likelihood.check_teacher(teacher, f"{where}: teacher")
        elif (
            self.hint is None
            and isinstance(likelihood, Categorical)
            and are_probabilities(teacher, likelihood.axis_of(teacher))
        ):
            raise DataError(
                f"{where}: the teacher's outputs are probabilities, and temperature={self.temperature} takes logits: "
                "give their logarithms, or leave the temperature out"
            )

    def __str__(self) -> str:
        words = [f"weight {self.weight}"]
        words += [] if self.temperature is None else [f"temperature {self.temperature}"]
        return ", ".join(words + ([] if self.hint is None else [f"hint {self.hint}"]))


def matching_weight(alpha: float, temperature: float, numbers: int, targets: int = 1) -> float:
    """λ under which an example counts as in −ln p(y | v) / D + α T² ‖z − v‖² / K, but for a factor.

        λ = r / (1 + r),   r = 2 α T² D / K

    That is the loss that hands an autoencoder's codes over (D pixels and K numbers of a code, both averaged), and the
    factor is (1 − λ) D.

    Args:
        alpha: α ≥ 0.
        temperature: T > 0.
        numbers: K, of what is matched.
        targets: D, of an example; 1 where −ln p is not averaged over them.

    Raises:
        InferenceError: one of them out of range.
    """
    if not (alpha >= 0 and temperature > 0 and numbers >= 1 and targets >= 1):
        raise InferenceError(
            f"matching_weight takes alpha >= 0, temperature > 0, numbers >= 1 and targets >= 1, found {alpha}, "
            f"{temperature}, {numbers} and {targets}"
        )
    ratio = 2 * alpha * temperature**2 * targets / numbers
    return ratio / (1 + ratio)


def at_temperature(probabilities: torch.Tensor, temperature: float, dim: int = -1) -> torch.Tensor:
    """p_k^(1/T) / Σ_j p_j^(1/T), the softmax at temperature T of any logits of p (Hinton, Vinyals & Dean 2015).

    Below T = 1 it is sharper than p, with less entropy; above, softer.  A pixel's probability q of being black is the
    pair (q, 1 − q).

    Args:
        probabilities: p, distributions along `dim`; multiples of them give the same.
        temperature: T > 0.
        dim: of the classes.

    Raises:
        InferenceError: a temperature that is not above 0, a negative number, or nothing but zeros along `dim`.
    """
    if not 0 < temperature < math.inf:
        raise InferenceError(f"the temperature of probabilities is above 0 and finite, found {temperature}")
    if not bool((probabilities >= 0).all()) or not bool((probabilities.sum(dim) > 0).all()):
        raise InferenceError(f"probabilities along dimension {dim} are at least 0, and not all of them 0")
    return (probabilities.log() / temperature).softmax(dim)


def are_probabilities(values: torch.Tensor, axis: int = -1) -> bool:
    """Whether all numbers along an axis are distributions over classes."""
    total = values.sum(axis)
    return bool((values >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-3)
