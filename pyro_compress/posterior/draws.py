"""Draws of a model's latent sites: arrays (chain, draw, *shape) with their weights and sample statistics.

Draws may be larger than memory.  They lie in one array (chain, draw, D) on disk or in memory, of which every site
is a slice; moments read it in pieces.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyro_compress.errors import InferenceError
from pyro_compress.files import replacing, write_atomically

# draws that are read at once when moments are taken
PIECE_BYTES = 64 * 2**20
# statistic of independent draws of a guide: log q(θ) in nats, which Pareto k-hat needs
GUIDE_DENSITY = "guide_log_density"


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of every latent site, in the space in which the model declares it.

    Attributes:
        flat: float32 or float64, (chain, draw, D), all sites side by side; may be memory-mapped.
        shapes: shape of every site by name, in the order in which they lie in `flat`.
        log_weight: (chain, draw), logarithms of importance weights up to a constant; None if all count the same.
        statistics: what the sampler noted per draw, (chain, draw), by ArviZ's names: 'lp' (log joint in nats),
            'acceptance_rate', 'step_size', 'tree_depth', 'n_steps', 'diverging', 'energy'; of draws of a guide
            `GUIDE_DENSITY`.
        derived: names of sites that follow from the others, such as w = z·w̃, or are point-estimated on the way.
        fixed: by site, flat indices of the numbers that its support leaves no choice, such as what lies above the
            diagonal of a Cholesky factor.
    """

    flat: np.ndarray
    shapes: Mapping[str, tuple[int, ...]]
    log_weight: np.ndarray | None = None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = sum(math.prod(shape) for shape in self.shapes.values())
        if self.flat.ndim != 3 or self.flat.shape[2] != width:
            raise InferenceError(
                f"draws have the shape {self.flat.shape}, expected (chain, draw, {width}) for the sites "
                f"{', '.join(self.shapes)}"
            )
        for name, values in {"log_weight": self.log_weight, **self.statistics}.items():
            if values is not None and values.shape != self.flat.shape[:2]:
                raise InferenceError(
                    f"'{name}' has the shape {values.shape}, expected (chain, draw) = {self.flat.shape[:2]}"
                )

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.flat.shape[0]

    @property
    def count(self) -> int:
        """Draws per chain."""
        return self.flat.shape[1]

    def slices(self) -> Iterator[tuple[str, slice]]:
        """(name, where it lies along the last axis) of every site."""
        start = 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            yield name, slice(start, end)
            start = end

    def site(self, name: str) -> np.ndarray:
        """(chain, draw, *shape) of one site, a view.

        Raises:
            InferenceError: there is no such site; lists those there are.
        """
        for known, where in self.slices():
            if known == name:
                return self.flat[:, :, where].reshape(self.chains, self.count, *self.shapes[name])
        raise InferenceError(f"there are no draws of '{name}': the sites are {', '.join(self.shapes)}")

    def weights(self) -> np.ndarray:
        """float64, (chain, draw): weights that sum to one over all chains and draws."""
        if self.log_weight is None:
            return np.full((self.chains, self.count), 1.0 / (self.chains * self.count))
        raised = np.exp(self.log_weight.astype(np.float64) - self.log_weight.max())
        return raised / raised.sum()

    def effective_count(self) -> float:
        """1 / Σ w², the number of equally weighted draws that would know as much (Kong 1992)."""
        return float(1.0 / np.square(self.weights()).sum())

    def select(self, chain: int, count: int | None = None) -> "Draws":
        """One chain of these; its first `count` draws, or all of them."""
        if not 0 <= chain < self.chains:
            raise InferenceError(f"there is no chain {chain}: chains are 0 to {self.chains - 1}")
        part = slice(chain, chain + 1), slice(count)
        return Draws(
            self.flat[part],
            self.shapes,
            None if self.log_weight is None else self.log_weight[part],
            {name: values[part] for name, values in self.statistics.items()},
            self.derived,
            self.fixed,
        )

    def rows(self) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """(weight, values by site) of every draw, chain by chain; reads one draw at a time."""
        weights = self.weights()
        for chain in range(self.chains):
            for draw in range(self.count):
                row = np.asarray(self.flat[chain, draw])
                values = {name: row[where].reshape(self.shapes[name]) for name, where in self.slices()}
                yield float(weights[chain, draw]), values

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(weighted mean, weighted variance) of every site over all chains, float64 of the site's shape.

        The variance is Σ w (x − m)², without a correction for few draws.  Reads a piece of the draws at a time.
        """
        weights, width = self.weights(), self.flat.shape[2]
        per_piece = max(1, PIECE_BYTES // max(1, 8 * width))
        pieces = (
            (weights[chain, start : start + per_piece], self.flat[chain, start : start + per_piece])
            for chain in range(self.chains)
            for start in range(0, self.count, per_piece)
        )
        _, mean, variance = moments_of(pieces, width)
        shaped = {name: (mean[where], variance[where]) for name, where in self.slices()}
        return {name: (m.reshape(self.shapes[name]), v.reshape(self.shapes[name])) for name, (m, v) in shaped.items()}

    def save(self, folder: Path) -> None:
        """Write draws.npy (unless the draws lie there already) and draws.json, each through a temporary file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "draws.npy"
        there = Path(getattr(self.flat, "filename", None) or "") == path
        # a part of what lies there is mapped from the same file
        if not there or np.load(path, mmap_mode="r").shape != self.flat.shape:
            with replacing(path) as file:
                np.save(file, self.flat)
        per_draw = dict(self.statistics) | ({} if self.log_weight is None else {"log_weight": self.log_weight})
        with replacing(folder / "draw_statistics.npz") as file:
            np.savez(file, **per_draw)  # type: ignore[arg-type]
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        text = json.dumps({"shapes": shapes, "derived": list(self.derived), "fixed": dict(self.fixed)})
        write_atomically(folder / "draws.json", text + "\n")

    @staticmethod
    def load(folder: Path) -> "Draws":
        """Read what `save` wrote; the draws stay on disk until they are looked at.

        Raises:
            InferenceError: a file is missing or damaged.
        """
        try:
            flat = np.load(folder / "draws.npy", mmap_mode="r")
            with np.load(folder / "draw_statistics.npz") as held:
                statistics = {name: held[name] for name in held.files}
            described = json.loads((folder / "draws.json").read_text())
            shapes = {name: tuple(shape) for name, shape in described["shapes"].items()}
            fixed = {name: tuple(places) for name, places in described.get("fixed", {}).items()}
            derived, weight = tuple(described["derived"]), statistics.pop("log_weight", None)
            return Draws(flat, shapes, weight, statistics, derived, fixed)
        except (OSError, ValueError, KeyError, InferenceError) as error:
            raise InferenceError(f"{folder} does not hold draws ({error}): run `pyro-compress fit` first") from error


def moments_of(pieces: Iterable[tuple[np.ndarray, np.ndarray]], width: int) -> tuple[float, np.ndarray, np.ndarray]:
    """(total weight, weighted mean, weighted variance) of rows that come in pieces: weights (n,), values (n, width).

    The variance is Σ w (x − m)² / Σ w; both are float64, (width,), and zero where no row has any weight.
    """
    total, mean, spread = 0.0, np.zeros(width), np.zeros(width)
    for share, rows in pieces:
        piece = np.asarray(rows, dtype=np.float64)
        here = float(share.sum())
        if here == 0.0:
            continue
        # pieces are merged as Chan et al. (1979) do: no difference of two large sums
        local = share @ piece / here
        change = local - mean
        spread += share @ np.square(piece - local) + np.square(change) * total * here / (total + here)
        mean += change * here / (total + here)
        total += here
    return total, mean, spread / total if total else spread
