"""Reference tables: what is run, how results become cells, ranks and pages, and that one that fails stops none."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_compress.errors import RunError
from pyro_compress.models import zoo
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.running import run_all
from pyro_compress.report import table_figures
from pyro_compress.tables import collecting, rendering
from pyro_compress.tables.definitions import bayes_by_backprop, networks
from pyro_compress.tables.figures import FIGURES, save_figures
from pyro_compress.tables.registry import TABLES, tables_named
from pyro_compress.tables.spec import Column, Fit, Row, Table, fits_of
from pyro_compress.tables.work import FitWork, directory_of, prepare, variant_directory, work_of
from tests.pipeline.conftest import started_here, torch_as_it_was

ERROR = Column("error %", "error_after_percent")
BYTES = Column("bytes", "file_bytes", form="{:,.0f}")
SIZES = Column("layers", "architecture_left", better="")
HIGH = Column("accuracy", "accuracy_percent", better="high")
BITS = Column("bits", "bits_per_layer", better="")
SMALL = "digits-softmax/normal"


def write_results(folder: Path, fit: Fit, seed: int, variant: str = "", **results: Any) -> Path:
    directory = variant_directory(directory_of(folder, fit, seed), variant)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results))
    return directory


def two_rows(most: float | None = None) -> Table:
    rows = (
        Row("first", Fit("a/b"), {"error %": 1.5, "layers": "7-8"}, "Author 2000"),
        Row("second", Fit("a/c", ("--data", "x"))),
        Row("elsewhere", None, {"error %": 2.0}, "Another 2001"),
    )
    return Table("mine", "Mine", rows, (ERROR, BYTES, SIZES), most_error_percent=most)


def test_cells_hold_the_median_and_the_worst_seed(tmp_path: Path) -> None:
    table = Table("t", "T", (Row("first", Fit("a/b")),), (ERROR, HIGH, BYTES, SIZES, BITS))
    for seed, error in ((0, 1.0), (1, 4.0), (2, 2.0)):
        write_results(
            tmp_path, Fit("a/b"), seed, error_after_percent=error, file_bytes=1000 + seed, architecture_left="5-6",
            bits_per_layer={"x": 3, "y": 4},
        )  # fmt: skip
    (line,) = collecting.collect(table, [0, 1, 2], tmp_path)
    assert (line.cells["error %"].median, line.cells["error %"].worst) == (2.0, 4.0)
    assert (line.cells["accuracy"].median, line.cells["accuracy"].worst) == (98.0, 96.0)
    shown = [rendering.text_of(column, line.cells[column.heading]) for column in table.columns]
    assert shown == ["2.00 (4.00)", "98.00 (96.00)", "1,001 (1,002)", "5-6", "3-4"]
    (only,) = collecting.collect(table, [1], tmp_path)
    assert rendering.text_of(ERROR, only.cells["error %"]) == "4.00"


def test_a_rank_is_by_bytes_within_the_error_and_by_error_beyond_it(tmp_path: Path) -> None:
    rows = tuple(Row(name, Fit(f"n/{name}")) for name in "abcde")
    table = Table("t", "T", rows, (ERROR, BYTES), most_error_percent=1.0)
    for name, error, size in (("a", 0.9, 3000), ("b", 1.3, 100), ("c", 1.0, 2000), ("d", 1.1, 50)):
        write_results(tmp_path, Fit(f"n/{name}"), 0, error_after_percent=error, file_bytes=size)
    assert [line.row.name for line in collecting.collect(table, [0], tmp_path)] == ["c", "a", "d", "b", "e"]


def test_published_figures_stand_below_and_failures_are_named(tmp_path: Path) -> None:
    table = two_rows()
    write_results(tmp_path, Fit("a/b"), 0, error_after_percent=1.0, file_bytes=10, architecture_left="1-2")
    failed = directory_of(tmp_path, Fit("a/c", ("--data", "x")), 0)
    failed.parent.mkdir(parents=True)
    (failed.parent / f"{failed.name}.log").write_text("epoch 1\nerror: there is no data set x\n")
    lines = collecting.collect(table, [0], tmp_path)
    page = rendering.markdown(table, lines, [0], "pyro-compress table mine")
    assert "| first | 1.00 | 10 | 1-2 | 0 | – |" in page
    assert "| *published [1]* | *1.50* | *–* | *7-8* |" in page
    assert "Published: [1] Author 2000; [2] Another 2001." in page
    assert "| *elsewhere, published [2]* | *2.00* |" in page
    assert "| second | failed | failed | failed |" in page
    assert "- second, seed 0: there is no data set x" in page
    assert "`pyro-compress run a/c --data x --seed 0`" in page
    records = json.loads(rendering.in_format("json", [(table, lines)], [0], "", ""))
    assert len(records) == 9
    of_first = next(one for one in records if (one["row"], one["column"]) == ("first", "error %"))
    assert (of_first["median"], of_first["published"], of_first["entry"]) == (1.0, 1.5, "a/b")
    rows = list(csv.DictReader(io.StringIO(rendering.in_format("csv", [(table, lines)], [0], "", ""))))
    assert [row["median"] for row in rows[:3]] == ["1.0", "10", "1-2"]
    assert json.loads(rows[3]["failed"]) == {"0": "there is no data set x"}


def test_a_quick_table_says_so_in_every_line() -> None:
    for name, named in TABLES.items():
        for table in named.tables():
            for row in table.quick().rows:
                assert row.fit is not None and "quick: 2,000 examples, 2 epochs" in row.name, name
                assert "--examples" in row.fit.arguments


def test_tables_name_entries_and_published_figures_as_they_are_printed() -> None:
    for named in TABLES.values():
        for table in named.tables():
            headings = {column.heading for column in table.columns}
            assert {column.variant for column in table.columns} <= set(table.variants)
            assert set(table.figures) <= set(FIGURES)
            for row in table.rows:
                assert set(row.published) <= headings
                if row.fit is not None:
                    zoo.entry(row.fit.entry)
    (mnist,) = tables_named("bbb-mnist").tables()
    by_backprop = next(row for row in mnist.rows if row.name == "Bayes by Backprop")
    assert by_backprop.published == {
        "0 % pruned": 98.20,
        "50 % pruned": 98.19,
        "75 % pruned": 98.23,
        "90 % pruned": 98.22,
    }
    (lenet,) = tables_named("lenet-5").tables()
    horseshoe = next(row for row in lenet.rows if row.name == "group-horseshoe")
    assert horseshoe.published[networks.MOST.heading] == 771
    # counted weights, which the rate called pruning does not give
    assert (horseshoe.published[networks.KEPT.heading], horseshoe.published[networks.PRUNING.heading]) == (0.6, 156)
    with pytest.raises(RunError, match="Did you mean 'bbb-mnist'"):
        tables_named("bbb-mnst")


def test_fits_are_shared_by_cells_and_have_the_directories_of_sweeps(tmp_path: Path) -> None:
    tables = [bayes_by_backprop.MNIST, bayes_by_backprop.FASHION]
    work = work_of(tables, [0, 1], tmp_path, threads=1)
    assert len(work) == 2 * 13
    assert work[0].directory == tmp_path / "mlp-500-500-sgd-seed0"
    assert [name for name, _ in work[0].variants] == ["0", "50", "75", "90"]
    changed = next(one for one in work if one.fit.arguments == ("--set", "method.rate=0.75"))
    assert changed.directory.parent == tmp_path / "changed"
    assert len({one.directory for one in work}) == len(work)


def test_the_longest_fit_of_a_seed_begins(tmp_path: Path) -> None:
    work = work_of(tables_named("vnq-mnist").tables(), [0, 1], tmp_path, threads=1)
    # five of the plain network before them, where none are asked for
    assert [one.fit.epochs for one in work] == 2 * [200, 65, 65, 60, 25]
    assert [one.seed for one in work] == 5 * [0] + 5 * [1]


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Its cells would be shown under a command that did not make them."""
    fit = Fit("lenet-300-100/log-uniform", ("--kl-weight", "0.5", "--data", "fashion-mnist"))
    work = FitWork(fit, 3, tmp_path, 1, (("", None), ("half", {"remove_percent": 50.0})))
    work.refuse_other_settings()  # nothing is there
    asked = fit.settings(3)
    assert (asked.seed, asked.data, asked.method_options["kl_weight"]) == (3, "fashion-mnist", 0.5)
    assert asked.method_options["epochs"] == fit.epochs - asked.pretrain_epochs
    run = RunDirectory(work.directory)
    run.path.mkdir(parents=True)
    dataclasses.replace(asked, threads=2).save(run.settings)
    prepare(work.of_variant("half"), run, {"remove_percent": 50.0})
    work.refuse_other_settings()
    prepare(work.of_variant("other"), run, {"remove_percent": 40.0})
    with pytest.raises(RunError, match=r"other was started with decision_options=\{.*40.0.*the table's row of"):
        dataclasses.replace(work, variants=(("other", {"remove_percent": 50.0}),)).refuse_other_settings()
    dataclasses.replace(asked, data="mnist").save(run.settings)
    with pytest.raises(RunError, match=r"seed3 was started with data=mnist, and the table's row .* fashion-mnist"):
        work.refuse_other_settings()


