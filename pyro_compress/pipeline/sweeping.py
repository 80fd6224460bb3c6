"""Zoo entries over several seeds, and one table at the end.

A run is `pyro-compress run` in a process of its own (`pipeline/running.py`).  Nothing is kept of a sweep but its runs:
given again, it goes on.
"""

import statistics
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compress.errors import RunError, warn
from pyro_compress.models import zoo
from pyro_compress.pipeline.run_directory import results_in
from pyro_compress.pipeline.run_options import settings_for
from pyro_compress.pipeline.running import Work
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.error_unit import PERCENT, unit_of

COLUMNS = ("file_rate", "error_after", "error_before", "weights_left_percent", "file_bytes")


@dataclass(frozen=True)
class Task(Work):
    """One run of a sweep.

    Attributes:
        entry: of the zoo.
        seed: of the run.
        directory: of the run; its log lies beside it.
        threads: of torch.
        run_arguments: further words of the command line, for a run that has not started yet.
    """

    entry: str
    seed: int
    directory: str
    threads: int
    run_arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.entry} with seed {self.seed}"

    @property
    def log(self) -> Path:
        return Path(self.directory + ".log")

    @property
    def finished(self) -> bool:
        return (Path(self.directory) / "results.json").exists()

    def commands(self) -> Iterator[tuple[list[str], Path]]:
        yield self.command(), self.log

    def command(self) -> list[str]:
        """Starts the run, or goes on with it."""
        words = [sys.executable, "-m", "pyro_compress", "run"]
        if (Path(self.directory) / "settings.json").exists():
            return [*words, "--resume", self.directory]
        own = ["--seed", str(self.seed), "--threads", str(self.threads), "--out", self.directory]
        return [*words, self.entry, *own, *self.run_arguments]


def entries_and_seeds(words: Iterable[str], seeds: str) -> tuple[list[str], list[int]]:
    """Entries and seeds of a command line like `ENTRY ENTRY --seeds 0 1 2`, each once.

    An option of a command line takes one word, so the seeds after the first arrive among the entries; no entry is a
    number.

    Raises:
        RunError: a seed that is no number.
    """
    words = list(words)
    numbers = [*seeds.replace(",", " ").split(), *(word for word in words if word.isdecimal())]
    wrong = next((word for word in numbers if not word.isdecimal()), None)
    if wrong is not None:
        raise RunError(f"--seeds takes numbers from 0 up, found '{wrong}'")
    entries = [word for word in words if not word.isdecimal()]
    return list(dict.fromkeys(entries)), [int(word) for word in dict.fromkeys(numbers)]


def tasks_of(
    entries: Iterable[str], seeds: Sequence[int], folder: Path, threads: int, run_arguments: Sequence[str] = ()
) -> list[Task]:
    """One run per seed and entry, all entries of a seed first.

    Raises:
        PyroCompressError: the zoo has no such entry.
    """
    names = [zoo.entry(name).name for name in entries]
    folder = folder.resolve()
    return [
        Task(name, seed, str(folder / f"{name.replace('/', '-')}-seed{seed}"), threads, tuple(run_arguments))
        for seed in seeds
        for name in names
    ]


def refuse_other_settings(tasks: Iterable[Task], options: Iterable[str], given: Mapping[str, Any]) -> None:
    """Say so where a run that was started before has other settings than this sweep would give it.

    Args:
        tasks: of the sweep.
        options: what --set was given.
        given: the other options of a run by their names.

    Raises:
        RunError: names the run, the first setting that differs, and both values.
    """
    for task in tasks:
        directory = Path(task.directory)
        if (directory / "settings.json").exists():
            wanted = settings_for(task.entry, options, **given, seed=task.seed, threads=task.threads)
            refuse_started_otherwise(
                directory, wanted, "this sweep", "give another --out, or the options that it was started with"
            )


def refuse_started_otherwise(
    directory: Path, wanted: RunSettings, what: str, hint: str, but: Collection[str] = ()
) -> None:
    """Say so where a run directory holds a run of other settings than those wanted.

    Args:
        directory: of a run that was started.
        wanted: its settings.
        what: wants them, for the message.
        hint: what to do.
        but: settings that may be others.

    Raises:
        RunError: names the run, the first setting that differs, and both values.
    """
    there, here = RunSettings.load(directory / "settings.json").as_plain(), wanted.as_plain()
    other = next((name for name in here if here[name] != there[name] and name not in but), None)
    if other is not None:
        raise RunError(f"{directory} was started with {other}={there[other]}, and {what} has {here[other]}: {hint}")


def collect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """results.json of every finished run in a folder, by entry; seeds ascend."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/results.json")):
        try:
            results = results_in(path)
        except RunError as error:
            # the others have their row
            warn(str(error))
            continue
        found.setdefault(str(results["entry"]), []).append(results)
    return {entry: sorted(runs, key=lambda one: int(one["seed"])) for entry, runs in found.items()}


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """Markdown rows: median over seeds, the worst seed in brackets; no rows where nothing has finished."""
    if found:
        heads = ("file rate", "error after %", "error before %", "weights left %", "file bytes")
        yield f"| entry | seeds | β | {' | '.join(heads)} | minutes |"
        yield "| --- " * (len(heads) + 4) + "|"
    for entry, runs in found.items():
        seeds = ", ".join(str(one["seed"]) for one in runs)
        cells, unit = [], unit_of(runs[0])
        for column in COLUMNS:
            values = [one[unit.key(column) if column.startswith("error") else column] for one in runs]
            worst = min(values) if column == "file_rate" else max(values)
            sign = "" if unit is PERCENT or not column.startswith("error") else f" {unit.sign}"
            digits = {"file_bytes": ",.0f", "file_rate": ".0f"}.get(column, f".{unit.digits}f")
            cells.append(f"{statistics.median(values):{digits}} ({worst:{digits}}){sign}")
        minutes = max(one["wall_seconds"] for one in runs) / 60
        yield f"| {entry} | {seeds} | {runs[0]['kl_weight']:g} | {' | '.join(cells)} | {minutes:.0f} |"
