"""When a smaller network is as good as the one it came from: one rule, for cuts, rounding and stages on the grid.

Both run on the same n validation examples.  Where errors are counted (classes, binary targets), b targets are newly
wrong, c are newly right, and the candidate is accepted if

    100 · (b − c) / n ≤ tolerance in percentage points.

The left side is one division of integers, so no tie is decided by rounding.  Squared errors are real numbers; there the
rise of their mean takes the place of (b − c) / n, as a share of the targets' variance.

An example with several targets, such as the pixels of a segmentation, is one observation: what one of its targets says
of the next is not known, so every standard error and bound is of the differences d_i of whole examples' shares of wrong
targets, and b − c and b + c become Σ d_i and Σ d_i², which they are where an example has one target.

What is observed rises by no more than the tolerance, however few examples there are: with fewer of them no damage is
accepted that more would refuse, and below 100 / tolerance examples b ≤ c is asked for.  Chance can still hide damage: a
candidate whose true rise is the tolerance plus 1.28 · √(b + c) / n is accepted one time in ten.  So the bound that the
true rise stays below with 90 % confidence, `upper_points`, is written beside every decision.  To ask for that bound to
be below the tolerance would be to ask for b − c ≤ 1 of 5,000 at 0.2 points and 40 changed answers: larger files.
"""

from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.9


def within(rise_points: float, tolerance_points: float) -> bool:
    """The rule."""
    return rise_points <= tolerance_points


def rise_of(
    errors: np.ndarray, reference: np.ndarray, *, targets: int | None = None, scale: float = 1.0
) -> tuple[float, float]:
    """(rise of the mean error over `reference`, its paired standard error), in percentage points.

    Args:
        errors, reference: per example, (n,), of the same examples.
        targets: per example, of which an error is the share that is wrong; None where errors are real numbers.
        scale: what these are divided by.
    """
    difference, count = errors - reference, len(errors)
    spread = 100 * float(difference.std(ddof=1)) / scale / count**0.5 if count > 1 else 0.0
    if targets is None:
        return 100 * float(difference.mean()) / scale, spread
    return 100 * round(float(difference.sum()) * targets) / (count * targets), spread


def clearly_worse(errors: np.ndarray, reference: np.ndarray, *, targets: int | None = None) -> bool:
    """Whether the rise of the mean error is positive and more than its standard error, (b − c)² > b + c for classes.

    With differences d of n examples, rise² > s²/n is n (Σd)² > n Σd², whichever n: one new error alone is no evidence.
    """
    difference = errors - reference
    if targets is not None:
        difference = np.rint(difference * targets)
    total = float(difference.sum())
    return total > 0 and total**2 > float((difference**2).sum())


def changed(errors: np.ndarray, reference: np.ndarray, targets: int) -> tuple[int, int]:
    """(newly wrong, newly right) targets; of several in one example the difference counts."""
    difference = np.rint((errors - reference) * targets)
    return int(difference.clip(min=0).sum()), int(-difference.clip(max=0).sum())


def upper_points(net: float, squares: float, count: int, confidence: float = CONFIDENCE) -> float:
    """What the true rise stays below with that confidence, one-sided, in percentage points.

    (s + z √(q + 1 − s² / (n + 2))) / (n + 2): the interval for paired proportions with half an example added to each
    cell (Agresti & Min 2005), which stays honest where hardly any answer has changed.

    Args:
        net: s = Σ d_i, b − c of answers.
        squares: q = Σ d_i², b + c of answers.
        count: n, of examples.
        confidence: of the bound.
    """
    total = count + 2
    z = NormalDist().inv_cdf(confidence)
    return 100 * (net + z * (squares + 1 - net**2 / total) ** 0.5) / total
