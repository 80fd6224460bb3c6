"""The figures of a table, from its runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pyro_compress.models.priors.scale_mixture import ScaleMixture
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report import figures, table_figures
from pyro_compress.report.table_figures import SizePoint, Training
from pyro_compress.tables.collecting import BYTES, ERROR, Line
from pyro_compress.tables.spec import Table


def weight_distributions(table: Table, lines: Sequence[Line]) -> Figure | None:
    """Of every method's first seed, before anything is pruned."""
    held = {
        name: np.concatenate([site.mean.ravel() for site in posterior.parameters.values() if site.mean.ndim > 1])
        for name, posterior in _posteriors(lines)
    }
    return table_figures.weight_distributions(held) if held else None


def loss_curves(table: Table, lines: Sequence[Line]) -> Figure | None:
    """Of every method's first seed."""
    fits = {name: _training(posterior) for name, posterior in _posteriors(lines)}
    return table_figures.loss_curves(fits) if fits else None


def scale_mixture(table: Table, lines: Sequence[Line]) -> Figure | None:
    """The prior of the first row that has one."""
    for _, run in _runs(lines):
        prior = RunSettings.load(run.settings).build_prior()
        if isinstance(prior, ScaleMixture):
            return table_figures.scale_mixture(prior.mixture, prior.wide, prior.narrow)
    return None


def error_against_bytes(table: Table, lines: Sequence[Line]) -> Figure | None:
    """Every row's median, and what is published as a size of a file."""
    heading = {column.key: column.heading for column in table.columns}
    points = []
    for line in lines:
        size, error = line.cells[heading[BYTES]].median, line.cells[heading[ERROR]].median
        if size is not None:
            points.append(SizePoint(line.row.name, size, error))
        size, error = (line.row.published.get(heading[key]) for key in (BYTES, ERROR))
        if isinstance(size, float | int) and isinstance(error, float | int):
            points.append(SizePoint(f"published: {line.row.source}", size, error, ours=False))
    return table_figures.error_against_bytes(points, table.most_error_percent) if points else None


FIGURES: Mapping[str, Callable[[Table, Sequence[Line]], Figure | None]] = {
    "weight_distributions": weight_distributions,
    "loss_curves": loss_curves,
    "scale_mixture": scale_mixture,
    "error_against_bytes": error_against_bytes,
}


def save_figures(folder: Path, prefix: str, tables: Sequence[tuple[Table, Sequence[Line]]]) -> list[Path]:
    """PREFIX-FIGURE.png for all that there is something to show in; the second table's with a number, and so on."""
    found: dict[str, Figure] = {}
    for place, (table, lines) in enumerate(tables):
        for name in table.figures:
            figure = FIGURES[name](table, lines)
            if figure is not None:
                figure.suptitle(f"{figure.get_suptitle()}: {table.title.partition(':')[0]}", fontsize=14)
                found[f"{prefix}-{name}" + (f"-{place + 1}" if place else "")] = figure
    return figures.save_all(folder, found)


def _runs(lines: Iterable[Line]) -> Iterable[tuple[str, RunDirectory]]:
    """The run of every method's first seed that has a posterior."""
    for line in lines:
        for directory in line.directories.values():
            run = RunDirectory(directory)
            if run.posterior.exists():
                yield line.row.name, run
                break


def _posteriors(lines: Iterable[Line]) -> Iterable[tuple[str, Posterior]]:
    return ((name, Posterior.load(run.posterior)) for name, run in _runs(lines))


def _training(posterior: Posterior) -> Training:
    history, size = posterior.provenance["history"], posterior.provenance["N"]
    assert isinstance(history, list) and isinstance(size, int)
    nats = np.array([-record["data_nats"] for record in history])
    return Training(nats / size, 100 * np.array([record["validation_error"] for record in history]))
