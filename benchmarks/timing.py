"""Paired timings: what is compared takes turns, and a ratio is the median over the pairs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Step = Callable[[], object]


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


def paired(steps: Mapping[str, Step], base: str, seconds: float, warmup: int = 5) -> dict[str, Paired]:
    """Every step against the one named `base`, in turns for that many seconds; 20 turns at least."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[base]) < 20:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            found[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: Paired(
            median(each),
            median(found[base]),
            median(one / other for one, other in zip(each, found[base], strict=True)),
        )
        for name, each in found.items()
        if name != base
    }


def row(what: str, ratio: float, milliseconds: float, base: float, against: str, goal: str) -> str:
    """A line of the table of `training_cost`; thousands of milliseconds are printed without decimals."""
    ours, theirs = (f"{each:,.0f}" if each >= 1000 else f"{each:.2f}" for each in (milliseconds, base))
    return f"| {what} | {ours} | {against} | {theirs} | {ratio:.2f} | {goal} |"
