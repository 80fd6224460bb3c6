"""The command `table`: what it lists, refuses, shows and writes; the runs themselves are in tests/tables."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyro_compress.pipeline import running
from pyro_compress.pipeline.running import Work
from pyro_compress.tables.spec import Fit
from pyro_compress.tables.work import directory_of
from tests.pipeline.conftest import Cli


def test_tables_are_listed_and_one_that_is_not_there_is_a_sentence(cli: Cli) -> None:
    listed = cli("table")
    assert listed.code == 0 and "bbb-mnist: Bayes by Backprop on MNIST" in listed.out
    wrong = cli("table", "bbb-mnst")
    assert wrong.code == 1 and wrong.err.endswith("Did you mean 'bbb-mnist'?\n")
    assert "a table at a time: found lenet-5 and compare" in cli("table", "lenet-5", "compare").err


def test_what_is_there_is_shown_and_written(cli: Cli, tmp_path: Path) -> None:
    directory = directory_of(tmp_path, Fit("lenet-5/log-uniform"), 1)
    directory.mkdir()
    results = {"error_after_percent": 0.9, "file_bytes": 2000, "file_rate": 862.0, "architecture_left": "1-2-3-4"}
    (directory / "results.json").write_text(json.dumps(results))
    shown = cli("table", "compare", "--ready", "--seeds", "1", "--out", tmp_path)
    assert shown.code == 0, shown.err
    page = (tmp_path / "compare.md").read_text()
    assert page.startswith("# Every method by bytes of the decoded file")
    assert "| log-uniform | 0.90 | 2,000 | 862× | 1-2-3-4 | 1 |" in page
    assert "`pyro-compress table compare --seeds 1`" in page
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"compare.csv", "compare.json"}
    assert (tmp_path / "images" / "compare-error_against_bytes.png").exists()


def test_runs_that_fail_end_the_command_with_status_1(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: Work, environment: Mapping[str, str]) -> str:
        command, log = next(iter(task.commands()))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{' '.join(command)}\nerror: no disk is left\n")
        return "error: no disk is left"

    monkeypatch.setattr(running, "run_one", fail)
    found = cli(
        "table", "vnq-mnist", "--quick", "--out", tmp_path, "--data-dir", tmp_path, "--threads", "3", "--jobs", "2",
        "--through", "processes",
    )  # fmt: skip
    assert found.code == 1 and "5 of 5 runs failed" in found.err
    page = (tmp_path / "vnq-mnist-quick.md").read_text()
    assert page.count("quick: 2,000 examples, 2 epochs) | failed") == 5
    assert page.count("seed 0: no disk is left") == 5
    log = next((tmp_path / "changed").glob("*.log")).read_text()
    assert "--threads 3" in log and f"--data-dir {tmp_path}" in log and "--examples 2000" in log
    assert cli("table", "vnq-mnist", "--processes", "0").code == 2


def test_what_was_measured_before_is_not_run_again(cli: Cli, tmp_path: Path) -> None:
    for entry in ("lenet-300-100/int4", "lenet-5/l0"):
        directory = directory_of(tmp_path, Fit(entry), 0)
        directory.mkdir()
        (directory / "results.json").write_text(json.dumps({"error_after_percent": 1.5, "file_bytes": 2000}))
    assert cli("table", "compare", "--ready", "--out", tmp_path).code == 0
    shown = cli("table", "compare", "--ready", "--out", tmp_path / "elsewhere", "--earlier", tmp_path / "compare.json")
    assert shown.code == 0, shown.err
    page = (tmp_path / "elsewhere" / "compare.md").read_text()
    assert "| l0 | 1.50 | 2,000 |" in page and "| int4 | 1.50 | 2,000 |" in page
    held = (tmp_path / "compare.json").read_text().replace('"settings_id": "', '"settings_id": "x')
    (tmp_path / "old.json").write_text(held)
    shown = cli("table", "compare", "--ready", "--out", tmp_path / "there", "--earlier", tmp_path / "old.json")
    assert "left out, since their settings are others now: " in shown.out and "lenet-300-100/int4" in shown.out
    assert "| l0 | – | – |" in (tmp_path / "there" / "compare.md").read_text()
    missing = cli("table", "compare", "--ready", "--out", tmp_path, "--earlier", tmp_path / "none.json")
    assert missing.code == 1 and "none.json cannot be read" in missing.err
