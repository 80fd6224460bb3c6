"""The table of what is shipped: every file with its figures, read off the cards, beside published sizes of files."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pyro_compress import shipped
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.files import write_atomically
from pyro_compress.models import zoo
from pyro_compress.posterior.error_unit import PERCENT, unit_of
from pyro_compress.report.figures import save_all
from pyro_compress.report.table_figures import SizePoint, error_against_bytes
from pyro_compress.tables.rendering import shown

NAME = "zoo"
TITLE = "Files that are shipped"
HEADINGS = ("entry", "bytes", "rate", "error", "left %", "seed", "minutes")
ON_A_TERMINAL = 4
USUAL_DATA = "mnist"
NOTES = (
    "Bytes are those of the file. The error is that of what it decodes to, on the test set, ± its standard error. The "
    "rate is float32 bytes of the network as it was, by bytes; left are the weights that are not zero. Nothing was "
    "chosen on the test set. One seed each: which of several seeds would be smallest is not asked. Minutes are of "
    "processor time, the whole run.",
    "`pyro-compress card ENTRY` says how each was made, `pyro-compress evaluate ENTRY` measures it again, "
    '`pc.load("ENTRY")` loads it, and `pyro-compress run ENTRY` makes it anew.',
)


def cards() -> list[Mapping[str, Any]]:
    """Of all that is shipped: by network, and then by bytes."""
    found = [shipped.card(name) for name in shipped.names()]
    return sorted(found, key=lambda card: (card["settings"]["network"], card["file_bytes"]))


def smallest() -> list[Mapping[str, Any]]:
    """Of all that predicts classes those that no other file of the same network beats in bytes and in error.

    Networks that were trained on images as they are and on changed ones stand apart, as do those of other data.
    """
    counted = [card for card in cards() if unit_of(card) is PERCENT]

    def is_beaten(card: Mapping[str, Any]) -> bool:
        others = (other for other in counted if other is not card and _trained(other) == _trained(card))
        return any(
            other["file_bytes"] <= card["file_bytes"] and other["error_after_percent"] <= card["error_after_percent"]
            for other in others
        )

    return [card for card in counted if not is_beaten(card)]


def _trained(card: Mapping[str, Any]) -> str:
    """The network, its data if not those that nearly all have, its teacher, and how its training images change.

    Cards of files before images could change say nothing of it.
    """
    changes = Augmentation(**card["settings"].get("augmentation_options", {}))
    data, teacher = card["settings"]["data"], card["settings"].get("teacher")
    return (
        _network(card)
        + (f" on {data}" if data != USUAL_DATA else "")
        + (f" taught by {teacher}" if teacher else "")
        + (f", training images changed by {changes}" if changes else "")
    )


def _network(card: Mapping[str, Any]) -> str:
    return str(card["settings"]["network"])


def texts(card: Mapping[str, Any]) -> list[str]:
    """A row, as it is printed."""
    unit = unit_of(card)
    error, spread = (card[unit.key(name)] for name in ("error_after", "error_standard_error"))
    return [
        card["name"],
        f"{card['file_bytes']:,}",
        f"{card['file_rate']:,.0f}×",
        f"{error:.{unit.digits}f} ± {unit.shown(spread)}",
        f"{card['weights_left_percent']:.2f}",
        str(card["seed"]),
        f"{sum(card['processor_seconds_per_step'].values()) / 60:.1f}",
    ]


def terminal() -> Table:
    """The first columns, within 80 characters."""
    table = Table(
        title=TITLE,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for place, heading in enumerate(HEADINGS[:ON_A_TERMINAL]):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for card in cards():
        name, size, rate, *_ = texts(card)
        unit = unit_of(card)
        table.add_row(name, size, rate, unit.shown(card[unit.key("error_after")]))
    return table


def markdown() -> str:
    """The page, without figures."""
    lines = [f"# {TITLE}", "", "`pyro-compress table zoo`", "", *_rows(cards())]
    for note in NOTES:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _rows(held: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [f"| {' | '.join(HEADINGS)} |", "| --- |" + " ---: |" * (len(HEADINGS) - 1)]
    return lines + [f"| {' | '.join(texts(card))} |" for card in held]


def opening() -> str:
    """The table that README opens with: the smallest files of each network, and published sizes of files for it.

    Data that are not named are MNIST.
    """
    headings = ("network", "made by", "bytes of the file", "rate", "test error of what it decodes to")
    lines = [f"| {' | '.join(headings)} |", "| --- | --- |" + " ---: |" * (len(headings) - 2)]
    for trained in dict.fromkeys(map(_trained, smallest())):
        held = [card for card in smallest() if _trained(card) == trained]
        original = held[0]["original_bytes"]
        rows = []
        for card in held:
            name, size, rate, error, *_ = texts(card)
            rows.append((card["file_bytes"], f"`{name}`", size, rate, error))
        # published figures are of images as they are
        for point in _published(trained):
            size, rate = f"{point.file_bytes:,}", f"{original / point.file_bytes:,.0f}×"
            rows.append((point.file_bytes, point.label, size, rate, f"{point.error_percent:.2f} %"))
        lines += [f"| {trained} | {' | '.join(row[1:])} |" for row in sorted(rows)]
    return "\n".join(lines) + "\n"


def comma_separated() -> str:
    """A record per file."""
    out = io.StringIO()
    kept = ("name", "file_bytes", "file_rate", "weights_left_percent", "architecture_left", "seed", "sha256")
    unit_keys = ("error", "standard_error", "unit")
    writer = csv.DictWriter(out, fieldnames=[*kept, *unit_keys], lineterminator="\n")
    writer.writeheader()
    for card in cards():
        unit = unit_of(card)
        numbers = (card[unit.key("error_after")], card[unit.key("error_standard_error")], unit.name)
        writer.writerow({key: card[key] for key in kept} | dict(zip(unit_keys, numbers, strict=True)))
    return out.getvalue()


def points(network: str) -> list[SizePoint]:
    """Of the files of a network, and of the published sizes of files that its entries are held against."""
    ours = [card for card in cards() if _network(card) == network and unit_of(card) is PERCENT]
    found = [
        SizePoint(card["name"].partition("/")[2], card["file_bytes"], card["error_after_percent"]) for card in ours
    ]
    return found + _published(network)


def _published(network: str) -> list[SizePoint]:
    held = {
        (row.method, row.source, row.file_bytes, row.error_percent)
        for entry in zoo.entries().values()
        if entry.network == network
        for row in entry.published
        if row.file_bytes is not None
    }
    return [
        SizePoint(f"published: {method}, {source}", size, error, ours=False)
        for method, source, size, error in sorted(held)
    ]


def _smallest_points(data: str) -> list[SizePoint]:
    """Of the smallest files for some data, and of what is published for their networks."""
    held = [card for card in smallest() if card["settings"]["data"] == data]
    ours = [SizePoint(card["name"], card["file_bytes"], card["error_after_percent"]) for card in held]
    networks = dict.fromkeys(map(_network, held))
    return ours + [
        point._replace(label=f"{network}, {point.label.partition(', ')[0]}")
        for network in networks
        for point in _published(network)
    ]


def save(folder: Path) -> list[Path]:
    """zoo.md, zoo.csv, zoo.json and a figure for every network with several files."""
    networks = dict.fromkeys(_network(card) for card in cards())
    figures = {}
    for network in networks:
        held = points(network)
        if sum(point.ours for point in held) > 1:
            figure = error_against_bytes(held)
            figure.suptitle(f"{figure.get_suptitle()}: {network}", fontsize=14)
            figures[f"{NAME}-error_against_bytes-{network}"] = figure
    for data in dict.fromkeys(card["settings"]["data"] for card in smallest()):
        if len(held := _smallest_points(data)) < 2:
            continue
        figure = error_against_bytes(held)
        figure.suptitle(f"The smallest files: {data}", fontsize=14)
        figures[f"{NAME}-smallest-{data}"] = figure
    images = save_all(folder / "images", figures)
    pages = {
        "md": markdown() + shown(images, folder),
        "csv": comma_separated(),
        "json": json.dumps(cards(), indent=2, ensure_ascii=False) + "\n",
    }
    for suffix, text in pages.items():
        write_atomically(folder / f"{NAME}.{suffix}", text)
    return [*(folder / f"{NAME}.{suffix}" for suffix in pages), *images]
