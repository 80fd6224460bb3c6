"""What a compressed file is and does: its length, and the predictions of the network decoded from it.

Nothing here looks at the network that was compressed.  Rates are `original float32 bytes / len(file)`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np
import torch
from scipy import stats
from torch import nn

from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError

CALIBRATION_BINS = 15
OfPass = TypeVar("OfPass")


class Distribution(Protocol):
    """What a likelihood says of a batch of targets."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """ln p(value), one per example."""


class MeasuredLikelihood(Protocol):
    """The part of `models/likelihoods` that measuring needs."""

    factorises: ClassVar[bool]

    def log_prob(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """ln p(y | output), (examples,)."""

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Per-example error, (examples,)."""

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """E[y | output]; class probabilities for class labels."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A network's predictions, example by example.

    Attributes:
        errors: float64, (examples,): the likelihood's error; 0 or 1 for classes.
        nll_nats: float64, (examples,): −ln p(y | x).
        probabilities: float64, (examples, classes), or None where targets are no class labels, or one per position.
        labels: int64, (examples,), or None likewise.
    """

    errors: np.ndarray
    nll_nats: np.ndarray
    probabilities: np.ndarray | None
    labels: np.ndarray | None


@dataclass(frozen=True)
class Measurement:
    """A compressed file and the network decoded from it, on one data set.

    Attributes:
        file_bytes: length of the file.
        original_bytes: float32 bytes of the network before compression, biases included.
        error_percent: 100 × mean of the likelihood's error: share of wrong classes for class labels, and for
            regression 100 × the mean squared error.
        error_standard_error_percent: standard error of that mean over examples.
        nll_nats_per_example: mean of −ln p(y | x).
        calibration_error: expected calibration error, or None where targets are no class labels.
        brier_score: likewise.
        examples: how many were predicted.
        seconds: to load the file and predict all of them.
    """

    file_bytes: int
    original_bytes: int
    error_percent: float
    error_standard_error_percent: float
    nll_nats_per_example: float
    calibration_error: float | None
    brier_score: float | None
    examples: int
    seconds: float

    @property
    def file_rate(self) -> float:
        """Original float32 bytes / bytes of the file."""
        return self.original_bytes / self.file_bytes

    @property
    def label_nats(self) -> float:
        """−Σ ln p(y | x) over all examples: the second part of a two-part code."""
        return self.nll_nats_per_example * self.examples


def float32_bytes(network: nn.Module) -> int:
    """4 bytes for each parameter, biases included; buffers such as running statistics are not counted."""
    return 4 * sum(parameter.numel() for parameter in network.parameters())


def predict(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, likelihood: MeasuredLikelihood, chunk: int = EXAMPLES_PER_PASS
) -> Predictions:
    """Run `network` in evaluation mode on every example; its training mode is put back.

    Args:
        network: maps (examples, *input shape) to outputs that the likelihood takes; moved to the device of `x`.
        x: inputs, (examples, *input shape).
        y: targets, (examples, ...).
        likelihood: p(y | output).
        chunk: examples per pass; the result does not depend on it, and all are passed at once where the likelihood is
            no product over examples.

    Raises:
        DataError: no examples, or more inputs than targets or the other way round.
    """
    if len(x) == 0 or len(x) != len(y):
        raise DataError(f"measuring needs as many targets as inputs and at least one, found {len(x)} and {len(y)}")
    chunk = chunk if likelihood.factorises else len(x)
    has_classes = y.ndim == 1 and not y.is_floating_point()

    def scores(output: torch.Tensor, rows: slice) -> tuple[torch.Tensor, ...]:
        found = (likelihood.error(output, y[rows]), -likelihood.log_prob(output, y[rows]))
        return (*found, *([likelihood.mean(output)] if has_classes else []))

    parts = _by_pass(network, x, chunk, scores)
    errors, nll, *means = (torch.cat(column).cpu().double().numpy() for column in zip(*parts, strict=True))
    return Predictions(errors, nll, means[0] if means else None, y.cpu().numpy() if means else None)


def _by_pass(
    network: nn.Module, x: torch.Tensor, chunk: int, what: Callable[[torch.Tensor, slice], OfPass]
) -> list[OfPass]:
    """What is made of the outputs of so many rows at a time, in evaluation mode; the mode is put back."""
    training, untouched, found = network.training, Untouched(), []
    network.to(x.device).eval()
    with torch.no_grad():
        for start in range(0, len(x), chunk):
            rows = slice(start, start + chunk)
            found.append(what(untouched(network, x[rows]), rows))
    network.train(training)
    return found


