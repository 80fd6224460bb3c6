"""The progress of a fit: a bar that moves on a terminal, lines elsewhere, with what a person watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pyro_compress.inference.contract import State
from pyro_compress.inference.fit import Callback, EpochRecord


def describe(record: EpochRecord) -> str:
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
    parts.append(f"validation error {100 * record.validation_error:.2f} %")
    if record.objective_name == "ELBO":
        parts.append(f"weights left {record.weights_left_percent:.1f} %")
    return ", ".join(parts)


@contextmanager
def epoch_bars(console: Console, *, quiet: bool = False) -> Iterator[Callable[[str, int], Callback]]:
    """Makes callbacks for `fit`, one per phase of a run, from its name and number of epochs.

    Each moves a bar on a terminal, prints a line every tenth of its epochs elsewhere, and does nothing if `quiet`.
    """
    if quiet:
        yield lambda phase, epochs: lambda record, state: None
        return
    if not console.is_terminal:
        yield lambda phase, epochs: lambda record, state: _print_line(console, phase, record)
        return
    columns = (
        TextColumn("{task.fields[phase]} {task.completed}/{task.total}", markup=False),
        BarColumn(20),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield lambda phase, epochs: _mover(progress, phase, epochs)


def _mover(progress: Progress, phase: str, epochs: int) -> Callback:
    task = progress.add_task("", total=epochs, phase=phase)

    def move(record: EpochRecord, state: State) -> None:
        progress.update(task, completed=record.epoch + 1, description=describe(record))

    return move


def _print_line(console: Console, phase: str, record: EpochRecord) -> None:
    every = max(1, record.epochs // 10)
    if (record.epoch + 1) % every == 0 or record.epoch + 1 == record.epochs:
        line = f"{phase} {record.epoch + 1}/{record.epochs}  {describe(record)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
