"""All zoo entries of one network, side by side: by method, by what is left of the network, ranked by bytes."""

from collections.abc import Iterable, Mapping, Sequence

from pyro_compress.models import zoo
from pyro_compress.models.zoo.entry import Entry, Published
from pyro_compress.tables.spec import Column, Fit, Row, Table

ERROR = Column("error %", "error_after_percent")
KEPT = Column("kept %", "weights_left_percent")
BYTES = Column("bytes", "file_bytes", form="{:,.0f}")
RATE = Column("rate", "file_rate", form="{:,.0f}×", better="high")
PRUNING = Column("pruning", "rates.pruning", form="{:,.0f}×", better="high")
FAST = Column("fast", "rates.fast_prediction", form="{:,.0f}×", better="high")
MOST = Column("maximum", "rates.maximum_compression", form="{:,.0f}×", better="high")
LAYERS = Column("layers left", "architecture_left", better="")
BITS = Column("bits", "bits_per_layer", better="")
LIMITS = {"lenet-5": 1.0, "lenet-300-100": 1.8}
NOTE = (
    "The rate counts bytes of the whole file; pruning, fast prediction and maximum compression are the formulas of the "
    "published tables, count no file, and stand here to be compared with published figures alone. Weights kept are in "
    "percent of all weights."
)


def entries_of(network: str) -> Iterable[Entry]:
    """Those on MNIST as it is, in order of their names.

    Changed images are more data, which all would have to have, and so is a teacher that saw them.
    """
    return (
        entry
        for entry in zoo.entries().values()
        if entry.network == network and entry.data == "mnist" and not (entry.augmentation_options or entry.teacher)
    )


def published_figures(published: Published, columns: Iterable[Column]) -> Mapping[str, float | str]:
    """By heading, what of those columns is published."""
    found: dict[Column, float | str | None] = {
        ERROR: published.error_percent,
        KEPT: published.weights_left_percent,
        BYTES: published.file_bytes,
        PRUNING: published.pruning,
        FAST: published.fast_prediction,
        MOST: published.maximum_compression,
        LAYERS: published.architecture,
        BITS: published.bits,
    }
    return {column.heading: value for column in columns if (value := found.get(column)) is not None}


def rows_of(network: str, columns: Sequence[Column], *arguments: str) -> tuple[Row, ...]:
    """One row per entry; what is published stands below where it is of the same method and data."""
    found = []
    for entry in entries_of(network):
        name, fit = entry.name.partition("/")[2], Fit(entry.name, arguments)
        own = [one for one in entry.published if not one.rival and not arguments]
        first = own[0] if own else None
        figures = {} if first is None else published_figures(first, columns)
        found.append(Row(name, fit, figures, "" if first is None else f"{first.method}, {first.source}"))
    return tuple(found)


def by_method(network: str, title: str) -> Table:
    """Every method of one network beside its published figures."""
    columns = (ERROR, KEPT, BYTES, RATE, PRUNING, FAST, MOST)
    return Table(network, title, rows_of(network, columns), columns, notes=(NOTE,), figures=("error_against_bytes",))


def left(network: str, title: str) -> Table:
    """What is left of the layers, and their bits."""
    columns = (ERROR, LAYERS, BITS, BYTES)
    return Table("architectures", title, rows_of(network, columns), columns)


def ranked(network: str, title: str) -> Table:
    """By bytes of the decoded file among those within the error."""
    columns, most = (ERROR, BYTES, RATE, LAYERS), LIMITS[network]
    rows = tuple(Row(row.name, row.fit) for row in rows_of(network, columns))
    return Table("compare", title, rows, columns, most_error_percent=most, figures=("error_against_bytes",))


def on_fashion(network: str, title: str) -> Table:
    """Every method with its settings for MNIST on Fashion-MNIST."""
    columns = (ERROR, KEPT, BYTES, RATE, LAYERS)
    rows = rows_of(network, columns, "--data", "fashion-mnist")
    return Table("fashion", title, rows, columns, figures=("error_against_bytes",))