def mean_answer(
    network: nn.Module, x: torch.Tensor, likelihood: MeasuredLikelihood, chunk: int = EXAMPLES_PER_PASS
) -> torch.Tensor:
    """Mean over examples of E[y | output], (...), by passes as in `predict`; class shares for class labels."""
    parts = _by_pass(network, x, chunk, lambda output, rows: likelihood.mean(output).double().sum(0))
    return (torch.stack(parts).sum(0) / len(x)).to(x.dtype if x.is_floating_point() else torch.get_default_dtype())


def measure(
    compressed: Artifact | str | Path,
    x: torch.Tensor,
    y: torch.Tensor,
    likelihood: MeasuredLikelihood,
    original_bytes: int,
    module: nn.Module | None = None,
) -> Measurement:
    """Length of a compressed file, and the quality of the network decoded from it, run in torch.

    Args:
        compressed: the file, or an artifact, whose bytes are decoded again.
        x: inputs, (examples, *input shape).
        y: targets, (examples, ...).
        likelihood: p(y | output).
        original_bytes: `float32_bytes` of the network before compression.
        module: of a file of weights what has the forward pass; a copy of it runs.

    Raises:
        ArtifactError: the file is missing or damaged.
        DataError: see `predict`.
    """
    started = time.perf_counter()
    artifact = Artifact(compressed.data) if isinstance(compressed, Artifact) else load(compressed)
    weights_alone = artifact.kind == "weights" and module is not None
    found = predict(artifact.to_torch(module) if weights_alone else artifact.to_torch(), x, y, likelihood)
    calibration = brier = None
    if found.probabilities is not None and found.labels is not None:
        calibration = expected_calibration_error(found.probabilities, found.labels)
        brier = brier_score(found.probabilities, found.labels)
    return Measurement(
        file_bytes=len(artifact.data),
        original_bytes=original_bytes,
        error_percent=100 * float(found.errors.mean()),
        error_standard_error_percent=100 * standard_error(found.errors),
        nll_nats_per_example=float(found.nll_nats.mean()),
        calibration_error=calibration,
        brier_score=brier,
        examples=len(x),
        seconds=time.perf_counter() - started,
    )


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of `values`, (examples,); √(p(1 − p)/n) for errors of 0 and 1."""
    return float(values.std() / math.sqrt(len(values)))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Σ_b n_b/n · |accuracy_b − mean confidence_b| over B bins of equal width (Guo et al. 2017), by torchmetrics.

    Bins are [(b−1)/B, b/B), the last one closed.

    Args:
        probabilities: (examples, classes).
        labels: class indices, (examples,).
        bins: B.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    # torchmetrics gives a confidence of exactly 1 a bin of its own
    held = torch.from_numpy(probabilities).clamp(max=1 - 1e-7)
    return float(multiclass_calibration_error(held, torch.from_numpy(labels), held.shape[1], n_bins=bins, norm="l1"))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over examples of Σ_k (p_k − [y = k])², between 0 and 2 (Brier 1950): torchmetrics' mean over k, times K."""
    from torchmetrics.functional.regression import mean_squared_error

    classes = probabilities.shape[1]
    wanted = np.eye(classes)[labels]
    return classes * float(mean_squared_error(torch.from_numpy(probabilities), torch.from_numpy(wanted)))


def mcnemar_p_value(first_errors: np.ndarray, second_errors: np.ndarray) -> float:
    """Exact two-sided McNemar test that two networks have the same error rate on the same examples.

    Only examples that one gets right and the other wrong count: under the hypothesis each is a fair coin.

    Args:
        first_errors: 0 or 1, (examples,).
        second_errors: likewise, of the other network.
    """
    first, second = first_errors > 0.5, second_errors > 0.5
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    tosses = only_first + only_second
    return float(stats.binomtest(only_first, tosses).pvalue) if tosses else 1.0


def paired_p_value(
    first_errors: np.ndarray, second_errors: np.ndarray, *, resamples: int = 9999, seed: int = 0
) -> float:
    """Two-sided test that two networks have the same mean error on the same examples, whose positions go together.

    Under the hypothesis the difference of an example's errors is as likely as its opposite, so what was observed is
    held against means of differences with random signs (Fisher 1935).  Of errors of 0 or 1 this is McNemar's test;
    positions of one example are not taken for independent, as that test would of all positions.

    Args:
        first_errors: share of an example's positions, (examples,).
        second_errors: likewise, of the other network.
        resamples: draws of signs, or all there are where these are no more.
        seed: of the draws.
    """
    difference = first_errors - second_errors
    difference = difference[difference != 0]
    if len(difference) == 0:
        return 1.0
    found = stats.permutation_test(
        (difference,),
        lambda d, axis: d.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2**22 // len(difference)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
