"""Is a network as sure as it is right?  Calibration, what rejecting the unsure is worth, and inputs of another kind.

Takes arrays of predictions, whatever made them: a posterior predictive, a posterior mean, a decoded file.
"""

from dataclasses import dataclass

import numpy as np

from pyro_compress.errors import DataError
from pyro_compress.report.measure import CALIBRATION_BINS


@dataclass(frozen=True, eq=False)
class Reliability:
    """Examples by their confidence, the largest class probability (DeGroot & Fienberg 1983; Guo et al. 2017).

    Attributes:
        edges: of the bins, (bins + 1,), from 0 to 1.
        counts: examples per bin, (bins,).
        confidence: mean confidence per bin, (bins,); NaN where a bin is empty.
        accuracy: share of right classes per bin, likewise.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True, eq=False)
class RejectionCurve:
    """Error of the examples that are kept when the most uncertain ones are rejected.

    Attributes:
        rejected: share of examples that are rejected, (examples,), from 0 up.
        error: mean error of those that are kept, likewise.
    """

    rejected: np.ndarray
    error: np.ndarray

    @property
    def area(self) -> float:
        """Mean of the error over all shares: the area under the risk–coverage curve (Geifman & El-Yaniv 2017)."""
        return float(self.error.mean())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> Reliability:
    """Mean confidence and accuracy per bin of confidence.

    Args:
        probabilities: (examples, classes).
        labels: class indices, (examples,).
        bins: of equal width, [(b−1)/B, b/B), the last one closed.
    """
    confidence, edges = probabilities.max(1), np.linspace(0.0, 1.0, bins + 1)
    correct = (probabilities.argmax(1) == labels).astype(float)
    counts = np.histogram(confidence, edges)[0]
    sums = [np.histogram(confidence, edges, weights=values)[0] for values in (confidence, correct)]
    means = [np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0) for total in sums]
    return Reliability(edges, counts, *means)


def rejection_curve(uncertainty: np.ndarray, errors: np.ndarray) -> RejectionCurve:
    """Reject the most uncertain first; of examples that are equally uncertain, any, so the curve is their mean.

    Args:
        uncertainty: (examples,), such as the predictive entropy.
        errors: (examples,), such as 0 for a right class and 1 for a wrong one.

    Raises:
        DataError: not one uncertainty per error, or none at all, or one that is not a number.
    """
    if uncertainty.shape != errors.shape or errors.size == 0 or np.isnan(uncertainty).any():
        raise DataError(
            f"a rejection curve needs one number of uncertainty for each error, found {uncertainty.shape} and "
            f"{errors.shape}{', with NaN' if np.isnan(uncertainty).any() else ''}"
        )
    _, place = np.unique(uncertainty, return_inverse=True)
    expected = np.bincount(place, weights=errors) / np.bincount(place)
    ordered = np.sort(place)
    kept = np.arange(1, errors.size + 1)
    error = np.cumsum(expected[ordered]) / kept
    return RejectionCurve(1.0 - kept[::-1] / errors.size, error[::-1])


def detection_auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Chance that an input of another kind is more uncertain than one of the kind that was learned; ½ is blind.

    The area under the ROC curve of "uncertain, so not one of ours" (Hendrycks & Gimpel 2017), ties counted half.

    Args:
        inside: uncertainty of inputs of the kind that was learned, (examples,).
        outside: of the others, (other examples,).
    """
    from sklearn.metrics import roc_auc_score

    if not (inside.size and outside.size):
        raise DataError(f"detection needs inputs of both kinds, found {inside.size} and {outside.size}")
    kind = np.repeat([0, 1], [inside.size, outside.size])
    return float(roc_auc_score(kind, np.concatenate([inside, outside])))
