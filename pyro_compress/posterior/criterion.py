"""By what a prior says that a weight, or a group of weights, is off: a statistic, a cut and the side that goes.

A prior declares it, the posterior carries it, and what is off is asked of the posterior: nothing else knows priors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pyro_compress.errors import PriorError, unknown_name

OF = ("weight", "scale", "log_scale", "group")
SIDES = ("above", "below")


def log_alpha(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Dropout rate log α = log Var x − log (E x)², float64; −∞ without a variance, ∞ around a mean of zero."""
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance == 0, -np.inf, np.log(variance) - 2 * np.log(np.abs(mean)))


def signal_to_noise(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """|E x| / sd(x), float64; ∞ without a variance (Graves 2011; Blundell et al. 2015)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(mean.astype(np.float64)) / np.sqrt(variance.astype(np.float64))
    return np.where(variance > 0, ratio, np.inf)


def _variance(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return variance


# statistics that follow from mean and variance of what they are taken of
STATISTICS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "log_alpha": log_alpha,
    "signal_to_noise": signal_to_noise,
    "variance": _variance,
}


@dataclass(frozen=True)
class Criterion:
    """What is off under a prior.

    Attributes:
        statistic: one of `STATISTICS`, or a name of the prior's own, whose values it computes itself.
        of: what it is taken of: 'weight' is one number per weight; 'scale' (z of w = z·w̃), 'log_scale' (ln z) and
            'group' (anything else) are one per group.
        threshold: the prior's own cut.
        off: 'above' or 'below': off where the statistic lies strictly on that side of the threshold.
        label: the statistic as figures and sentences write it, such as 'log α'.
        shrink_threshold: cut for shrinking while training, from which what is off doesn't come back; `threshold` if
            None.
        shrinkage: whether κ = 1/(1 + z²) is the share by which this prior shrinks a group towards zero.

    Raises:
        PriorError: an unknown `of` or `off`, or a statistic of the prior's own of what has only moments.
    """

    statistic: str
    of: str
    threshold: float
    off: str = "above"
    label: str = ""
    shrink_threshold: float | None = None
    shrinkage: bool = False

    def __post_init__(self) -> None:
        for what, word, known in (("of", self.of, OF), ("off", self.off, SIDES)):
            if word not in known:
                raise PriorError(unknown_name(f"'{what}' of a criterion", word, known))
        if self.of in ("scale", "log_scale") and self.statistic not in STATISTICS:
            raise PriorError(
                f"a criterion of '{self.of}' is taken of its mean and variance: its statistic is one of "
                f"{', '.join(STATISTICS)}, found '{self.statistic}'; declare one of the prior's own of 'group'"
            )

    @property
    def per_group(self) -> bool:
        """Whether groups are judged, not single weights."""
        return self.of != "weight"

    @property
    def follows_from_moments(self) -> bool:
        """Whether mean and variance of what it is taken of are enough to compute the statistic."""
        return self.of != "group" and self.statistic in STATISTICS

    def value(self, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """The statistic where it follows from moments, of their shape."""
        return STATISTICS[self.statistic](mean, variance)

    def is_on(self, value: np.ndarray, threshold: float | None = None) -> np.ndarray:
        """Boolean, of the shape of `value`: what stays at a threshold, the prior's own if not given."""
        cut = self.threshold if threshold is None else threshold
        return value <= cut if self.off == "above" else value >= cut

    def rule(self, threshold: float | None = None) -> str:
        """What is off, in words: 'log α > 3'."""
        side = ">" if self.off == "above" else "<"
        return f"{self.label or self.statistic} {side} {self.threshold if threshold is None else threshold:g}"
