"""Seconds of a run's steps: none is lost with a process that is killed, and none is of an outcome that is gone."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyro_compress.pipeline import progress, run_directory
from pyro_compress.pipeline.run_directory import RunDirectory
from tests.pipeline.conftest import Cli
from tests.pipeline.test_bad_input import MINE


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock to set, of which processors have half."""
    clock = {"now": 100.0}
    monkeypatch.setattr(run_directory, "_seconds_so_far", lambda: (clock["now"], clock["now"] / 2))
    return clock


def test_a_step_is_noted_so_far_and_adds_up_until_it_is_done_again(tmp_path: Path, clock: dict[str, float]) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.timed("fit") as note:
        clock["now"] += 4
        note()
        # what a process that is killed here leaves
        assert run.seconds() == {"wall": {"fit": 4.0}, "processor": {"fit": 2.0}}
        clock["now"] += 2
        raise KeyboardInterrupt
    with run.timed("fit"):
        clock["now"] += 10
    assert run.seconds() == {"wall": {"fit": 16.0}, "processor": {"fit": 8.0}}
    with pytest.raises(KeyboardInterrupt), run.timed("fit", again=True):
        clock["now"] += 1
        raise KeyboardInterrupt
    # the former outcome is still there
    assert run.seconds()["wall"] == {"fit": 16.0}
    with run.timed("fit", again=True):
        clock["now"] += 3
    assert run.seconds() == {"wall": {"fit": 3.0}, "processor": {"fit": 1.5}}


@pytest.mark.usefixtures("no_figures")
def test_seconds_of_a_run(cli: Cli, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes as many seconds as the clock is asked for the time."""
    asked = iter(range(10_000))
    monkeypatch.setattr(run_directory, "_seconds_so_far", lambda: (float(next(asked)), 0.0))
    run, left_behind = RunDirectory(user / "r"), []

    @contextmanager
    def bars(console: Any, **options: Any) -> Iterator[progress.Bars]:
        def look(record: Any, state: Any) -> None:
            left_behind.append((run.checkpoint.exists(), run.seconds()["wall"]))

        yield progress.Bars(lambda name, epochs: look)

    monkeypatch.setattr(progress, "epoch_bars", bars)
    assert cli("run", "--prior", "normal", *MINE, "--epochs", "3", "--out", run.path).code == 0
    assert left_behind == [(True, {"fit": 1.0}), (True, {"fit": 2.0}), (True, {"fit": 3.0})]
    once = {"fit": 4.0, "analyse": 1.0, "compress": 1.0}
    assert run.seconds()["wall"] == once
    for _ in range(2):
        assert cli("analyse", run.path).code == 0
        assert run.seconds()["wall"] == {"fit": 4.0, "analyse": 1.0}
    for _ in range(2):
        assert cli("compress", run.path).code == 0
        assert run.seconds()["wall"] == once
    assert cli("evaluate", run.path).code == 0
    assert json.loads(run.results.read_text())["seconds_per_step"] == once
    shutil.rmtree(run.path)
