"""A table as Markdown, CSV, JSON and for the terminal."""

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from pyro_compress.files import write_atomically
from pyro_compress.tables.collecting import Line, Measured
from pyro_compress.tables.earlier import settings_id
from pyro_compress.tables.spec import Column, Table

MISSING = "–"
WIDTH_OF_NAMES = 14
FORMATS = ("markdown", "csv", "json")
SUFFIXES = {"markdown": ".md", "csv": ".csv", "json": ".json"}


def text_of(column: Column, measured: Measured) -> str:
    """Median over seeds and the worst one in brackets; 'failed' where every run has."""
    if measured.median is None:
        return "failed" if measured.failed else MISSING
    if not column.better:
        return str(measured.median)
    worst = "" if measured.worst is None else f" ({column.form.format(measured.worst)})"
    return column.form.format(measured.median) + worst


def published_text(column: Column, line: Line) -> str:
    """The published figure, as this column is printed."""
    value = line.row.published.get(column.heading)
    if value is None:
        return MISSING
    return value if isinstance(value, str) else column.form.format(value)


def minutes_text(line: Line) -> str:
    """Minutes of fitting and deciding, median over seeds."""
    return f"{statistics.median(line.seconds.values()) / 60:.1f}" if line.seconds else MISSING


def seeds_text(line: Line) -> str:
    """Seeds that anything was measured for."""
    seeds = {seed for cell in line.cells.values() for seed in cell.values}
    return ", ".join(str(seed) for seed in sorted(seeds)) or MISSING


def rows_of(table: Table, lines: Sequence[Line]) -> Iterable[tuple[bool, list[str]]]:
    """(whether it is ours, texts) of every printed row: what was measured, and what was published below it."""
    numbers = {source: number for number, source in enumerate(sources(lines), start=1)}
    for line in lines:
        if line.row.fit is not None:
            cells = [text_of(column, line.cells[column.heading]) for column in table.columns]
            yield True, [line.row.name, *cells, seeds_text(line), minutes_text(line)]
        if line.row.published:
            named = "published" if line.row.fit is not None else f"{line.row.name}, published"
            figures = (published_text(column, line) for column in table.columns)
            yield False, [f"{named} [{numbers[line.row.source]}]", *figures, "", ""]


def sources(lines: Iterable[Line]) -> list[str]:
    """Of published figures, each once, as they come."""
    return list(dict.fromkeys(line.row.source for line in lines if line.row.published))


def headings(table: Table) -> list[str]:
    """Of all printed columns."""
    return ["method", *(column.heading for column in table.columns), "seeds", "minutes"]


def failures(lines: Iterable[Line]) -> Iterable[str]:
    """One sentence per run that has failed."""
    for line in lines:
        said = {f"seed {seed}: {sentence}" for cell in line.cells.values() for seed, sentence in cell.failed.items()}
        yield from (f"{line.row.name}, {sentence}" for sentence in sorted(said))


def how(lines: Iterable[Line], seeds: Sequence[int]) -> Iterable[str]:
    """The command of every fit."""
    for line in lines:
        if line.row.fit is not None:
            words = " ".join([line.row.fit.entry, *line.row.fit.arguments])
            yield f"{line.row.name}: `pyro-compress run {words} --seed {seeds[0]}`"


def markdown(table: Table, lines: Sequence[Line], seeds: Sequence[int], command: str) -> str:
    """One section; published rows are in italics."""
    heads = headings(table)
    out = [f"## {table.title}", "", f"`{command}`", "", f"| {' | '.join(heads)} |"]
    out.append("| --- |" + " ---: |" * (len(heads) - 1))
    for ours, texts in rows_of(table, lines):
        out.append("| " + " | ".join(text if ours or not text else f"*{text}*" for text in texts) + " |")
    if published := sources(lines):
        out += ["", f"Published: {numbered(published)}."]
    out += ["", *caption(table)]
    for note in table.notes:
        out += ["", note]
    if failed := list(failures(lines)):
        out += ["", "Failed:", "", *(f"- {sentence}" for sentence in failed)]
    out += ["", "Each row's fit:", "", *(f"- {sentence}" for sentence in how(lines, seeds))]
    return "\n".join(out) + "\n"


