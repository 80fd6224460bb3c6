"""Figures of a run, each a `matplotlib.figure.Figure` made without pyplot.

One style, labelled axes with units, colours that colour-blind readers tell apart, 1,000 pixels wide.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pyro_compress.posterior.error_unit import PERCENT, ErrorUnit
from pyro_compress.report.drawing import (
    BLUE,
    COLOURS,
    DPI,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILION,
    label,
    label_image,
    magnitude_colours,
    new_figure,
    square_side,
    weight_image,
)

SNR_RANGE = (1e-3, 1e3)

# What may share an axis: never a file's bytes, a formula's bits and a count of weights.
RATE_KINDS = {
    "file": ("Files (measured)", "float32 bytes / bytes of the file"),
    "formula": ("Formulas (estimates of bits)", "float32 bits / estimated bits, weights only"),
    "pruning": ("Counts of weights", "float32 weights / weights left"),
}

# of the fit's history; it holds more
_DRAWN = ("epoch", "data_nats", "complexity_nats", "kl_weight", "validation_error", "weights_left_percent")


class RatePoint(NamedTuple):
    """A point of `error_against_rate`; `kind` is a key of `RATE_KINDS`, `ours` says who measured it."""

    label: str
    rate: float
    error: float
    kind: str
    ours: bool = False


def learning_curve(history: Sequence[Mapping[str, Any]], unit: ErrorUnit = PERCENT) -> Figure:
    """Data and complexity nats, validation error and weights left over epochs; the KL warm-up is shaded.

    Args:
        history: `EpochRecord`s as dicts, as in `posterior.provenance["history"]`.
        unit: of the validation error.
    """
    columns = {key: np.array([record[key] for record in history], dtype=float) for key in _DRAWN}
    epochs = columns["epoch"] + 1
    figure = new_figure(7.0, "Learning curve")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    samples = history[-1].get("objective_name", "ELBO") != "ELBO"
    drawn = (
        (
            "Data misfit, −ln p(y | w)" if samples else "Data misfit, E[−ln p(y | w)]",
            "nats (log scale)",
            -columns["data_nats"],
            BLUE,
        ),
        ("Complexity, −ln p(w)" if samples else "Complexity, KL(q ‖ p)", "nats", columns["complexity_nats"], VERMILION),
        (f"Validation {unit.noun}", f"{unit.sign} (log scale)", unit.scale * columns["validation_error"], GREEN),
        ("Weights left at the default cut", "% of all weights (log scale)", columns["weights_left_percent"], PURPLE),
    )
    for axes, (title, counted_in, values, colour) in zip(panels, drawn, strict=True):
        axes.plot(epochs, values, color=colour, linewidth=2, marker="." if len(epochs) < 40 else None)
        below = axes in panels[2:]
        label(axes, title, history[-1].get("round_name", "epoch") if below else "", counted_in)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
        finite = values[np.isfinite(values)]
        if not finite.size:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", fontsize=11, color="0.4")
        elif "log scale" in counted_in and finite.min() > 0:
            log_axis(axes, "y")
    if samples:
        figure.suptitle("Learning curve of the chains", fontsize=14)
    else:
        _mark_warm_up(figure, epochs, columns["kl_weight"])
    return figure


def _mark_warm_up(figure: Figure, epochs: np.ndarray, kl_weight: np.ndarray) -> None:
    """Shade the epochs whose KL weight is below the last one, and say so in the title."""
    below = kl_weight < kl_weight[-1]
    if not below.any():
        figure.suptitle(f"Learning curve, KL weight {kl_weight[-1]:g}", fontsize=14)
        return
    figure.suptitle(f"Learning curve (shaded: the KL weight rises to {kl_weight[-1]:g})", fontsize=14)
    for axes in figure.axes:
        start, end = epochs[0] - 0.5, epochs[below][-1] + 0.5
        axes.axvspan(start, end, color=ORANGE, alpha=0.15, linewidth=0, zorder=0)


def pruned_architecture(original: Mapping[str, int], left: Mapping[str, int]) -> Figure:
    """Sizes of the layers before and after, as bars with numbers.

    Args:
        original: size (filters of a convolution, inputs of a dense layer) by layer name, in order.
        left: the same of the smaller network.
    """
    names = list(original)
    figure = new_figure(1.6 + 0.55 * len(names), "Architecture before and after structured removal")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, [original[name] for name in names], height=0.7, color="0.87", label="original")
    axes.barh(places, [left[name] for name in names], height=0.7, color=BLUE, label="left")
    widest = max(original.values())
    for place, name in enumerate(names):
        share = 100 * left[name] / original[name]
        text = f"{left[name]:,} of {original[name]:,}  ({share:.0f} %)"
        axes.text(original[name] + 0.01 * widest, place, text, va="center", fontsize=10)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * widest)
    label(axes, "", "filters of a convolution, inputs of a dense layer")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=2, fontsize=10, frameon=False)
    return figure


def weight_matrices(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Figure:
    """|weights| of every layer before and after, zeros white; for image inputs also how much each pixel is used.

    Args:
        before: weight tensors by name, dense (outputs, inputs) or convolution (outputs, inputs, *kernel).
        after: the same names and shapes with zeros where weights are pruned (`SiteDecision.stored()`).
    """
    first = next(iter(before))
    side = square_side(before[first])
    rows = [(name, weight_image(before[name]), weight_image(after[name]), before[name].ndim > 2) for name in before]
    if side is not None:
        usage = [np.abs(held[first]).sum(axis=0).reshape(side, side) for held in (before, after)]
        rows.append((f"inputs of\n{first}", usage[0], usage[1], True))
    heights = [_height_inches(image) if square else 1.7 for _, image, _, square in rows]
    figure = new_figure(0.6 + sum(heights) + 0.35 * len(rows), "Weights before and after (white: exactly zero)")
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for pair, (name, *images, square) in zip(grid, rows, strict=True):
        for axes, image, when, held in zip(pair, images, ("before", "after"), (before, after), strict=True):
            is_usage = name not in before
            counted = f"{np.count_nonzero(image)} of {image.size} pixels used" if is_usage else _not_zero(held[name])
            shape = "" if is_usage else "\n" + " × ".join(str(extent) for extent in before[name].shape)
            label_image(axes, f"{when}: {counted}", name + shape if when == "before" else "")
            # a pixel's use falls by so much that before and after have scales of their own
            scale = _scale([image] if is_usage else images)
            drawn = axes.imshow(image, cmap=magnitude_colours(), norm=scale, interpolation="nearest")
            axes.set_aspect("equal" if square else "auto", anchor="W")
            if is_usage or when == "after":
                bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, extend="max")
                bar.set_label("Σ|w| per pixel" if is_usage else "|w|", fontsize=10)
                bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    return figure


def _height_inches(image: np.ndarray) -> float:
    return float(np.clip(4.2 * image.shape[0] / image.shape[1], 1.4, 2.6))


def _scale(images: Sequence[np.ndarray]) -> Normalize:
    """One colour scale, which ends at the 99.5th percentile so that outliers don't rule it."""
    held = np.concatenate([image[np.isfinite(image) & (image > 0)] for image in images])
    top = float(np.percentile(held, 99.5)) if held.size else 1.0
    return Normalize(vmin=1e-9 * top, vmax=top)


