"""Figures of uncertainty: reliability, rejection, inputs of another kind, and bands around a regression."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_compress.report.calibration import RejectionCurve, Reliability, detection_auroc
from pyro_compress.report.drawing import BLUE, COLOURS, GREY, SKY, VERMILION, label, new_figure

# opaque, so that one band over another keeps the colour of its legend
PALE_ORANGE, PALE_BLUE = "#F7D9A0", "#9FCBE8"
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True, eq=False)
class Band:
    """A predictive distribution along one input.

    Attributes:
        x: ascending, (points,).
        mean: E[y | x], (points,).
        epistemic: standard deviation that the weights leave, (points,).
        total: that of y, noise included, (points,).
    """

    x: np.ndarray
    mean: np.ndarray
    epistemic: np.ndarray
    total: np.ndarray


def reliability_diagram(found: Mapping[str, Reliability], calibration_errors: Mapping[str, float]) -> Figure:
    """Accuracy over confidence, one column per network; below the diagonal it is surer than it is right.

    Args:
        found: by name.
        calibration_errors: by the same names, for the titles.
    """
    figure = new_figure(5.6, "Reliability: is a confidence of 90 % right 9 times in 10?")
    grid = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for column, (name, bins) in enumerate(found.items()):
        upper, lower = grid[0, column], grid[1, column]
        held = bins.counts > 0
        centres, width = (bins.edges[:-1] + bins.edges[1:]) / 2, bins.edges[1] - bins.edges[0]
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.5, label="perfectly calibrated")
        upper.bar(centres[held], bins.accuracy[held], width=0.94 * width, color=SKY, alpha=0.6, label="accuracy")
        upper.plot(
            bins.confidence[held], bins.accuracy[held], "o", color=BLUE, markersize=5, label="at mean confidence"
        )
        lower.bar(centres[held], bins.counts[held], width=0.94 * width, color=GREY)
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.7)
        first = column == 0
        label(upper, f"{name}\nECE {100 * calibration_errors[name]:.2f} points", "", "accuracy" if first else "")
        label(lower, "", "confidence (largest class probability)", "examples\n(log scale)" if first else "")
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1.02)
    grid[0, 0].legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def rejection_figure(curves: Mapping[str, RejectionCurve], unit: str = "%") -> Figure:
    """What is left of the error when the most uncertain examples are rejected.

    Args:
        curves: by name.
        unit: '%' draws accuracies, 100 · (1 − error); anything else the error itself, with that unit.
    """
    classes = unit == "%"
    title = (
        "Accuracy when the most uncertain examples are rejected" if classes else "Error of the examples that are kept"
    )
    figure = new_figure(5.0, title)
    axes = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        shown = 100 * (1 - curve.error) if classes else curve.error
        area = f"mean {shown.mean():.4g}{' %' if classes else ''}"
        colour, dashes = COLOURS[place % len(COLOURS)], LINES[place % len(LINES)]
        axes.plot(100 * curve.rejected, shown, dashes, color=colour, linewidth=2, label=f"{name}: {area}")
    label(
        axes, "", "examples rejected (%)", "accuracy of those kept (%)" if classes else f"error of those kept ({unit})"
    )
    axes.set_xlim(0, 100)
    axes.legend(fontsize=10, frameon=False)
    return figure


def out_of_distribution_figure(
    inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray], names: tuple[str, str]
) -> Figure:
    """Histograms of each measure of uncertainty on inputs of the kind that was learned and of another kind.

    Args:
        inside: uncertainty in nats by name of the measure, (examples,) each.
        outside: the same measures on the other inputs.
        names: of the two kinds of inputs.
    """
    figure = new_figure(4.6, f"Uncertainty on {names[0]}, which was learned, and on {names[1]}, which was not")
    panels = figure.subplots(1, len(inside), squeeze=False)[0]
    for axes, measure in zip(panels, inside, strict=True):
        edges = np.linspace(0.0, max(1e-6, inside[measure].max(), outside[measure].max()), 41)
        for values, colour, name in ((inside[measure], BLUE, names[0]), (outside[measure], VERMILION, names[1])):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(shares, edges, color=colour, linewidth=1.5, label=name)
        auroc = detection_auroc(inside[measure], outside[measure])
        label(
            axes, f"{measure}: AUROC {auroc:.3f}", "nats", "share of inputs (%, log scale)" if axes is panels[0] else ""
        )
        axes.set_yscale("log")
        axes.legend(fontsize=10, frameon=False)
    return figure


def regression_figure(bands: Mapping[str, Band], x: np.ndarray, y: np.ndarray, title: str) -> Figure:
    """Predictive mean and ±2 standard deviations along one input, a panel for each posterior, with the data.

    Args:
        bands: by name of the posterior.
        x: inputs that were learned from, (examples,).
        y: their targets, (examples,).
        title: of the figure.
    """
    figure = new_figure(4.8, title)
    panels = figure.subplots(1, len(bands), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, band) in zip(panels, bands.items(), strict=True):
        _draw_band(axes, band)
        axes.plot(x, y, ".", color="black", markersize=5, label="data", zorder=3)
        label(axes, name, "x", "y" if axes is panels[0] else "")
        axes.xaxis.set_major_locator(MaxNLocator(7))
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=10, frameon=False)
    return figure


def _draw_band(axes: Axes, band: Band) -> None:
    for spread, colour, name in (
        (band.total, PALE_ORANGE, "±2 sd of y: function and noise"),
        (band.epistemic, PALE_BLUE, "±2 sd of the function (epistemic)"),
    ):
        low, high = band.mean - 2 * spread, band.mean + 2 * spread
        axes.fill_between(band.x, low, high, color=colour, linewidth=0, label=name)
    axes.plot(band.x, band.mean, color=BLUE, linewidth=2, label="mean")
