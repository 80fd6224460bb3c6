"""What a table is, as plain data: rows are fits of zoo entries, columns are what is read off their results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyro_compress.models import zoo
from pyro_compress.pipeline.run_options import literal, settings_for
from pyro_compress.pipeline.settings import RunSettings

# by variant: settings of the decision that take the place of the entry's own; None leaves those and is a plain run
Variants = Mapping[str, Mapping[str, Any] | None]
OWN: Variants = {"": None}
QUICK_EXAMPLES, QUICK_EPOCHS = 2000, 2


@dataclass(frozen=True)
class Fit:
    """One posterior for each seed: a zoo entry, and words of the command line that change it.

    Attributes:
        entry: of the zoo.
        arguments: further words of `pyro-compress fit`, options and values in turn: ('--data', 'fashion-mnist').
    """

    entry: str
    arguments: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name of its folder but for the seed; that of a sweep's where nothing is changed."""
        words = [self.entry, *self.arguments]
        return "-".join(
            re.sub(r"[^\w.=]+", "-", word).strip("-").removeprefix("set-") for word in words if word != "--set"
        )

    def settings(self, seed: int) -> RunSettings:
        """What its run is asked for."""
        options = [value for word, value in self._pairs if word == "--set"]
        words = {word.removeprefix("--").replace("-", "_"): value for word, value in self._pairs if word != "--set"}
        return settings_for(self.entry, options, seed=seed, **{word: literal(value) for word, value in words.items()})

    @property
    def epochs(self) -> int:
        """Passes over the data before anything is decided."""
        entry, asked = zoo.entry(self.entry), dict(self._pairs)
        # not of the settings, which a row that cannot be run has none of
        fitted = asked.get("--epochs", entry.method_options.get("epochs", 0))
        return int(fitted) + int(asked.get("--pretrain-epochs", entry.pretrain_epochs))

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.arguments[::2], self.arguments[1::2], strict=True))

    def with_arguments(self, *words: str) -> "Fit":
        """The same with further changes."""
        return replace(self, arguments=(*self.arguments, *words))

    def quick(self) -> "Fit":
        """A reduced fit, of few examples and epochs: shows that all works, and no figure that means anything."""
        words = ["--examples", str(QUICK_EXAMPLES), "--epochs", str(QUICK_EPOCHS)]
        if zoo.entry(self.entry).pretrain_epochs:
            words += ["--pretrain-epochs", "1"]
        if zoo.entry(self.entry).decision_options.get("fine_tune_epochs") != 0:
            words += ["--set", "decision.fine_tune_epochs=1"]
        return self.with_arguments(*words)


@dataclass(frozen=True)
class Column:
    """One number, or word, of every row.

    Attributes:
        heading: with the unit.
        key: of results.json, dotted where it is nested; 'accuracy_percent' is 100 less the error of the decoded file.
        variant: whose results.
        form: how a number is printed.
        better: 'low' or 'high', which says what the worst seed is; '' for what is no number.
    """

    heading: str
    key: str
    variant: str = ""
    form: str = "{:.2f}"
    better: str = "low"


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: of the method, as people know it.
        fit: what is run, or None for a row of published figures alone.
        published: by heading, what is printed below.
        source: of the published figures.
    """

    name: str
    fit: Fit | None
    published: Mapping[str, float | str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Table:
    """Rows and columns.

    Attributes:
        name: as `pyro-compress table` takes it.
        title: what is shown.
        rows, columns, variants: see there.
        notes: paragraphs below the table.
        most_error_percent: rank the rows by bytes of the decoded file, those with a larger error behind; None keeps the
            order.
        figures: names in `tables.figures.FIGURES`.
        is_quick: whether its fits are reduced.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    variants: Variants = field(default_factory=lambda: OWN)
    notes: tuple[str, ...] = ()
    most_error_percent: float | None = None
    figures: tuple[str, ...] = ()
    is_quick: bool = False

    def quick(self) -> "Table":
        """The same with reduced fits, which every line says."""
        said = f" (quick: {QUICK_EXAMPLES:,} examples, {QUICK_EPOCHS} epochs)"
        rows = tuple(
            replace(row, name=row.name + said, fit=row.fit.quick()) for row in self.rows if row.fit is not None
        )
        return replace(self, rows=rows, is_quick=True)


def fits_of(tables: Sequence[Table]) -> dict[Fit, dict[str, Mapping[str, Any] | None]]:
    """Every fit once, with the variants that any of the tables asks for."""
    found: dict[Fit, dict[str, Mapping[str, Any] | None]] = {}
    for table in tables:
        for row in table.rows:
            if row.fit is not None:
                found.setdefault(row.fit, {}).update(table.variants)
    return found
