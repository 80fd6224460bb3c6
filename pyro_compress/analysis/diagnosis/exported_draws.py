"""Which sites and elements are exported, and their draws, read a piece at a time; numpy alone."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from pyro_compress.errors import InferenceError

if TYPE_CHECKING:
    from pyro_compress.posterior.posterior import Posterior

# Sites with two or more axes and more elements than the first are sampled, and vectors from the second on: the
# scales of a layer are to go whole.
LARGE_MATRIX, LARGE_VECTOR = 1000, 10_000
PIECE_NUMBERS = 2**23


@dataclass(frozen=True)
class Plan:
    """What is exported.

    Attributes:
        whole: shapes of the sites that go whole.
        sampled: flat indices of the elements that go, by large site.
        normed: sites whose norm is taken.
        wanted: those of the derived variables that `sites` asked for.
        left_out: in words.
    """

    whole: dict[str, tuple[int, ...]]
    sampled: dict[str, np.ndarray]
    normed: tuple[str, ...]
    wanted: tuple[str, ...]
    left_out: str


@dataclass(frozen=True, eq=False)
class Exported:
    """The draws of a plan, (chain, draw, ...).

    Attributes:
        plan: of what.
        whole: by site.
        elements: (chain, draw, element) of the sampled ones, and their labels 'SITE[index]'.
        norms: Euclidean norm by site, (chain, draw).
        statistics: of the sampler, with 'log_weight' where draws carry weights.
        source: (chain, draw) of each exported draw in `posterior.draws`; None for a guide.
    """

    plan: Plan
    whole: dict[str, np.ndarray]
    elements: np.ndarray
    labels: tuple[str, ...]
    norms: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    source: tuple[np.ndarray, np.ndarray] | None
    given: tuple[int, int]

    def per_draw(self, what: str, values: np.ndarray) -> np.ndarray:
        """The rows of an array with one row per draw of the posterior that go with the exported draws.

        Raises:
            InferenceError: its first two axes are not the posterior's chains and draws.
        """
        values = np.asarray(values)
        if values.shape[:2] != self.given:
            raise InferenceError(
                f"{what} has the shape {values.shape}, expected (chain, draw, ...) = ({self.given[0]}, "
                f"{self.given[1]}, ...): one row per draw of the posterior"
            )
        return values if self.source is None else values[self.source]


def plan(
    posterior: "Posterior", sites: str | Sequence[str] | None, weights: int | None, seed: int, derived: Sequence[str]
) -> Plan:
    """What to export.

    Args:
        posterior: whose sites.
        sites: names or patterns, or None for all.
        weights: elements of the large sites, or None for all.
        seed: of their choice.
        derived: names that patterns may match besides sites.

    Raises:
        InferenceError: a pattern that matches nothing, or a negative number of weights.
    """
    if weights is not None and weights < 0:
        raise InferenceError(f"weights must be at least 0, found {weights}")
    shapes = site_shapes(posterior)
    chosen, left_out = matching([*shapes, *derived], sites), []
    if sites is None:
        skipped = _not_by_default(posterior, shapes)
        chosen = tuple(name for name in chosen if name not in skipped)
        for why in dict.fromkeys(skipped.values()):
            left_out.append(f"{why}: {', '.join(name for name in skipped if skipped[name] == why)}")
    large = {name: shapes[name] for name in chosen if name in shapes and is_large(shapes[name]) and weights is not None}
    whole = {name: shapes[name] for name in chosen if name in shapes and name not in large}
    total = sum(math.prod(shape) for shape in large.values())
    sampled = _sample(large, min(weights or 0, total), np.random.default_rng(seed))
    network = {name for parameter in posterior.parameters for name in shapes if _belongs(name, parameter)}
    normed = tuple(n for n, s in shapes.items() if n in large or (n in chosen and n in network and len(s) > 1))
    if total > sum(len(places) for places in sampled.values()):
        missing = total - sum(len(places) for places in sampled.values())
        left_out.append(f"{missing:,} of {total:,} elements of {', '.join(large)}")
    if sites is not None and (missing_sites := [name for name in shapes if name not in chosen]):
        left_out.append(f"sites not asked for: {', '.join(missing_sites)}")
    wanted = tuple(name for name in derived if name in chosen or (name == "layer_norm" and normed))
    return Plan(whole, sampled, normed, wanted, "; ".join(left_out) or "nothing")


def site_shapes(posterior: "Posterior") -> dict[str, tuple[int, ...]]:
    """Shape of every site that there are draws of, or a guide."""
    if posterior.draws is not None:
        return {name: tuple(shape) for name, shape in posterior.draws.shapes.items()}
    return {name: latent.loc.shape for name, latent in posterior.latents.items()}


def _not_by_default(posterior: "Posterior", shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Why, by site: point estimates do not vary, and of w = z·w̃ the weight itself says more than w̃."""
    found = {n: "point estimates" for n in shapes if n in posterior.parameters and posterior.parameters[n].is_point}
    for name, shape in shapes.items():
        if name in posterior.parameters:  # a parameter itself, whatever its name begins with
            continue
        weight = next((p for p in posterior.parameters if name != p and p in shapes and _belongs(name, p)), None)
        if weight is not None and shape == shapes[weight]:
            found[name] = "factors of weights that are exported"
    return found


