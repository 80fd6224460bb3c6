"""Tensors whose numbers are few different ones, far apart: what is coded is each number's place in their codebook.

Places count from zero, which is always in the book: 1, 2, ... are the positive levels, −1, −2, ... the negative ones.
"""

import numpy as np

from pyro_compress.errors import ArtifactError
from pyro_compress.network.quantizers import MOST_LEVELS

FEWEST_PER_LEVEL = 4


def codebook_of(integers: np.ndarray) -> tuple[int, ...]:
    """The non-zero integers that occur, in order; () if they are many, or if all integers up to the largest occur."""
    levels, counts = np.unique(integers[integers != 0], return_counts=True)
    above = int((levels > 0).sum())
    below = len(levels) - above
    if max(above, below) > MOST_LEVELS or counts.sum() < FEWEST_PER_LEVEL * len(levels):
        return ()
    complete = above == levels.max(initial=0) and below == -levels.min(initial=0)
    return () if complete else tuple(levels.tolist())


def places_in(integers: np.ndarray, codebook: tuple[int, ...]) -> np.ndarray:
    """The place of every integer, int32; all are in the book."""
    levels = _with_zero(codebook)
    return (np.searchsorted(levels, integers) - np.flatnonzero(levels == 0)[0]).astype(np.int32)


def levels_at(places: np.ndarray, codebook: tuple[int, ...]) -> np.ndarray:
    """The integers at these places, int32.

    Raises:
        ArtifactError: a place is not in the book, or nothing has one of its places.
    """
    levels = _with_zero(codebook)
    index = places.astype(np.int64) + np.flatnonzero(levels == 0)[0]
    if index.size and not (index.min() >= 0 and index.max() < len(levels)):
        raise ArtifactError("a number has a place that is not in its codebook")
    seen = np.bincount(index.ravel(), minlength=len(levels)) > 0
    if not seen[levels != 0].all():
        raise ArtifactError("a codebook holds numbers that do not occur")
    return levels[index]


def _with_zero(codebook: tuple[int, ...]) -> np.ndarray:
    return np.sort(np.array([0, *codebook], np.int32))
