"""Where a sampler puts its draws: in memory, or on disk where they are many or a run must survive a kill."""

import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.posterior.draws import Draws


class DrawStore:
    """Room for a known number of draws, filled in order.

    Args:
        chains, capacity: draws per chain that there is room for.
        shapes: of the sites, by name, in flat order.
        statistics: names of what is noted per draw.
        limit_bytes: above this, draws go to disk.
        dtype: of the numbers, float32 or float64.
        folder: where they go, or None for a temporary folder that goes with this object.
        derived: names among `shapes` that follow from the others.
        fixed: see `Draws`.
    """

    def __init__(
        self,
        chains: int,
        capacity: int,
        shapes: Mapping[str, tuple[int, ...]],
        statistics: tuple[str, ...],
        *,
        limit_bytes: int,
        dtype: Any = np.float32,
        folder: Path | None = None,
        derived: tuple[str, ...] = (),
        fixed: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.shapes, self.derived, self.fixed, self.filled = dict(shapes), derived, dict(fixed or {}), 0
        self.dtype = np.dtype(dtype)
        width = sum(math.prod(shape) for shape in self.shapes.values())
        self.flat = np.empty((chains, 0, width), self.dtype)
        self.statistics = {name: np.zeros((chains, capacity)) for name in statistics}
        self.capacity = capacity
        self._wanted, self._limit = (chains, capacity, width), limit_bytes
        self._folder = folder
        self._opened = False

    @property
    def on_disk(self) -> bool:
        """Whether draws are kept in a file that outlives the process."""
        return self._folder is not None

    def keep_in(self, folder: Path) -> None:
        """Keep draws in `folder`; must be said before the first draw."""
        if self._opened:
            raise InferenceError("draws have been stored already: say where they go before the first one")
        self._folder = folder

    def _open(self, again: bool = False) -> None:
        """Make room; where a run goes on, `again`, in the file that holds its draws."""
        if self._opened:
            return
        self._opened = True
        if self._folder is None and math.prod(self._wanted) * self.dtype.itemsize <= self._limit:
            self.flat = np.empty(self._wanted, self.dtype)
            return
        folder = self._folder or Path(tempfile.mkdtemp(prefix="pyro-compress-draws-"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "draws.npy"
        if again:
            self.flat = np.lib.format.open_memmap(path, mode="r+")
            if (self.flat.shape, self.flat.dtype) != (self._wanted, self.dtype):
                raise InferenceError(f"{path} holds draws of another run: start this one afresh")
        else:
            # not into an old one, which a posterior may still read
            path.unlink(missing_ok=True)
            self.flat = np.lib.format.open_memmap(path, mode="w+", dtype=self.dtype, shape=self._wanted)
        if self._folder is None:
            # goes with the array, which a posterior may hold longer than this object
            weakref.finalize(self.flat, shutil.rmtree, folder, ignore_errors=True)

    def add(self, flat: np.ndarray, statistics: Mapping[str, np.ndarray]) -> None:
        """One draw per chain: values (chain, D), and what was noted, (chain,) each."""
        self._open()
        self.flat[:, self.filled] = flat
        for name, values in self.statistics.items():
            values[:, self.filled] = statistics[name]
        self.filled += 1

    def draws(self, log_weight: np.ndarray | None = None) -> Draws:
        """What is stored so far, a view; a statistic 'log_weight' is taken for the weights if none are given."""
        statistics = {name: values[:, : self.filled].copy() for name, values in self.statistics.items()}
        noted = statistics.pop("log_weight", None)
        log_weight = noted if log_weight is None else log_weight
        return Draws(self.flat[:, : self.filled], self.shapes, log_weight, statistics, self.derived, self.fixed)

    def capture(self) -> dict[str, Any]:
        """For a checkpoint: how many draws there are, and the draws themselves where no file keeps them."""
        kept = {name: torch.from_numpy(values[:, : self.filled].copy()) for name, values in self.statistics.items()}
        found: dict[str, Any] = {"filled": self.filled, "statistics": kept}
        if self.on_disk:
            if isinstance(self.flat, np.memmap):
                self.flat.flush()
        else:
            found["flat"] = torch.from_numpy(np.array(self.flat[:, : self.filled]))
        return found

    def restore(self, captured: Mapping[str, Any]) -> None:
        """Take over what `capture` gave; draws after it are forgotten.

        Raises:
            InferenceError: the file that holds the draws is gone, or holds those of another run.
        """
        filled = captured["filled"]
        if self.on_disk and filled and self._folder is not None and not (self._folder / "draws.npy").exists():
            raise InferenceError(f"{self._folder} held this run's draws and is gone: start the run afresh")
        if filled:
            self._open(again=self.on_disk)
        self.filled = filled
        for name, values in captured["statistics"].items():
            self.statistics[name][:, :filled] = values.numpy()
        if "flat" in captured and filled:
            self.flat[:, :filled] = captured["flat"].numpy()
