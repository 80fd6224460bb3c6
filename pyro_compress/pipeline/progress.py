"""The progress of a fit: a bar that moves on a terminal, lines elsewhere, with what a person watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from pyro_compress.inference.contract import State
from pyro_compress.inference.fit import Callback, EpochRecord
from pyro_compress.inference.loop.watching import ChainProgress, Watcher
from pyro_compress.pipeline.time_left import minutes_left
from pyro_compress.posterior.error_unit import PERCENT, ErrorUnit

# chains that get a bar of their own
MOST_CHAINS = 20
CHAIN_NUMBERS = {
    "acceptance_rate": "acceptance",
    "step_size": "step size",
    "n_steps": "steps",
    "lp": "log joint",
    "data_share": "data seen",
}


def describe(record: EpochRecord, unit: ErrorUnit = PERCENT) -> str:
    """One round in one line: the objective split in data and complexity nats, validation error, and what else goes."""
    parts = [
        f"{record.objective_name} {record.elbo_nats:,.0f} nats = "
        f"data {record.data_nats:,.0f} - complexity {record.complexity_nats:,.0f}"
    ]
    if record.objective_name == "ELBO":
        parts.append(f"β {record.kl_weight:.2g}")
    else:
        parts += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in record.extra.items()]
        parts.append(f"step size {record.learning_rate:.2g}")
    parts.append(f"validation {unit.noun} {unit.text(record.validation_error)}")
    if record.objective_name == "ELBO":
        parts.append(f"weights left {record.weights_left_percent:.1f} %")
    return ", ".join(parts)


def time_left(record: EpochRecord) -> str:
    """', about 12 min left' where this phase takes as long: epochs as long as the last one."""
    left = minutes_left(record.seconds * (record.epochs - record.epoch - 1))
    return f", {left}" if left else ""


def describe_chain(glance: ChainProgress) -> str:
    """One chain in one line: whether it still adapts, and its own numbers."""
    parts = ["warm-up" if glance.in_warmup else "drawing"]
    for name, value in glance.numbers.items():
        if name == "divergences":
            parts.append(f"{value:.0f} divergences")
        elif name in CHAIN_NUMBERS:
            parts.append(f"{CHAIN_NUMBERS[name]} {value:{',.0f' if name in ('lp', 'n_steps') else '.2g'}}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Bars:
    """What `fit` is given to show its progress.

    Attributes:
        phase: makes a callback, one per phase of a run, from its name and number of epochs.
        watcher: shows every chain of a sampler; None where nothing moves.
    """

    phase: Callable[[str, int], Callback]
    watcher: Watcher | None = None


@contextmanager
def epoch_bars(console: Console, *, quiet: bool = False, unit: ErrorUnit = PERCENT) -> Iterator[Bars]:
    """Bars that move on a terminal, one per phase and one per chain.

    Elsewhere a phase prints a line every tenth of its epochs and chains print nothing; `quiet` prints nothing at all.
    Validation errors are printed in `unit`.
    """
    if quiet:
        yield Bars(lambda phase, epochs: lambda record, state: None)
        return
    if not console.is_terminal:
        yield Bars(lambda phase, epochs: lambda record, state: _print_line(console, phase, record, unit))
        return
    # a long description wraps: it would squeeze names and bars out
    columns = (
        TextColumn("{task.fields[phase]} {task.completed}/{task.total}", markup=False, table_column=_firm(19)),
        BarColumn(12, table_column=_firm(12)),
        TimeRemainingColumn(table_column=_firm(7)),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1)),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield Bars(lambda phase, epochs: _mover(progress, phase, epochs, unit), _chain_mover(progress))


def _firm(width: int) -> Column:
    return Column(no_wrap=True, min_width=width)


def _mover(progress: Progress, phase: str, epochs: int, unit: ErrorUnit) -> Callback:
    task = progress.add_task("", total=epochs, phase=phase)

    def move(record: EpochRecord, state: State) -> None:
        progress.update(task, completed=record.epoch + 1, description=describe(record, unit))

    return move


def _chain_mover(progress: Progress) -> Watcher:
    tasks: dict[int, TaskID] = {}

    def move(glance: ChainProgress) -> None:
        if glance.chain >= MOST_CHAINS:
            return
        if glance.chain not in tasks:
            tasks[glance.chain] = progress.add_task("", total=glance.planned, phase=f"chain {glance.chain}")
        progress.update(tasks[glance.chain], completed=glance.done, description=describe_chain(glance))

    return move


def _print_line(console: Console, phase: str, record: EpochRecord, unit: ErrorUnit) -> None:
    every = max(1, record.epochs // 10)
    if (record.epoch + 1) % every == 0 or record.epoch + 1 == record.epochs:
        line = f"{phase} {record.epoch + 1}/{record.epochs}  {describe(record, unit)}{time_left(record)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
