"""Every method against targets with known moments: one table; fails where a method is off by more than its budget.

    python -m benchmarks.posterior_accuracy --processes 2
    python -m benchmarks.posterior_accuracy --methods nuts hmc --targets funnel

Errors are the largest over a target's quantities, twice: in Monte Carlo standard errors, which is what an exact
sampler is judged by, and in absolute terms (means in posterior sds, sds as a share, correlations as they are), which
is what an approximation is judged by: its error is bias, and more draws do not mend it.
"""

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy_errors import Errors, Target, errors
from benchmarks.accuracy_settings import METHODS, Budget, budget_for, method_for, pairs
from benchmarks.accuracy_targets import TARGETS_BY_NAME
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.posterior import Posterior

STANDARD_ERRORS = 4.0
VARIATIONAL_DRAWS = 10_000
FIGURES = ("mean", "sd", "correlation")


@dataclass(frozen=True)
class Row:
    """One method on one target.

    Attributes:
        found: the errors, or None if the run was stopped.
        message: why it was stopped.
        seconds: of processor time.
    """

    method: str
    target: str
    reference: str
    found: Errors | None
    message: str
    seconds: float

    @property
    def budget(self) -> Budget:
        """What it may be off by."""
        return budget_for(self.method, self.target)

    @property
    def faults(self) -> list[str]:
        """What is off by more than the budget, in words."""
        if self.found is None:
            return [f"stopped: {self.message}"]
        found = []
        if self.found.effective < self.budget.effective:
            found.append(f"{self.found.effective:.0f} effective draws, fewer than {self.budget.effective:g}")
        budgets = (self.budget.mean, self.budget.shape, self.budget.shape)
        rows = zip(FIGURES, self.found.standard_errors, self.found.absolute, budgets, strict=True)
        for name, score, off, budget in rows:
            # NaN is a fault too
            if not (score <= STANDARD_ERRORS or off <= budget):
                found.append(f"{name} off by {score:.1f} standard errors, {off:.2f} (budget {budget:g})")
        return found


@cache
def target_named(name: str) -> Target:
    """Built once per process."""
    return TARGETS_BY_NAME[name]()


def sites_of(posterior: Posterior) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(chain, draw, *shape) of every site in float64, and the weights; a guide without draws is drawn from."""
    draws = posterior.draws
    if draws is not None:
        return {name: draws.site(name).astype(np.float64) for name in draws.shapes}, draws.weights()
    drawn = posterior.sample_latents(VARIATIONAL_DRAWS, seed=1)
    weights = np.full((1, VARIATIONAL_DRAWS), 1 / VARIATIONAL_DRAWS)
    return {name: values[None].astype(np.float64) for name, values in drawn.items()}, weights


def measure(method: str, target_name: str, seed: int) -> Row:
    """Fit, and compare the moments."""
    torch.set_num_threads(1)
    target, started, found, message = target_named(target_name), time.process_time(), None, ""
    try:
        with warnings.catch_warnings():
            # few effective draws are in the table
            warnings.filterwarnings("ignore", message=".* proposals are worth")
            posterior = fit(target.model, target.data, method_for(method, target_name, target), seed=seed)
        found = errors(target, *sites_of(posterior), posterior.kind == "iid")
    except InferenceError as error:
        message = str(error)
    return Row(method, target_name, target.reference, found, message, time.process_time() - started)


def table(rows: Sequence[Row]) -> Iterable[str]:
    """Markdown, target by target; numbers in brackets are notes below it."""
    notes: list[str] = []
    yield "| target | method | effective draws | mean, sd, correlation in standard errors | absolute | budget | |"
    yield "| --- | --- | ---: | --- | --- | --- | --- |"
    for row in rows:
        budget, mark = row.budget, ""
        if budget.why:
            notes += [] if budget.why in notes else [budget.why]
            mark = f" ({notes.index(budget.why) + 1})"
        allowed = f"{budget.mean:g}, {budget.shape:g}" if budget.mean else f"{STANDARD_ERRORS:g} standard errors"
        cells = ["", "stopped", ""]
        if row.found is not None:
            scores = ", ".join(f"{score:.1f}" for score in row.found.standard_errors)
            cells = [f"{row.found.effective:,.0f}", scores, ", ".join(f"{off:.3f}" for off in row.found.absolute)]
        cells = [row.target, row.method, *cells, allowed + mark, "OFF" if row.faults else "ok"]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"Budgets of two figures: of means; of sds and correlations. {STANDARD_ERRORS:g} standard errors are in all."
    yield from (f"({index}) {note}" for index, note in enumerate(notes, 1))
    yield ""
    yield from (f"Reference of {name}: {how}." for name, how in {row.target: row.reference for row in rows}.items())


def main() -> int:
    """Parse the command line, run, print and save; 1 if anything is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS_BY_NAME), default=list(TARGETS_BY_NAME))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/posterior-accuracy"))
    given = parser.parse_args()
    chosen = [(m, t) for m, t in pairs() if m in given.methods and t in given.targets]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.processes, mp_context=spawn) as pool:
        waiting = [pool.submit(measure, method, target, given.seed) for method, target in chosen]
        rows = []
        for one in waiting:
            rows.append(one.result())
            print(f"{rows[-1].seconds:6.1f} s  {rows[-1].method}, {rows[-1].target}", file=sys.stderr, flush=True)
    text = "\n".join(table(rows))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "table.md").write_text(text + "\n")
    saved = [{**vars(row), "found": row.found and vars(row.found), "faults": row.faults} for row in rows]
    (given.out / "accuracy.json").write_text(json.dumps(saved, indent=2) + "\n")
    print(text)
    off = [f"{row.method} on {row.target}: {fault}" for row in rows for fault in row.faults]
    print(
        "\n" + ("\n".join(["Off by more than the budget:", *off]) if off else "Nothing is off by more than its budget.")
    )
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
