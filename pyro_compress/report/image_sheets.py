"""Outputs of a decoder as images, side by side."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave

from pyro_compress.errors import DataError
from pyro_compress.report.drawing import label_image, new_figure

GAP, GAP_GREY = 1, 0.5
SHEET_PIXELS = 800


def images_of(values: np.ndarray) -> np.ndarray:
    """Outputs as images: (examples, height, width, channels), of one channel or three.

    Args:
        values: (examples, channels, height, width), or flat, one square image or three, one after the other.

    Raises:
        DataError: they are neither.
    """
    shape, count = values.shape[1:], len(values)
    if len(shape) == 1:
        for channels in (1, 3):
            side = isqrt(shape[0] // channels)
            if side > 1 and channels * side * side == shape[0]:
                shape = (channels, side, side)
                break
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"outputs of shape {tuple(values.shape[1:])} are no images: expected (channels, height, width) with one "
            "channel or three, or as many numbers as square images have"
        )
    return values.reshape(count, *shape).transpose(0, 2, 3, 1)


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images row by row with grey lines between them, clipped to 0..1: (height, width, channels)."""
    rows = -(-len(images) // columns)
    _, height, width, channels = images.shape
    found = np.full((rows * (height + GAP), columns * (width + GAP), channels), GAP_GREY, np.float32)
    for number, image in enumerate(images):
        down, right = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        found[down : down + height, right : right + width] = image.clip(0, 1)
    return found[:-GAP, :-GAP]


def save_sheet(path: Path, images: np.ndarray, columns: int) -> None:
    """A PNG of whole pixels, enlarged to about `SHEET_PIXELS` across.

    Raises:
        DataError: the file's name does not end in .png.
    """
    if path.suffix != ".png":
        raise DataError(f"images are written as .png, '{path.name}' does not end so: rename it")
    drawn = sheet(images, columns)
    factor = max(1, SHEET_PIXELS // drawn.shape[1])
    drawn = drawn.repeat(factor, 0).repeat(factor, 1)
    grey = drawn.shape[2] == 1
    imsave(path, drawn[..., 0] if grey else drawn, cmap="gray", vmin=0, vmax=1)


def sheet_figure(title: str, panels: Sequence[tuple[str, np.ndarray, int]]) -> Figure:
    """Sheets side by side: (name, images, columns) each."""
    drawn = [(name, sheet(images, columns)) for name, images, columns in panels]
    widths = [image.shape[1] for _, image in drawn]
    height = 9.5 * max(image.shape[0] for _, image in drawn) / sum(widths) + 0.8
    figure = new_figure(min(height, 12.0), title)
    axes = figure.subplots(1, len(drawn), width_ratios=widths, squeeze=False)[0]
    for place, (name, image) in zip(axes, drawn, strict=True):
        place.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
        label_image(place, name)
    return figure