def test_every_fit_of_every_table_says_what_it_is_asked_for() -> None:
    for name, named in TABLES.items():
        for fit in fits_of([one for table in named.tables() for one in (table, table.quick())]):
            assert fit.settings(1).seed == 1, name


def test_a_decision_of_its_own_starts_from_the_posterior_that_is_there(tmp_path: Path) -> None:
    fitted = RunDirectory(tmp_path / "fit")
    fitted.path.mkdir()
    fitted.posterior.write_bytes(b"posterior")
    fitted.timings.write_text(json.dumps({"wall": {"fit": 3.0, "analyse": 5.0}, "processor": {"fit": 2.0}}))
    fitted.settings.write_text(json.dumps({"seed": 4, "decision_options": {"c": 1.0, "snr": 2.0}}))
    prepare(tmp_path / "other", fitted, {"snr": 0.5})
    made = RunDirectory(tmp_path / "other")
    assert made.posterior.read_bytes() == b"posterior"
    assert made.seconds() == {"wall": {"fit": 3.0}, "processor": {"fit": 2.0}}
    assert json.loads(made.settings.read_text()) == {"seed": 4, "decision_options": {"c": 1.0, "snr": 0.5}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table, list[FitWork]]:
    """A table of the digits that has been run: one row that works with two decisions, and one that fails."""
    folder = tmp_path_factory.mktemp("tables")
    options = (
        *("--inference", "map", "--epochs", "2"),
        *("--set", "decision.fine_tune_epochs=0", "--set", "decision.quantizer=float32"),
    )
    rows = (Row("map", Fit(SMALL, options)), Row("wrong", Fit(SMALL, ("--set", "prior.no=1"))))
    columns = (Column("kept %", "weights_left_percent"), Column("kept %, half", "weights_left_percent", "half"))
    table = Table("small", "Small", rows, columns, {"": None, "half": {"remove_percent": 50.0}})
    work = work_of([table], [0], folder, threads=1)
    with started_here(), torch_as_it_was():
        run_all(work, processes=1, through="processes", say=lambda line: None)
    return folder, table, work