def matching(names: Sequence[str], patterns: str | Sequence[str] | None) -> tuple[str, ...]:
    """Those of `names` that any pattern matches, in their order; all for None.

    Raises:
        InferenceError: a pattern matches none; lists them.
    """
    if patterns is None:
        return tuple(names)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
            raise InferenceError(f"sites '{pattern}' matches nothing: there are {', '.join(names)}")
    return tuple(n for n in names if any(n == pattern or fnmatchcase(n, pattern) for pattern in patterns))


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether only a sample of a site's elements is exported."""
    size = math.prod(shape)
    return size > LARGE_VECTOR or (len(shape) > 1 and size > LARGE_MATRIX)


def export_draws(posterior: "Posterior", chosen: Plan, draws: int, seed: int) -> Exported:
    """The draws of what was chosen.

    Chains go whole; where they carry weights, each is drawn again by weight within itself, in order.  Weighted
    independent draws become `draws` equal ones of one chain, and a guide gives `draws`.

    Raises:
        InferenceError: `draws` is less than 1.
    """
    if draws < 1:
        raise InferenceError(f"draws must be at least 1, found {draws}")
    source = _rows(posterior, draws, seed)
    chains, count = (1, draws) if source is None else source[0].shape
    shapes = site_shapes(posterior)
    dtype = np.float32 if posterior.draws is None else posterior.draws.flat.dtype
    whole = {name: np.empty((chains, count, *shape), dtype) for name, shape in chosen.whole.items()}
    elements = np.empty((chains, count, sum(map(len, chosen.sampled.values()))), dtype)
    norms = {name: np.empty((chains, count)) for name in chosen.normed}
    for chain, where, values in _pieces(posterior, chosen, source, draws, seed):
        for name, into in whole.items():
            into[chain, where] = values[name]
        start = 0
        for name, places in chosen.sampled.items():
            flat = values[name].reshape(len(values[name]), -1)
            elements[chain, where, start : start + len(places)] = flat[:, places]
            start += len(places)
        for name, norm in norms.items():
            flat = values[name].reshape(len(values[name]), -1).astype(np.float64)
            norm[chain, where] = np.sqrt(np.einsum("sd,sd->s", flat, flat))
    labels = tuple(label for name, places in chosen.sampled.items() for label in _labels(name, places, shapes[name]))
    held = posterior.draws
    statistics: dict[str, np.ndarray] = {}
    if held is not None and source is not None:
        weights = {} if held.log_weight is None else {"log_weight": held.log_weight}
        statistics = {name: np.asarray(values)[source] for name, values in (dict(held.statistics) | weights).items()}
    given = (1, draws) if held is None else (held.chains, held.count)
    return Exported(chosen, whole, elements, labels, norms, statistics, source, given)


def _rows(posterior: "Posterior", draws: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(chain, draw) of every exported draw in the posterior's, each (chains, count); None for a guide."""
    held = posterior.draws
    if held is None:
        return None
    if held.log_weight is None:
        chain, draw = np.indices((held.chains, held.count))
        return chain, draw
    generator = np.random.default_rng(seed)
    weights = held.weights()
    if posterior.kind == "chains":
        each = [np.sort(_systematic(row / row.sum(), held.count, generator)) for row in weights]
        return np.indices((held.chains, held.count))[0], np.stack(each)
    flat = generator.permutation(_systematic(weights.ravel(), draws, generator))
    chain, draw = np.unravel_index(flat, weights.shape)
    return chain[None], draw[None]


def _systematic(weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Indices drawn by weight at evenly spaced places: index i comes ⌊count·w_i⌋ or ⌈count·w_i⌉ times."""
    places = (generator.uniform() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), places, side="right"), np.flatnonzero(weights).max())


def _pieces(
    posterior: "Posterior", chosen: Plan, source: tuple[np.ndarray, np.ndarray] | None, draws: int, seed: int
) -> Iterator[tuple[int, slice, dict[str, np.ndarray]]]:
    """(chain, draws, values by site, each (draws, *shape)), bounded in memory."""
    read = {*chosen.whole, *chosen.sampled, *chosen.normed}
    held = posterior.draws
    width = sum(math.prod(shape) for shape in site_shapes(posterior).values())
    step = max(1, PIECE_NUMBERS // max(1, width))
    if held is None or source is None:
        # a stream per site: what a site's draws are does not depend on which others are exported
        streams = {name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in read}
        for start in range(0, draws, step):
            size = min(step, draws - start)
            sampled = {name: posterior.latents[name].sample(size, streams[name]) for name in read}
            yield 0, slice(start, start + size), sampled
        return
    for chain in range(source[0].shape[0]):
        for start in range(0, source[0].shape[1], step):
            rows = (source[0][chain, start : start + step], source[1][chain, start : start + step])
            piece = np.asarray(held.flat[rows])
            values = {n: piece[:, w].reshape(len(piece), *held.shapes[n]) for n, w in held.slices() if n in read}
            yield chain, slice(start, start + len(piece)), values


def _sample(large: dict[str, tuple[int, ...]], count: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Flat indices by site of `count` elements, all elements of all large sites with the same chance."""
    if not large or count == 0:
        return {}
    ends = np.cumsum([math.prod(shape) for shape in large.values()])
    flat = np.sort(generator.choice(ends[-1], size=count, replace=False))
    found, start = {}, 0
    for name, end in zip(large, ends, strict=True):
        found[name] = flat[(flat >= start) & (flat < end)] - start
        start = end
    return {name: places for name, places in found.items() if len(places)}


def _labels(name: str, places: np.ndarray, shape: tuple[int, ...]) -> Iterator[str]:
    for place in zip(*np.unravel_index(places, shape), strict=True):
        yield f"{name}[{','.join(str(index) for index in place)}]"


def _belongs(site: str, parameter: str) -> bool:
    return site == parameter or site.startswith(f"{parameter}.")
