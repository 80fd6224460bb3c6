"""The one style of all figures, and how a weight tensor becomes an image."""

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with every common colour blindness, and in this order in print
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9A9A9A",
)  # fmt: skip
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DPI = 100
WIDTH_INCHES = 10.0
_SIZES = {"title": 12, "label": 11, "tick": 10}


def new_figure(height_inches: float, title: str) -> Figure:
    """A figure 1,000 pixels wide, outside pyplot: nothing global knows of it."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=14)
    return figure


def label(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title, axis labels with units, quiet grid, no box."""
    axes.set_title(title, fontsize=_SIZES["title"], loc="left")
    axes.set_xlabel(x, fontsize=_SIZES["label"])
    axes.set_ylabel(y, fontsize=_SIZES["label"])
    axes.tick_params(labelsize=_SIZES["tick"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def label_image(axes: Axes, title: str, y: str = "") -> None:
    """Title and a name at the left, a thin frame, no ticks."""
    axes.set_title(title, fontsize=_SIZES["label"], loc="left")
    axes.set_ylabel(y, fontsize=_SIZES["tick"])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.8)


def magnitude_colours() -> Colormap:
    """For magnitudes: exact zeros (under) white, gaps between kernels (bad) grey, then light to dark."""
    return colormaps["viridis_r"].with_extremes(bad="0.85", under="white")


def weight_image(weight: np.ndarray, most_pixels: int = 400) -> np.ndarray:
    """|w| as an image, (height, width) float64; NaN between kernels.

    A dense weight (outputs, inputs) is its own image, and the pixels of one larger than `most_pixels` hold the largest
    of a block of weights, so that no lonely weight is lost.  A convolution (outputs, inputs, *kernel) is a table of
    kernels: inputs down and outputs across, or the other way round with more inputs than outputs; with one input the
    kernels are laid out row by row.
    """
    magnitude = np.abs(weight.astype(np.float64))
    if magnitude.ndim == 3:  # over a series, whose kernels are one row high
        magnitude = magnitude[:, :, None]
    if magnitude.ndim > 2 and 1 < magnitude.shape[1] < magnitude.shape[0]:
        magnitude = magnitude.swapaxes(0, 1)
    if magnitude.ndim == 2:
        return _largest_of_blocks(magnitude, most_pixels)
    down, across, height, width = magnitude.shape
    rows, columns = (down, across) if across > 1 else _near_square(down)
    kernels = np.full((rows * columns, height + 1, width + 1), np.nan)
    kernels[: down * across, :height, :width] = magnitude.reshape(-1, height, width)
    table = kernels.reshape(rows, columns, height + 1, width + 1).transpose(0, 2, 1, 3)
    return table.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def square_side(weight: np.ndarray) -> int | None:
    """28 for a dense weight with 784 inputs: the side of the image that its inputs may be; None if not square."""
    if weight.ndim != 2:
        return None
    side = math.isqrt(weight.shape[1])
    return side if side > 3 and side * side == weight.shape[1] else None


def _near_square(count: int) -> tuple[int, int]:
    rows = max(1, math.isqrt(count))
    return rows, math.ceil(count / rows)


def _largest_of_blocks(image: np.ndarray, most_pixels: int) -> np.ndarray:
    for axis in (0, 1):
        block = math.ceil(image.shape[axis] / most_pixels)
        image = np.maximum.reduceat(image, np.arange(0, image.shape[axis], block), axis=axis)
    return image
