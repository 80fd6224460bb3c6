"""The runs behind a table: one fit, and a directory for every decision that is made of it.

A fit whose entry is changed in nothing has the directory that a sweep over the same folder gives it.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_compress.files import write_atomically
from pyro_compress.pipeline.run_directory import FITTING, RunDirectory
from pyro_compress.pipeline.running import Work
from pyro_compress.pipeline.sweeping import refuse_started_otherwise
from pyro_compress.tables.spec import Fit, Table, fits_of

# what a decision is made from, beside the settings
HANDED_ON = ("posterior.safetensors", "initial.safetensors", "posterior.draws")


@dataclass(frozen=True, eq=False)
class FitWork(Work):
    """A fit with one seed, and the decisions that a table wants of it.

    Attributes:
        fit: what is fitted.
        seed: of the run.
        folder: of all runs.
        threads: of torch.
        variants: by name, as of `spec.Variants`.
        data_arguments: words of the command line that say where data lie.
    """

    fit: Fit
    seed: int
    folder: Path
    threads: int
    variants: tuple[tuple[str, Any], ...]
    data_arguments: tuple[str, ...] = ()

    def refuse_other_settings(self) -> None:
        """Say so where the directory of the fit, or of a decision, holds a run that was started with other settings.

        Raises:
            RunError: names it, the setting, and both values.
        """
        for name, options in self.variants:
            where = self.of_variant(name)
            # a row that cannot be run has no settings, and leaves the others
            if RunDirectory(where).settings.exists():
                wanted = self.fit.settings(self.seed)
                decided = replace(wanted, decision_options={**wanted.decision_options, **(options or {})})
                refuse_started_otherwise(
                    where,
                    decided,
                    f"the table's row of {self.fit.entry}",
                    "give another --out, or remove that folder",
                    but=("threads", "device"),
                )

    @property
    def directory(self) -> Path:
        """Of the fit."""
        return directory_of(self.folder, self.fit, self.seed)

    @property
    def name(self) -> str:
        return f"{' '.join([self.fit.entry, *self.fit.arguments])} with seed {self.seed}"

    @property
    def log(self) -> Path:
        return log_of(self.directory)

    @property
    def finished(self) -> bool:
        return all(RunDirectory(self.of_variant(name)).results.exists() for name, _ in self.variants)

    def of_variant(self, name: str) -> Path:
        """The run directory of one decision."""
        return variant_directory(self.directory, name)

    def commands(self) -> Iterator[tuple[list[str], Path]]:
        run = RunDirectory(self.directory)
        if any(name == "" for name, _ in self.variants):
            if not run.results.exists():
                yield self._fitting("run"), self.log
        elif not run.posterior.exists():
            yield self._fitting("fit"), self.log
        for name, options in self.variants:
            where = self.of_variant(name)
            if name and run.posterior.exists() and not RunDirectory(where).results.exists():
                prepare(where, run, options)
                yield self._command("run", "--resume", str(where)), log_of(where)

    def _fitting(self, command: str) -> list[str]:
        if RunDirectory(self.directory).settings.exists():
            return self._command(command, "--resume", str(self.directory))
        own = ["--seed", str(self.seed), "--threads", str(self.threads), "--out", str(self.directory)]
        return self._command(command, self.fit.entry, *own, *self.fit.arguments)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "pyro_compress", *words, *self.data_arguments]


def directory_of(folder: Path, fit: Fit, seed: int) -> Path:
    """Where a fit lies: changed entries in a folder of their own, which the table of a sweep does not look into."""
    name = f"{fit.label}-seed{seed}"
    return folder / "changed" / name if fit.arguments else folder / name


def variant_directory(fit_directory: Path, name: str) -> Path:
    """Where a decision of a fit lies; that of the entry's own settings is the fit's own run."""
    return fit_directory / "decided" / name if name else fit_directory


def log_of(directory: Path) -> Path:
    """What the runs of a directory print."""
    return directory.parent / f"{directory.name}.log"


def prepare(where: Path, fitted: RunDirectory, options: Mapping[str, Any]) -> None:
    """A run directory that holds the posterior of another one and settings that decide otherwise.

    Files are links where the file system has them.  The settings come last: without them nothing was prepared.
    """
    if (where / fitted.settings.name).exists():
        return
    where.mkdir(parents=True, exist_ok=True)
    for name in HANDED_ON:
        source, target = fitted.path / name, where / name
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target, copy_function=_link)
        elif source.is_file() and not target.exists():
            _link(str(source), str(target))
    if fitted.timings.exists():
        RunDirectory(where).write_seconds(
            {
                clock: {step: value for step, value in steps.items() if step in FITTING}
                for clock, steps in fitted.seconds().items()
            }
        )
    settings = json.loads(fitted.settings.read_text())
    settings["decision_options"] = {**settings["decision_options"], **options}
    write_atomically(where / fitted.settings.name, json.dumps(settings, indent=2) + "\n")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def work_of(
    tables: Sequence[Table], seeds: Sequence[int], folder: Path, threads: int, data_dir: Path | None = None
) -> list[FitWork]:
    """What is to be run for tables, all of one seed first; of one seed what has most epochs begins.

    A long fit that began last would leave the other processes with nothing to do.
    """
    where = () if data_dir is None else ("--data-dir", str(data_dir.resolve()))
    return [
        FitWork(fit, seed, folder.resolve(), threads, tuple(variants.items()), where)
        for seed in seeds
        for fit, variants in sorted(fits_of(tables).items(), key=lambda item: -item[0].epochs)
    ]
