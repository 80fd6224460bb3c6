"""Every method against targets with known moments: one table; fails where a method is off by more than its budget.

    python -m benchmarks.posterior_accuracy --processes 2
    python -m benchmarks.posterior_accuracy --methods nuts hmc --targets funnel
    python -m benchmarks.posterior_accuracy --targets user                    # default arguments, see accuracy_user.py

Errors are the largest over a target's quantities, twice: in Monte Carlo standard errors, which is what an exact
sampler is judged by, and in absolute terms (means in posterior sds, sds as a share, correlations as they are), which
is what an approximation is judged by: its error is bias, and more draws do not mend it.  Budgets and their reasons are
in `accuracy_settings.py`.

A row is 'ok' within its budget, and 'flagged' where the target has a neck that no step size fits, the method is off,
and `diagnose` says so or the run stops with a sentence.  Anything else is OFF, and the exit status is 1.

Left out: `map` and `dropout` are point estimates, and `mc-dropout` is no approximation of a given prior's posterior.
"""

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks import accuracy_user
from benchmarks.accuracy_errors import Errors, Target, errors
from benchmarks.accuracy_guides import Fitted
from benchmarks.accuracy_programs import PROGRAMS
from benchmarks.accuracy_settings import METHODS, VARIATIONAL, Budget, budget_for, method_for, pairs
from benchmarks.accuracy_targets import TARGETS_BY_NAME
from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.diagnostics import diagnose
from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import State
from pyro_compress.inference.fit import fit
from pyro_compress.posterior.posterior import Posterior

STANDARD_ERRORS = 4.0
VARIATIONAL_DRAWS = 10_000
FIGURES = ("mean", "sd", "correlation")
# of `diagnose`, what says that draws are not those of the posterior
TELLING = ("r_hat", "r_hat_predictions", "ess", "divergences", "tree_depth", "e_bfmi")
TELLING_OF_GUIDES = ("pareto_k",)


@dataclass(frozen=True)
class Row:
    """One method on one target.

    Attributes:
        found: the errors against the posterior, or None if the run was stopped.
        family: of a variational method, the errors against the best member of its family.
        flags: what `diagnose` flags, by name.
        message: why it was stopped.
        seconds: of processor time.
    """

    method: str
    target: str
    reference: str
    found: Errors | None = None
    family: Errors | None = None
    flags: tuple[str, ...] = ()
    message: str = ""
    seconds: float = 0.0

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
        judged = self.found if self.family is None else self.family
        budgets = (self.budget.mean, self.budget.shape, self.budget.shape)
        rows = zip(FIGURES, judged.standard_errors, judged.absolute, budgets, strict=True)
        for name, score, off, budget in rows:
            # NaN is a fault too
            if not (score <= STANDARD_ERRORS or off <= budget):
                found.append(f"{name} off by {score:.1f} standard errors, {off:.2f} (budget {budget:g})")
        return found

    @property
    def verdict(self) -> str:
        """'ok', 'flagged' or 'OFF'."""
        if not self.faults:
            return "ok"
        telling = TELLING_OF_GUIDES if self.method in VARIATIONAL else TELLING
        told = self.found is None or any(flag in telling for flag in self.flags)
        return "flagged" if self.budget.by_diagnosis and told else "OFF"


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
    """Fit, compare the moments, and diagnose."""
    torch.set_num_threads(1)
    target, started = target_named(target_name), time.process_time()
    last: dict[str, State] = {}
    row = Row(method, target_name, target.reference)
    try:
        with warnings.catch_warnings():
            # few effective draws are in the table
            warnings.filterwarnings("ignore", message=".* proposals are worth")
            posterior = fit(
                target.model,
                target.data,
                method_for(method, target_name, target),
                seed=seed,
                callbacks=[lambda _, state: last.update(state=state)],
            )
        sites, weights = sites_of(posterior)
        row = replace(row, found=errors(target, sites, weights, posterior.kind != "chains"))
        ratios = None
        if method in VARIATIONAL:
            fitted = Fitted(target, last["state"])
            row, ratios = replace(row, family=errors(fitted.aim(), sites, weights, True)), fitted.log_ratios()
        predictions = None
        if posterior.kind == "chains" and target_name == "Bayesian network":
            predictions = target.quantities(sites)
        diagnosis = diagnose(posterior, to_arviz(posterior, predictions=predictions), log_ratios=ratios)
        row = replace(row, flags=tuple(flag.name for flag in diagnosis.flags))
    except InferenceError as error:
        row = replace(row, message=str(error))
    return replace(row, seconds=time.process_time() - started)


def figures(found: tuple[float, ...], digits: int) -> str:
    """Side by side."""
    return ", ".join(f"{one:.{digits}f}" for one in found)


def table(rows: Sequence[Row]) -> Iterable[str]:
    """Markdown, target by target; numbers in brackets are notes below it."""
    notes: list[str] = []
    yield "| target | method | effective draws | in standard errors | absolute | judged by | `diagnose` flags | |"
    yield "| --- | --- | ---: | --- | --- | --- | --- | --- |"
    for row in rows:
        budget, mark = row.budget, ""
        if budget.why:
            notes += [] if budget.why in notes else [budget.why]
            mark = f" ({notes.index(budget.why) + 1})"
        judged = f"≤ {budget.mean:.2g}" if budget.mean else f"≤ {STANDARD_ERRORS:g} standard errors"
        if row.family is not None:
            judged = f"{figures(row.family.absolute, 3)} {judged}"
        cells = ["", "stopped", ""]
        if row.found is not None:
            scores, off = figures(row.found.standard_errors, 1), figures(row.found.absolute, 3)
            cells = [f"{row.found.effective:,.0f}", scores, off]
        cells = [row.target, row.method, *cells, judged + mark, ", ".join(row.flags) or "none", row.verdict]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "Figures are of mean, sd, correlation. An absolute budget counts where 4 standard errors are exceeded; "
        "without a number in brackets there is none. At least 100 effective draws are asked for."
    )
    yield from (f"({index}) {note}." for index, note in enumerate(notes, 1))
    yield (
        "R-hat and ESS flag many rows that are right: they ask of each chain alone what all together have, and most "
        "runs are of many short chains. pareto_k flags guides and proposals that are not the posterior."
    )
    yield ""
    yield from (f"Reference of {name}: {how}." for name, how in {row.target: row.reference for row in rows}.items())


def main() -> int:
    """Parse the command line, run, print and save; 1 if anything is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=sorted({*METHODS, *accuracy_user.METHODS}), default=[])
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS_BY_NAME, "user"], default=list(TARGETS_BY_NAME))
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), help="of 'user'")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/posterior-accuracy"))
    given = parser.parse_args()
    if "user" in given.targets:
        if len(given.targets) > 1:
            parser.error("--targets user stands alone: it has a table of its own")
        methods = given.methods or accuracy_user.METHODS
        of_programs = accuracy_user.run(methods, given.programs, given.seed, given.out)
        return 1 if any(row.verdict == "SILENT" for row in of_programs) else 0
    given.methods = given.methods or list(METHODS)
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
    saved = [{**asdict(row), "faults": row.faults, "verdict": row.verdict} for row in rows]
    (given.out / "accuracy.json").write_text(json.dumps(saved, indent=2) + "\n")
    print(text)
    off = [f"{row.method} on {row.target}: {fault}" for row in rows if row.verdict == "OFF" for fault in row.faults]
    counted = Counter(row.verdict for row in rows)
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counted.items()) + f", of {len(rows)} rows.")
    print("\n".join(["Off by more than the budget:", *off]) if off else "Nothing is off without being flagged.")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
