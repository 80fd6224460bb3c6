"""Calibration, rejection and detection against cases worked out by hand; what the figures show."""

from typing import Any

import numpy as np
import pytest

from pyro_compress.errors import DataError
from pyro_compress.report.calibration import RejectionCurve, detection_auroc, rejection_curve, reliability
from pyro_compress.report.calibration_figures import (
    Band,
    out_of_distribution_figure,
    regression_figure,
    rejection_figure,
    reliability_diagram,
)
from pyro_compress.report.measure import expected_calibration_error

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [1.0, 0.0]])
LABELS = np.array([0, 1, 1, 0, 0])


def test_reliability_by_hand() -> None:
    found = reliability(PROBABILITIES, LABELS, bins=4)
    assert found.counts.tolist() == [0, 0, 2, 3]
    # [.5, .75) holds .6 and .7, both right; [.75, 1] holds .9 and 1, right, and .8, wrong
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.65, 0.9])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 1.0, 2 / 3])


def test_reliability_adds_up_to_the_calibration_error() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet([0.3, 0.6, 1.0], 500)
    labels = generator.integers(3, size=500)
    found = reliability(probabilities, labels)
    gaps = np.abs(found.accuracy - found.confidence)
    expected = np.nansum(gaps * found.counts) / 500
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-6)


def test_a_perfect_ranker_rejects_every_error_first() -> None:
    errors = np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    found = rejection_curve(errors + np.linspace(0, 0.1, 5), errors)
    np.testing.assert_allclose(found.rejected, [0.0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(found.error, [2 / 5, 1 / 4, 0, 0, 0])
    assert found.area == pytest.approx((2 / 5 + 1 / 4) / 5)
    worst = rejection_curve(-errors, errors)
    np.testing.assert_allclose(worst.error, [2 / 5, 2 / 4, 2 / 3, 1, 1])


def test_ties_are_rejected_at_random() -> None:
    """One uncertainty for all: rejecting changes nothing in the mean, whatever the order of the examples."""
    for errors in (np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])):
        np.testing.assert_allclose(rejection_curve(np.zeros(4), errors).error, 0.5)


def test_rejection_needs_one_uncertainty_per_error() -> None:
    with pytest.raises(DataError, match=r"found \(3,\) and \(2,\)"):
        rejection_curve(np.zeros(3), np.zeros(2))
    with pytest.raises(DataError, match="with NaN"):
        rejection_curve(np.array([0.0, np.nan]), np.zeros(2))


def test_detection_counts_pairs() -> None:
    # of 2 × 3 pairs the outside one is larger in 4, equal in 1
    assert detection_auroc(np.array([0.1, 5.0]), np.array([0.2, 7.0, 5.0])) == pytest.approx((2 + 1 + 1 + 0.5) / 6)
    assert detection_auroc(np.zeros(4), np.ones(3)) == 1.0
    # entropies far below one another are told apart, which a sigmoid in float32 would lose
    assert detection_auroc(np.array([1e-12, 2e-12]), np.array([3e-12, 4e-12])) == 1.0
    with pytest.raises(DataError, match="found 2 and 0"):
        detection_auroc(np.zeros(2), np.zeros(0))


def heights(axes: Any) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def test_reliability_diagram_shows_accuracy_and_counts() -> None:
    found = reliability(PROBABILITIES, LABELS, bins=4)
    figure = reliability_diagram({"file": found, "posterior": found}, {"file": 0.25, "posterior": 0.1})
    upper, _, lower, _ = figure.axes
    assert heights(upper) == pytest.approx([1.0, 2 / 3])
    assert heights(lower) == [2, 3]
    assert "25.00 points" in upper.get_title(loc="left")


def test_rejection_figure_shows_accuracy_for_classes_and_errors_else() -> None:
    curve = RejectionCurve(np.array([0.0, 0.5]), np.array([0.25, 0.0]))
    (drawn,) = rejection_figure({"file": curve}).axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(drawn.get_xdata()), [0, 50])
    np.testing.assert_allclose(np.asarray(drawn.get_ydata()), [75, 100])
    (drawn,) = rejection_figure({"file": curve}, "squared error").axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(drawn.get_ydata()), [0.25, 0])


def test_out_of_distribution_figure_names_the_auroc() -> None:
    inside, outside = np.array([0.1, 0.2, 0.3]), np.array([0.25, 0.6])
    figure = out_of_distribution_figure({"entropy": inside}, {"entropy": outside}, ("digits", "noise"))
    assert "AUROC 0.833" in figure.axes[0].get_title(loc="left")


def test_regression_figure_shows_both_bands() -> None:
    x = np.linspace(-1, 1, 5)
    band = Band(x, 2 * x, 0.1 + x**2, np.sqrt((0.1 + x**2) ** 2 + 0.04))
    figure = regression_figure({"SVI": band, "NUTS": band}, x, 2 * x, "bands")
    total, epistemic = figure.axes[0].collections
    for drawn, spread in ((total, band.total), (epistemic, band.epistemic)):
        edge = np.asarray(drawn.get_paths()[0].vertices)[:, 1]
        assert edge.max() == pytest.approx((2 * x + 2 * spread).max())
        assert edge.min() == pytest.approx((2 * x - 2 * spread).min())
