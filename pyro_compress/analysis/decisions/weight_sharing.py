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
from collections.abc import Mapping

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.network.name_patterns import by_name
from pyro_compress.network.quantizers import Codebook, Uniform, bits_for

GRID_BITS = 12
MOST_ROUNDS = 100
MOST_LEVELS = 256
STARTS = ("density", "linear", "random")


def weight_sharing(
    decision: Decision,
    levels: int | Mapping[str, int] = 16,
    *,
    real: bool = False,
    start: str = "density",
    seed: int = 0,
) -> Decision:
    """The decision with the kept weights of every layer moved to at most `levels` shared values each.

    A level is a multiple of the largest kept weight's magnitude / 2¹¹, rounded up to a power of two, so that its
    integers fit 13 bits.  Biases stay, and so do layers with no more different values than levels, unless they are
    real.

    Args:
        decision: which weights are kept, e.g. `prune(posterior)`, and their values and variances.  Where a layer has
            no variance (point estimates) all its weights count alike.
        levels: K, different non-zero values per layer, 1 to 256; at most 255 of one sign if they are real.  Or K by
            patterns of parameter names, and layers that none matches stay.
        real: levels are the float32 numbers that Lloyd's algorithm finds, which cost 4 bytes each in the file and about
            two as multiples.  Two of them make ternary weights.
        start, seed: see `lloyd_max`.

    Raises:
        DecisionError: the number of levels is out of range; a pattern matches no weight, or two match one.
    """
    weights = [name for name, site in decision.sites.items() if site.value.ndim > 1]
    counts = by_name("levels", levels, weights, "weight", DecisionError)
    for count in counts.values():
        if not 1 <= count <= MOST_LEVELS:
            raise DecisionError(f"a codebook has 1 to {MOST_LEVELS} levels, found {count}")
    shared = {
        name: _shared(decision.sites[name], count, real, start, seed + place)
        for place, (name, count) in enumerate(counts.items())
    }
    said = dict(levels) if isinstance(levels, Mapping) else levels
    return decision.with_sites(shared, codebook_levels=said)


def lloyd_max(
    values: np.ndarray, precisions: np.ndarray, levels: int, start: str = "density", seed: int = 0
) -> np.ndarray:
    """(n,) float64: for every value the level that it takes, at most `levels` different ones.

    A level that has no values takes over the one that is farthest from its own level, as scikit-learn's k-means does.

    Args:
        values, precisions: (n,).
        levels: K.
        start: where the levels start (Han et al. 2016): `density`, at the middles of K parts that hold equally many
            values; `linear`, evenly from the least value to the largest, so that the few large weights have levels of
            their own; `random`, at K of the values (Forgy).
        seed: of a random start.

    Raises:
        DecisionError: there is no such start.
    """
    values = values.astype(np.float64)
    book, last = _start(values, levels, start, seed), None
    for _ in range(MOST_ROUNDS):
        nearest = np.searchsorted((book[1:] + book[:-1]) / 2, values)
        if last is not None and np.array_equal(nearest, last):
            break
        taken = _none_empty(nearest, values, book)
        weight = np.bincount(taken, precisions, len(book))
        total = np.bincount(taken, precisions * values, len(book))
        book, last = (
            np.sort(np.divide(total, weight, out=book, where=weight > 0)),
            nearest if taken is nearest else None,
        )
    return book[np.searchsorted((book[1:] + book[:-1]) / 2, values)]


def _none_empty(nearest: np.ndarray, values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """The assignment with the values that are farthest from their levels given to levels without any."""
    empty = np.flatnonzero(np.bincount(nearest, minlength=len(book)) == 0)
    if not empty.size:
        return nearest
    distance = np.abs(values - book[nearest])
    farthest = np.argsort(-distance, kind="stable")[: empty.size]
    farthest = farthest[distance[farthest] > 0]
    if not farthest.size:
        return nearest
    moved = nearest.copy()
    moved[farthest] = empty[: farthest.size]
    return moved


def _start(values: np.ndarray, levels: int, start: str, seed: int) -> np.ndarray:
    """Increasing levels to start from."""
    match start:
        case "density":
            return np.unique(np.quantile(values, (np.arange(levels) + 0.5) / levels))
        case "linear":
            return np.unique(np.linspace(values.min(), values.max(), levels))
        case "random":
            different = np.unique(values)
            chosen = np.random.default_rng(seed).choice(different, min(levels, different.size), replace=False)
            return np.sort(chosen)
    raise DecisionError(unknown_name("start of k-means", start, STARTS))


def _shared(site: SiteDecision, levels: int, real: bool, start: str, seed: int) -> SiteDecision:
    kept = site.stored() != 0
    values = site.value[kept]
    few = len(np.unique(values)) <= levels
    if few and (not real or site.quantizer is not None):
        return site
    variance = site.variance[kept].astype(np.float64)
    known = variance > 0
    least = variance[known].min() if known.any() else 1.0
    moved = values if few else lloyd_max(values, 1 / np.where(known, variance, least), levels, start, seed)
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
