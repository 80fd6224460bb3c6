"""What the runs behind a table have measured: every cell with its seeds, median and worst."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compress.pipeline.run_directory import FITTING, RunDirectory
from pyro_compress.pipeline.running import last_line
from pyro_compress.tables.earlier import Earlier
from pyro_compress.tables.spec import Column, Row, Table
from pyro_compress.tables.work import directory_of, log_of, variant_directory

ERROR, BYTES = "error_after_percent", "file_bytes"


@dataclass(frozen=True)
class Measured:
    """One cell.

    Attributes:
        values: by seed, a number or a word.
        failed: by seed, the sentence that a run ended with.
        better: as of the column.
    """

    values: Mapping[int, Any]
    failed: Mapping[int, str]
    better: str = "low"

    @property
    def median(self) -> Any:
        """Over seeds; of words that of the first seed; None where nothing was measured."""
        if not self.values:
            return None
        found = list(self.values.values())
        return statistics.median(found) if self.better else found[0]

    @property
    def worst(self) -> Any:
        """The worst seed's where there are several, else None."""
        if not self.better or len(self.values) < 2:
            return None
        return (max if self.better == "low" else min)(self.values.values())


@dataclass(frozen=True)
class Line:
    """One row with what was measured.

    Attributes:
        row: of the table.
        cells: by heading.
        directories: of the runs, by variant and seed.
        seconds: by seed, of those for which all has been measured: fitting, and everything for all decisions.
    """

    row: Row
    cells: Mapping[str, Measured]
    directories: Mapping[tuple[str, int], Path]
    seconds: Mapping[int, float]

    def within(self, most_error_percent: float, column: Mapping[str, Column]) -> bool:
        """Whether the median error of the decoded file is no larger than that."""
        error = self.cells[column[ERROR].heading].median
        return error is not None and error <= most_error_percent


def collect(table: Table, seeds: Sequence[int], folder: Path, earlier: Earlier | None = None) -> list[Line]:
    """All rows of a table; what has not been run in the folder, or `earlier`, has no values.

    Where the table ranks, rows within its error come first, by bytes, the others after them, by error.
    """
    lines = [_line(table, row, seeds, folder.resolve(), earlier or Earlier()) for row in table.rows]
    if table.most_error_percent is None:
        return lines
    by_key, most = {column.key: column for column in table.columns}, table.most_error_percent

    def place(line: Line) -> tuple[int, float]:
        within = line.within(most, by_key)
        value = line.cells[by_key[BYTES if within else ERROR].heading].median
        return (0 if within else 1 if value is not None else 2), value or 0.0

    return sorted(lines, key=place)


def _line(table: Table, row: Row, seeds: Sequence[int], folder: Path, earlier: Earlier) -> Line:
    if row.fit is None:
        return Line(row, {column.heading: Measured({}, {}, column.better) for column in table.columns}, {}, {})
    directories = {
        (variant, seed): variant_directory(directory_of(folder, row.fit, seed), variant)
        for variant in table.variants
        for seed in seeds
    }
    found = {place: _results(directory) for place, directory in directories.items()}
    cells = {}
    for column in table.columns:
        of_column = {seed: found[column.variant, seed] for seed in seeds}
        values = {
            seed: value_of(one, column.key)
            if isinstance(one, Mapping)
            else earlier.value(row.fit, table.variants[column.variant], column.key, seed)
            for seed, one in of_column.items()
            if not isinstance(one, str)
        }
        values = {seed: value for seed, value in values.items() if value is not None}
        failed = {seed: one for seed, one in of_column.items() if isinstance(one, str)}
        cells[column.heading] = Measured(values, failed, column.better)
    # a run that goes on has spent a part of what it will
    whole = [
        seed
        for seed in seeds
        if all(
            any(seed in cells[column.heading].values for column in table.columns if column.variant == variant)
            for variant in {column.variant for column in table.columns}
        )
    ]
    spent = {seed: _seconds(directories, seed) or earlier.seconds_of(row.fit, seed) for seed in whole}
    seconds = {seed: total for seed, total in spent.items() if total is not None}
    return Line(row, cells, directories, seconds)


def _results(directory: Path) -> Mapping[str, Any] | str | None:
    """Of one run: its results, the sentence that it failed with, or None where it has not been started or goes on."""
    run = RunDirectory(directory)
    if run.results.exists():
        found: Mapping[str, Any] = json.loads(run.results.read_text())
        return found
    for log in (log_of(directory), log_of(directory.parent.parent)):
        if log.exists() and (sentence := last_line(log)).startswith("error: "):
            return sentence.removeprefix("error: ")
    return None


def _seconds(directories: Mapping[tuple[str, int], Path], seed: int) -> float | None:
    """Processor seconds of one fit and of all that was decided from it."""
    spent = [RunDirectory(directory).seconds()["processor"] for (_, of), directory in directories.items() if of == seed]
    fitting = max((sum(one.get(step, 0.0) for step in FITTING) for one in spent), default=0.0)
    deciding = sum(sum(value for step, value in one.items() if step not in FITTING) for one in spent)
    return fitting + deciding or None


def value_of(results: Mapping[str, Any], key: str) -> Any:
    """A value of results.json by its dotted key, None if it is not there; widths by layer as '8-9-14'."""
    if key == "accuracy_percent":
        return 100.0 - results[ERROR]
    found: Any = results
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        return "-".join(str(value) for value in found.values())
    return found
