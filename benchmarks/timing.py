"""Paired timings: what is compared takes turns, and a ratio is the median over the pairs."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from statistics import median

Step = Callable[[], object]
# seconds that went by, and those that processors worked for this process, which others on the machine add less to
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Paired:
    """One step held against another.

    Attributes:
        milliseconds, base_milliseconds: medians.
        ratio: median of the ratios of neighbours, so that the machine's pace cancels.
    """

    milliseconds: float
    base_milliseconds: float
    ratio: float


@dataclass(frozen=True)
class Turns:
    """Milliseconds of steps that took turns, by name; of all as many."""

    milliseconds: Mapping[str, list[float]]

    @staticmethod
    def of(steps: Mapping[str, Step], seconds: float, clock: str = "wall", warmup: int = 5) -> "Turns":
        """Every step in turns for that many seconds of wall time; 20 turns at least."""
        now = CLOCKS[clock]
        for step in steps.values():
            for _ in range(warmup):
                step()
        found: dict[str, list[float]] = {name: [] for name in steps}
        end, turns = time.perf_counter() + seconds, 0
        while time.perf_counter() < end or turns < 20:
            turns += 1
            for name, step in steps.items():
                start = now()
                step()
                found[name].append(1e3 * (now() - start))
        return Turns(found)

    def fastest(self, names: Collection[str]) -> str:
        """Of these, by the median."""
        return min(names, key=lambda name: median(self.milliseconds[name]))

    def against(self, base: str) -> dict[str, Paired]:
        """Every other step against the one of that name."""
        below = self.milliseconds[base]
        return {
            name: Paired(
                median(each), median(below), median(one / other for one, other in zip(each, below, strict=True))
            )
            for name, each in self.milliseconds.items()
            if name != base
        }


def row(what: str, found: Paired, against: str, goal: str) -> str:
    """A line of the table of `training_cost`; thousands of milliseconds are printed without decimals."""
    ours, theirs = (
        f"{each:,.0f}" if each >= 1000 else f"{each:.2f}" for each in (found.milliseconds, found.base_milliseconds)
    )
    return f"| {what} | {ours} | {against} | {theirs} | {found.ratio:.2f} | {goal} |"
