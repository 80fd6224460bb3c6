"""What a person sees of every chain while it runs: chains that move side by side need not be equally far or well."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class ChainProgress:
    """Where one chain is.

    Attributes:
        chain: its number.
        done, planned: steps, warm-up included.
        in_warmup: whether it still adapts.
        numbers: such as 'acceptance_rate', 'step_size', 'n_steps', 'divergences' (after the warm-up), 'lp'.
    """

    chain: int
    done: int
    planned: int
    in_warmup: bool
    numbers: Mapping[str, float]


Watcher = Callable[[ChainProgress], None]


class Watch:
    """Tells a watcher of every chain, at most ten times a second and when it ends; without one it does nothing.

    Args:
        planned: steps of the whole run.
    """

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self.watcher: Watcher | None = None
        self._due: dict[int, float] = {}

    def is_due(self, chain: int, done: int) -> bool:
        """Whether the watcher is to be told now."""
        return self.watcher is not None and (done >= self.planned or time.monotonic() >= self._due.get(chain, 0.0))

    def tell(self, chain: int, done: int, in_warmup: bool, numbers: Mapping[str, float]) -> None:
        """Tell of one chain, after `is_due`."""
        assert self.watcher is not None
        self._due[chain] = time.monotonic() + PAUSE_SECONDS
        self.watcher(ChainProgress(chain, done, self.planned, in_warmup, numbers))

    def tell_all(self, chains: int, done: int, in_warmup: bool, statistics: Mapping[str, Any]) -> None:
        """Tell of all chains, after a step of all of them, whose numbers are (chain,) each."""
        for chain in range(chains):
            if self.is_due(chain, done):
                self.tell(chain, done, in_warmup, {name: float(values[chain]) for name, values in statistics.items()})