def test_a_table_runs_and_a_cell_that_fails_leaves_the_others(small: tuple[Path, Table, list[FitWork]]) -> None:
    folder, table, work = small
    assert [one.finished for one in work] == [True, False]
    lines = collecting.collect(table, [0], folder)
    assert lines[0].cells["kept %"].median == 100.0
    assert lines[0].cells["kept %, half"].median == pytest.approx(50.0, abs=0.2)
    assert lines[0].seconds[0] > 0
    assert all("'no'" in cell.failed[0] for cell in lines[1].cells.values())
    for one in work:
        one.refuse_other_settings()
    # given again, what has finished is left alone
    said: list[str] = []
    with started_here():
        failed = run_all(work, processes=1, through="processes", say=said.append)
    assert said[0] == "1 of 2 runs have finished before" and list(failed) == [work[1]]


def test_figures_show_what_the_runs_hold(small: tuple[Path, Table, list[FitWork]], tmp_path: Path) -> None:
    folder, table, _ = small
    lines = collecting.collect(table, [0], folder)
    found = FIGURES["loss_curves"](table, lines)
    assert found is not None
    (curve,) = found.axes[0].get_lines()
    assert len(np.asarray(curve.get_ydata())) == 2
    weights = FIGURES["weight_distributions"](table, lines)
    assert weights is not None and "map: sd" in weights.axes[0].get_legend_handles_labels()[1][0]
    assert FIGURES["scale_mixture"](table, lines) is None
    assert save_figures(tmp_path, "small", [(table, lines)]) == []
    shown = dataclasses.replace(table, figures=("loss_curves",))
    paths = save_figures(tmp_path / "images", "small", [(shown, lines), (shown, lines)])
    assert [path.name for path in paths] == ["small-loss_curves.png", "small-loss_curves-2.png"]
    rendering.save_all(tmp_path, "small", [(shown, lines)], [0], "pyro-compress table small", "Small", paths)
    assert "\n![small loss curves](images/small-loss_curves.png)\n" in (tmp_path / "small.md").read_text()


def test_the_scale_mixture_integrates_to_one_and_is_the_sum_of_its_parts() -> None:
    figure = table_figures.scale_mixture(0.25, 1.5, 0.1)
    w, slab = (np.asarray(numbers) for numbers in figure.axes[1].get_lines()[0].get_data())
    spike, both = (np.asarray(line.get_ydata()) for line in figure.axes[1].get_lines()[1:3])
    np.testing.assert_allclose(slab + spike, both)
    assert np.trapezoid(both, w) == pytest.approx(1.0, abs=2e-3)
