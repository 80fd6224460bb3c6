"""Figures that go with tables of many runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_compress.report.drawing import COLOURS, GREY, MARKERS, VERMILION, label, new_figure
from pyro_compress.report.figures import log_axis

BINS = 201
STROKES = ("-", "--", ":")


class SizePoint(NamedTuple):
    """A file: its bytes, and the error of what it decodes to."""

    label: str
    file_bytes: float
    error_percent: float
    ours: bool = True


class Training(NamedTuple):
    """A fit's course: −data nats per example of every epoch, and validation errors in %."""

    nats_per_example: np.ndarray
    validation_error_percent: np.ndarray


def weight_distributions(weights: Mapping[str, np.ndarray]) -> Figure:
    """Densities of all weights of some networks, each normalised, on a log scale.

    Args:
        weights: by name of the method, flat.
    """
    figure = new_figure(5.4, "Distribution of the weights")
    axes = figure.subplots()
    reach = max(float(np.quantile(np.abs(held), 0.9995)) for held in weights.values())
    edges = np.linspace(-reach, reach, BINS)
    for place, (name, held) in enumerate(weights.items()):
        density, _ = np.histogram(held, edges, density=True)
        said = f"{name}: sd {held.std():.3g}"
        axes.stairs(density, edges, linewidth=1.6, label=said, **_line(place))
    axes.set_yscale("log")
    label(axes, "", "weight (posterior mean where there is a posterior)", "density (log scale)")
    axes.legend(fontsize=10, frameon=False)
    return figure


def loss_curves(fits: Mapping[str, Training]) -> Figure:
    """Training loss and validation error over epochs, a line per method."""
    figure = new_figure(5.4, "Loss while training")
    panels = figure.subplots(1, 2)
    titles = ("Training loss, −ln p(y | x, w)", "nats per example (log scale)"), ("Validation error", "% (log scale)")
    for axes, (title, unit), kind in zip(panels, titles, (0, 1), strict=True):
        for place, (name, fit) in enumerate(fits.items()):
            values = fit[kind]
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, linewidth=1.8, label=name, **_line(place))
        label(axes, title, "epoch", unit)
        log_axis(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(
        *panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10, frameon=False
    )
    return figure


def _line(place: int) -> dict[str, Any]:
    """Colour and stroke of the place-th line: strokes change where colours begin anew."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": STROKES[place // len(COLOURS) % len(STROKES)]}


def scale_mixture(mixture: float, wide: float, narrow: float) -> Figure:
    """The density π N(0, σ₁²) + (1 − π) N(0, σ₂²) and its parts, at two magnifications of the axis of densities.

    Args:
        mixture: π.
        wide, narrow: σ₁ and σ₂.
    """
    figure = new_figure(4.6, f"Scale mixture of two normals, π = {mixture:g}, σ₁ = {wide:.4g}, σ₂ = {narrow:.4g}")
    panels = figure.subplots(1, 2)
    for axes, reach, title in zip(panels, (8 * narrow, 3 * wide), ("The spike, near zero", "The slab"), strict=True):
        w = np.linspace(-reach, reach, 2001)
        slab, spike = mixture * normal_density(w, wide), (1 - mixture) * normal_density(w, narrow)
        for place, (name, density) in enumerate(
            (("π N(0, σ₁²)", slab), ("(1 − π) N(0, σ₂²)", spike), ("mixture", slab + spike))
        ):
            axes.plot(w, density, color=COLOURS[place], linewidth=1.8, linestyle="--" if place < 2 else "-", label=name)
        label(axes, title, "weight", "density")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[1].set_ylim(0, 1.5 * mixture * float(normal_density(np.zeros(1), wide)[0]))
    panels[0].legend(fontsize=10, frameon=False)
    return figure


def normal_density(w: np.ndarray, sd: float) -> np.ndarray:
    """N(w; 0, sd²)."""
    return np.exp(-0.5 * (w / sd) ** 2) / (sd * np.sqrt(2 * np.pi))


def error_against_bytes(points: Sequence[SizePoint], most_error_percent: float | None = None) -> Figure:
    """Test error of decoded files over their bytes; published sizes of files are hollow."""
    figure = new_figure(7.0, "Error against size of the file")
    axes = figure.subplots()
    for place, point in enumerate(sorted(points, key=lambda point: point.file_bytes)):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[(place // len(COLOURS) + place) % len(MARKERS)]
        axes.plot(
            [point.file_bytes],
            [point.error_percent],
            linestyle="none",
            marker=marker,
            markersize=10,
            color=colour if point.ours else GREY,
            fillstyle="full" if point.ours else "none",
            markeredgewidth=1.5,
            label=f"{point.label}: {point.file_bytes:,.0f} bytes, {point.error_percent:.2f} %",
            zorder=3,
        )
    if most_error_percent is not None:
        axes.axhline(most_error_percent, color=VERMILION, linestyle="--", linewidth=1.2)
    log_axis(axes, "x")
    axes.margins(0.1)
    label(axes, "", "bytes of the file (log scale)", "test error of what it decodes to (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=9.5, frameon=False)
    return figure
