"""A codebook that the weights of a layer share: few values, learnt where the posterior is precise.

    minimise over levels c and assignments a   Σ_i (μ_i − c_{a(i)})² / σ_i²

The distortion is twice what the step away from the mean costs in nats under a normal posterior. Lloyd's algorithm
gives each weight its nearest level and each level the precision-weighted mean of its weights, until nothing
changes; zero is no level, since pruning is zero bits. Levels then go to a fine power-of-two grid, where the encoder
stores places in the book if that takes fewer bytes; or they stay real numbers, and the grid is a `Codebook`.

Sources: Lloyd (1982) and Max (1960); weight sharing by k-means, Han et al. (2016); the soft form, Ullrich et al.
(2017).
"""

import math

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook, Uniform, bits_for

GRID_BITS = 12
MOST_ROUNDS = 100
MOST_LEVELS = 256


def weight_sharing(decision: Decision, levels: int = 16, *, real: bool = False) -> Decision:
    """The decision with the kept weights of every layer moved to at most `levels` shared values each.

    A level is a multiple of the largest kept weight's magnitude / 2¹¹, rounded up to a power of two, so that its
    integers fit 13 bits.  Biases, and layers with no more different values than levels, stay.

    Args:
        decision: which weights are kept, e.g. `prune(posterior)`, and their values and variances.  Where a layer has
            no variance (point estimates) all its weights count alike.
        levels: K, different non-zero values per layer, 1 to 256; at most 255 of one sign if they are real.
        real: levels are the float32 numbers that Lloyd's algorithm finds, which cost 4 bytes each in the file and about
            two as multiples.  Two of them make ternary weights.

    Raises:
        DecisionError: the number of levels is out of range.
    """
    if not 1 <= levels <= MOST_LEVELS:
        raise DecisionError(f"a codebook has 1 to {MOST_LEVELS} levels, found {levels}")
    shared = {name: _shared(site, levels, real) for name, site in decision.sites.items() if site.value.ndim > 1}
    return decision.with_sites(shared, codebook_levels=levels)


def lloyd_max(values: np.ndarray, precisions: np.ndarray, levels: int) -> np.ndarray:
    """(n,) float64: for every value the level that it takes, at most `levels` different ones.

    Levels start at the middles of parts that hold equally many values.  A level that loses all its values is dropped.
    """
    values = values.astype(np.float64)
    book = np.unique(np.quantile(values, (np.arange(levels) + 0.5) / levels))
    last = None
    for _ in range(MOST_ROUNDS):
        nearest = np.searchsorted((book[1:] + book[:-1]) / 2, values)
        if last is not None and np.array_equal(nearest, last):
            break
        weight = np.bincount(nearest, precisions, len(book))
        total = np.bincount(nearest, precisions * values, len(book))
        book, last = total[weight > 0] / weight[weight > 0], nearest if (weight > 0).all() else None
    return book[np.searchsorted((book[1:] + book[:-1]) / 2, values)]


def _shared(site: SiteDecision, levels: int, real: bool) -> SiteDecision:
    kept = site.stored() != 0
    values = site.value[kept]
    if len(np.unique(values)) <= levels:
        return site
    variance = site.variance[kept].astype(np.float64)
    known = variance > 0
    least = variance[known].min() if known.any() else 1.0
    moved = lloyd_max(values, 1 / np.where(known, variance, least), levels)
    if real:
        moved = moved.astype(np.float32)
        stored = np.zeros_like(site.value)
        stored[kept] = moved
        book = Codebook(tuple(np.unique(moved[moved != 0]).tolist()))
        bits = np.where(kept, FLOAT_BITS, 0).astype(np.uint8)
        return site.moved_to(stored, bits=bits, quantizer=None).on(book)
    step = 2.0 ** (math.ceil(math.log2(float(np.abs(values).max()))) - GRID_BITS + 1)
    integers = np.rint(moved / step)
    integers = np.where(integers == 0, np.sign(moved), integers)
    stored, bits = np.zeros_like(site.value), np.zeros_like(site.bits)
    stored[kept], bits[kept] = integers * step, bits_for(integers)
    return SiteDecision(stored, site.variance, bits, Uniform(step))