def numbered(published: Sequence[str]) -> str:
    """The sources by the numbers that rows have."""
    return "; ".join(f"[{number}] {source}" for number, source in enumerate(published, start=1))


def caption(table: Table) -> list[str]:
    """What the numbers are."""
    said = (
        "Measured on the file as it decodes; median over seeds, the worst seed in brackets, layers and bits of the "
        "first seed; minutes of processor time are of one fit and all that was decided from it."
    )
    if table.most_error_percent is not None:
        said += (
            f" Ranked by bytes among those with at most {table.most_error_percent:g} % error; the others follow, by "
            "error."
        )
    return [said]


def terminal(table: Table, lines: Sequence[Line]) -> Group:
    """For people."""
    found = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    rows = list(rows_of(table, lines))
    for place, heading in enumerate(headings(table)):
        found.add_column(heading, justify="right" if place else "left", no_wrap=not place)
    for ours, (name, *texts) in rows:
        # rich would fold names within words, and numbers to make room for names
        folded = "\n".join(textwrap.wrap(name, WIDTH_OF_NAMES))
        found.add_row(*(Text(text) for text in (folded, *texts)), style="" if ours else "dim")
    below = [f"Published: {numbered(published)}."] if (published := sources(lines)) else []
    below += [*caption(table), *(f"failed: {sentence}" for sentence in failures(lines))]
    return Group(Text(table.title, style="bold"), found, Text("\n".join(below), style="dim"))


def records(table: Table, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One record for every cell, for programs."""
    found: list[dict[str, Any]] = []
    for line in lines:
        for column in table.columns:
            cell, fit = line.cells[column.heading], line.row.fit
            found.append(
                {
                    "table": table.name,
                    "quick": table.is_quick,
                    "row": line.row.name,
                    "column": column.heading,
                    "key": column.key,
                    "median": cell.median,
                    "worst": cell.worst,
                    "values": {str(seed): value for seed, value in cell.values.items()},
                    "published": line.row.published.get(column.heading),
                    "source": line.row.source,
                    "entry": None if fit is None else fit.entry,
                    "settings_id": "" if fit is None else settings_id(fit.entry),
                    "arguments": [] if fit is None else list(fit.arguments),
                    "decision": table.variants[column.variant],
                    "seconds": {str(seed): round(value, 3) for seed, value in line.seconds.items()},
                    "failed": {str(seed): sentence for seed, sentence in cell.failed.items()},
                }
            )
    return found


def comma_separated(tables: Sequence[tuple[Table, Sequence[Line]]]) -> str:
    """The records as CSV; what is nested is JSON."""
    rows = [record for table, lines in tables for record in records(table, lines)]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in row.items()})
    return out.getvalue()


def in_format(
    form: str, tables: Sequence[tuple[Table, Sequence[Line]]], seeds: Sequence[int], command: str, title: str
) -> str:
    """All of a name's tables in one of `FORMATS`."""
    if form == "json":
        return json.dumps([record for table, lines in tables for record in records(table, lines)], indent=2) + "\n"
    if form == "csv":
        return comma_separated(tables)
    return f"# {title}\n\n" + "\n".join(markdown(table, lines, seeds, command) for table, lines in tables)


def save_all(
    folder: Path,
    name: str,
    tables: Sequence[tuple[Table, Sequence[Line]]],
    seeds: Sequence[int],
    command: str,
    title: str,
    figures: Sequence[Path] = (),
) -> list[Path]:
    """NAME.md, NAME.csv and NAME.json in a folder; the page shows figures that lie in the folder or below it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (name + SUFFIXES[form]) for form in FORMATS]
    for form, path in zip(FORMATS, paths, strict=True):
        text = in_format(form, tables, seeds, command, title)
        if form == "markdown":
            text += shown(figures, folder)
        write_atomically(path, text)
    return paths


def shown(figures: Sequence[Path], folder: Path) -> str:
    """The end of a page in the folder, which shows figures that lie in it or below it."""
    return "".join(
        f"\n![{figure.stem.replace('-', ' ').replace('_', ' ')}]({figure.relative_to(folder)})\n" for figure in figures
    )