def _not_zero(weight: np.ndarray) -> str:
    return f"{100 * np.count_nonzero(weight) / weight.size:.3g} % of weights not zero"


def snr_histogram(snr: np.ndarray, kept: np.ndarray, cut: float | None = None, rule: str = "") -> Figure:
    """Signal-to-noise ratios |E w| / sd(w) of kept and pruned weights, and where the cut is.

    Args:
        snr: ratios, any shape; those outside `SNR_RANGE` are counted in the outermost bins.
        kept: boolean, of the same shape.
        cut: pruned below this ratio; None where another rule decided.
        rule: that rule in words, for the title.
    """
    figure = new_figure(4.8, "Signal-to-noise ratio of the weights")
    axes = figure.subplots()
    edges = np.geomspace(*SNR_RANGE, 91)
    held = np.clip(snr, *SNR_RANGE)
    for mask, colour, name in ((~kept, GREY, "pruned"), (kept, BLUE, "kept")):
        counts = np.histogram(held[mask], edges)[0]
        share = f"{name}: {int(mask.sum()):,} weights ({100 * mask.mean():.3g} %)"
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45)
        axes.stairs(counts, edges, color=colour, linewidth=1.5, label=share)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xscale("log")
    if cut is not None and cut > 0:
        axes.axvline(cut, color=VERMILION, linestyle="--", linewidth=2, label=f"cut at {cut:.3g}")
    label(axes, rule, "|E w| / sd(w)  (the outermost bins hold everything beyond)", "weights per bin (log scale)")
    axes.legend(fontsize=10, frameon=False)
    return figure


def error_against_rate(points: Sequence[RatePoint], unit: ErrorUnit = PERCENT) -> Figure:
    """Error over compression rate, a panel for each kind of rate: they measure different things.

    Ours are stars, published figures hollow markers under their own names.
    """
    kinds = [kind for kind in RATE_KINDS if any(point.kind == kind for point in points)]
    figure = new_figure(6.0, f"{unit.noun[:1].upper()}{unit.noun[1:]} against compression rate")
    panels = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=False):
        title, ratio = RATE_KINDS[kind]
        published = 0
        for point in (point for point in points if point.kind == kind):
            if point.ours:
                style = {"marker": "*", "markersize": 17, "color": VERMILION, "markeredgecolor": "black"}
            else:
                colour = COLOURS[published % len(COLOURS)]
                style = {"marker": MARKERS[published % len(MARKERS)], "markersize": 9, "color": colour}
                style |= {"fillstyle": "none", "markeredgewidth": 2}
                published += 1
            name = f"{point.label}: {point.rate:,.4g}×, {unit.shown(point.error)}"
            axes.plot([point.rate], [point.error], linestyle="none", label=name, zorder=3, **style)
        log_axis(axes, "x")
        axes.margins(0.15)
        label(axes, title, f"{ratio} (log scale)", f"test {unit.noun} ({unit.sign})" if axes is panels[0] else "")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9.5, frameon=False)
    return figure


# largest over smallest number, beyond which six in each decade lie over one another
WIDE_RANGE = 20.0


def log_axis(axes: Axes, which: str) -> None:
    """A log axis with a few plain numbers in each decade: the fewer, the more decades there are."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    many = low > 0 and high / low > WIDE_RANGE
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if many else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_formatter(NullFormatter())


def plain_number(value: float, _: object) -> str:
    return f"{value:,.10g}"


def save_all(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write each figure as `NAME.png` into `folder`, which is made if need be; returns the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=DPI, metadata={"Software": None})
    return paths
