"""Figures of the codes of single examples: where classes lie, and what single numbers of a code draw."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from pyro_compress.errors import DataError
from pyro_compress.report.drawing import label, label_image, new_figure


def latent_plane(codes: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Codes in a plane, a colour per class: of two numbers as they are, of more along their two principal axes.

    Args:
        codes: (examples, width), such as means of q(z | x); width of at least 2.
        labels: indices of `classes`, (examples,).
        classes: names.

    Raises:
        DataError: a code is one number, or there is not one label per code.
    """
    if codes.ndim != 2 or codes.shape[1] < 2 or labels.shape != codes.shape[:1]:
        raise DataError(
            f"a plane of codes takes (examples, 2 or more numbers) and a label for each, found codes of shape "
            f"{codes.shape} and labels of shape {labels.shape}"
        )
    places, names = principal_plane(codes.astype(np.float64))
    figure = new_figure(8.0, "Codes by class")
    axes = figure.subplots()
    for number, name in enumerate(classes):
        own = places[labels == number]
        axes.scatter(own[:, 0], own[:, 1], s=6, alpha=0.6, color=colormaps["tab10"](number % 10), label=name)
    label(axes, f"{len(codes):,} examples", *names)
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", markerscale=3, frameon=False, ncols=min(len(classes), 10))
    return figure


def principal_plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """Places in the plane, (examples, 2), and what its axes are."""
    if codes.shape[1] == 2:
        return codes, ("z₁", "z₂")
    centred = codes - codes.mean(0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    shares = 100 * scales**2 / (scales**2).sum()
    first, second = (f"principal axis {axis + 1} ({shares[axis]:.0f} % of the codes' variance)" for axis in (0, 1))
    return centred @ directions[:2].T, (first, second)


def component_images(images: np.ndarray, middle: np.ndarray, names: Sequence[str]) -> Figure:
    """What each number of a code draws: red where it adds to the picture of the middle code, blue where it takes away.

    Args:
        images: decoded with that number of the code raised, (numbers, height, width).
        middle: decoded from the middle code, (height, width).
        names: a title for each.
    """
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(1.05 * rows * 10 / columns + 0.6, "What each number of a code draws")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    change = images - middle
    most = float(np.abs(change).max()) or 1.0
    for axes, picture, name in zip(panels, change, names, strict=False):
        axes.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
        label_image(axes, name)
    for axes in panels[len(images) :]:
        axes.set_visible(False)
    return figure
