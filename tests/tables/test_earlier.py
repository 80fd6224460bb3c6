"""Cells that earlier tables have measured: which are taken, and that the committed ones make the pages."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyro_compress.errors import RunError
from pyro_compress.tables import collecting, rendering
from pyro_compress.tables.earlier import Earlier, settings_id
from pyro_compress.tables.registry import tables_named
from pyro_compress.tables.spec import Column, Fit, Row, Table
from tests.tables.test_tables import write_results

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = "digits-softmax/normal"
ERROR = Column("error %", "error_after_percent")
HALF = Column("half", "error_after_percent", variant="half")


def table(*arguments: str) -> Table:
    variants = {"": None, "half": {"remove_percent": 50.0}}
    return Table("mine", "Mine", (Row("first", Fit(ENTRY, arguments)),), (ERROR, HALF), variants)


def written(folder: Path, **results: Any) -> Path:
    """A table's JSON, of seed 0 and both decisions."""
    for variant in ("", "half"):
        directory = write_results(folder, Fit(ENTRY), 0, variant, **results)
        (directory / "timings.json").write_text(json.dumps({"wall": {"fit": 9.0}, "processor": {"fit": 6.0}}))
    lines = collecting.collect(table(), [0], folder)
    path = folder / "mine.json"
    path.write_text(rendering.in_format("json", [(table(), lines)], [0], "", ""))
    return path


def test_cells_without_a_run_are_those_of_before(tmp_path: Path) -> None:
    before = Earlier.read([written(tmp_path / "old", error_after_percent=2.5)])
    (line,) = collecting.collect(table(), [0, 1], tmp_path / "new", before)
    assert line.cells["error %"].values == {0: 2.5} == line.cells["half"].values and line.seconds == {0: 6.0}
    # one that goes on has no values, and spends what no row is to be told yet
    directory = write_results(tmp_path / "new", Fit(ENTRY), 1, error_after_percent=2.0)
    (directory / "timings.json").write_text(json.dumps({"wall": {"fit": 9.0}, "processor": {"fit": 9.0}}))
    (directory / "results.json").unlink()
    (line,) = collecting.collect(table(), [0, 1], tmp_path / "new", before)
    assert line.cells["error %"].values == {0: 2.5} and line.seconds == {0: 6.0}
    write_results(tmp_path / "new", Fit(ENTRY), 0, error_after_percent=2.0)
    (line,) = collecting.collect(table(), [0], tmp_path / "new", before)
    assert (line.cells["error %"].median, line.cells["half"].median) == (2.0, 2.5), "a run that is there comes first"
    (changed,) = collecting.collect(table("--epochs", "3"), [0], tmp_path / "new", before)
    assert changed.cells["error %"].median is None
    both = [None, {"remove_percent": 50.0}]
    assert before.holds(Fit(ENTRY), both, 0) and not before.holds(Fit(ENTRY), [*both, {"snr": 1.0}], 0)
    assert not before.holds(Fit(ENTRY), both, 1) and not before.holds(Fit("a/b"), [None], 0)


def test_values_of_other_settings_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, error_after_percent=2.5)
    assert f'"settings_id": "{settings_id(ENTRY)}"' in path.read_text()
    path.write_text(path.read_text().replace(settings_id(ENTRY), "0" * 12))
    before = Earlier.read([path])
    assert before.outdated == (ENTRY,) and not before.values


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    other, words = tmp_path / "other.json", tmp_path / "words.json"
    other.write_text('[{"entry": "a"}]')
    words.write_text("no JSON")
    with pytest.raises(RunError, match=r"--earlier .*nowhere\.json cannot be read: No such file"):
        Earlier.read([tmp_path / "nowhere.json"])
    with pytest.raises(RunError, match=r"--earlier .*words\.json is no JSON"):
        Earlier.read([words])
    with pytest.raises(RunError, match=r"--earlier .*other\.json is none of the files NAME\.json that"):
        Earlier.read([other])


MEASURED = sorted((DOCS / "measured").glob("*.json"))


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_pages_are_made_of_what_is_committed(path: Path, tmp_path: Path) -> None:
    """`pyro-compress table NAME --ready --earlier docs/measured/NAME.json`, but for the figures below the tables.

    With `--seeds` where there are several.
    """
    named, before = tables_named(path.stem), Earlier.read([path])
    assert not before.outdated, "these entries have been given other settings: run the table again"
    seeds = sorted({int(seed) for record in json.loads(path.read_text()) for seed in record["values"]})
    found = [(one, collecting.collect(one, seeds, tmp_path, before)) for one in named.tables()]
    command = f"pyro-compress table {path.stem}" + (f" --seeds {' '.join(map(str, seeds))}" if seeds != [0] else "")
    page = rendering.in_format("markdown", found, seeds, command, named.title)
    held = (DOCS / f"{path.stem}.md").read_text(encoding="utf-8")
    assert held.partition("\n![")[0].rstrip() == page.rstrip()
