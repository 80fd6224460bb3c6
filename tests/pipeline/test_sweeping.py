"""Sweeps: what is run, gone on with and left alone, by local processes and by Ray, and the table at the end."""

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pyro_compress.errors import PyroCompressError, RunError
from pyro_compress.pipeline.running import cores, refuse_failures, run_all
from pyro_compress.pipeline.sweeping import Task, collect, entries_and_seeds, table, tasks_of
from tests.pipeline.conftest import Called, Cli, started_here

ENTRY = "digits-cnn/group-horseshoe"
THROUGH = [
    "processes",
    pytest.param("ray", marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is missing")),
]
# in place of a run: fails for seed 1, else writes results that tell how it was started
STAND_IN = """
import json, pathlib, sys
folder, seed, words = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
folder.mkdir(exist_ok=True)
(folder / "settings.json").write_text("{}")
if seed == 1:
    sys.exit("error: no luck with seed 1")
numbers = dict(file_rate=10 + seed, error_after_percent=1.0 + seed, error_before_percent=1.0, weights_left_percent=5.0,
               file_bytes=2000 - seed, wall_seconds=60.0, kl_weight=1.0, entry="some/entry", seed=seed, words=words)
(folder / "results.json").write_text(json.dumps(numbers))
"""


class StandIn(Task):
    """A run that takes no time."""

    def command(self) -> list[str]:
        words = super().command()
        return [sys.executable, "-c", STAND_IN, self.directory, str(self.seed), *words]


def stand_ins(folder: Path, seeds: list[int]) -> list[Task]:
    return [StandIn("some/entry", seed, str(folder / f"some-entry-seed{seed}"), 1) for seed in seeds]


def test_seeds_may_follow_their_option_one_by_one() -> None:
    assert entries_and_seeds(["a/b", "c/d", "1", "2"], "0") == (["a/b", "c/d"], [0, 1, 2])
    assert entries_and_seeds(["a/b", "a/b"], "3,4 3") == (["a/b"], [3, 4])
    with pytest.raises(RunError, match="--seeds takes numbers from 0 up, found '-1'"):
        entries_and_seeds(["a/b"], "0 -1")


def test_tasks_are_all_entries_of_a_seed_first(tmp_path: Path) -> None:
    tasks = tasks_of([ENTRY, "lenet-5/group-horseshoe"], [4, 2], tmp_path, 1, ["--epochs", "1"])
    assert [(task.entry.partition("/")[0], task.seed) for task in tasks] == [
        ("digits-cnn", 4), ("lenet-5", 4), ("digits-cnn", 2), ("lenet-5", 2),
    ]  # fmt: skip
    assert tasks[0].command()[3:] == [
        "run", ENTRY, "--seed", "4", "--threads", "1", "--out", str(tmp_path / "digits-cnn-group-horseshoe-seed4"),
        "--epochs", "1",
    ]  # fmt: skip
    with pytest.raises(PyroCompressError, match="digits-cn"):
        tasks_of(["digits-cn"], [0], tmp_path, 1)


@pytest.mark.parametrize("through", THROUGH)
def test_one_that_fails_stops_none_and_what_has_finished_is_left_alone(tmp_path: Path, through: str) -> None:
    tasks, said = stand_ins(tmp_path / "sweep", [0, 1, 2]), list[str]()
    failed = run_all(tasks, processes=2, through=through, say=said.append)
    assert {task.seed: trouble for task, trouble in failed.items()} == {1: "error: no luck with seed 1"}
    assert len(said) == 3 and sum("FAILED (error: no luck" in line for line in said) == 1
    with pytest.raises(RunError, match=r"1 of 3 runs failed \(some/entry with seed 1: error: no luck"):
        refuse_failures(failed, len(tasks))
    results = [json.loads((Path(task.directory) / "results.json").read_text()) for task in (tasks[0], tasks[2])]
    assert all("--seed" in one["words"] and "--resume" not in one["words"] for one in results)
    # again: the two that have finished are not started, the third is resumed
    (Path(tasks[2].directory) / "results.json").unlink()
    before = tasks[0].log.stat().st_mtime_ns
    said.clear()
    assert len(run_all(tasks, processes=2, through=through, say=said.append)) == 1
    assert said[0] == "1 of 3 runs have finished before"
    assert tasks[0].log.stat().st_mtime_ns == before
    assert "--resume" in json.loads((Path(tasks[2].directory) / "results.json").read_text())["words"]
    refuse_failures({}, 3)


def test_the_table_holds_median_and_worst(tmp_path: Path) -> None:
    run_all(stand_ins(tmp_path, [10, 2, 3]), processes=1, through="processes", say=lambda line: None)
    heads, _, row = table(collect(tmp_path))
    assert heads.startswith("| entry | seeds | β | file rate | error after % |")
    numbers = "13 (12) | 4.00 (11.00) | 1.00 (1.00) | 5.00 (5.00) | 1,997 (1,998)"
    assert row == f"| some/entry | 2, 3, 10 | 1 | {numbers} | 1 |"
    assert list(table({})) == []


def test_ray_that_is_not_there_and_other_ways_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(ENTRY, 0, str(tmp_path / "run"), 1)
    with pytest.raises(RunError, match="'slurm'"):
        run_all([task], processes=1, through="slurm", say=lambda line: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'pyro-compress\[ray\]'"):
        run_all([replace(task)], processes=1, through="ray", say=lambda line: None)


def test_a_sweep_runs_and_prints_its_table(cli: Cli, tmp_path: Path) -> None:
    def sweep() -> Called:
        return cli(
            "sweep", ENTRY, "--seeds", "3", "--out", tmp_path, "--threads", "1", "--through", "processes",
            "--processes", "1", "--data-dir", tmp_path, "--device", "cpu", "--epochs", "1", "--pretrain-epochs", "0",
            "--kl-weight", "0.3", "--set", "decision.fine_tune_epochs=0", "--set", "decision.snr=0.5",
        )  # fmt: skip

    with started_here():
        found = sweep()
    assert found.code == 0, found.err
    assert f"| {ENTRY} | 3 | 0.3 |" in found.out and "1 of 1 after" in found.err
    settings = json.loads((tmp_path / "digits-cnn-group-horseshoe-seed3" / "settings.json").read_text())
    assert settings["method_options"]["epochs"] == 1 and settings["pretrain_epochs"] == 0
    assert (settings["device"], settings["threads"], settings["decision_options"]["snr"]) == ("cpu", 1, 0.5)
    again = sweep()
    assert again.code == 0 and again.out == found.out and "1 of 1 runs have finished before" in again.err
    assert cli("sweep", "--out", tmp_path).out == found.out
    other = cli("sweep", ENTRY, "--seeds", "3", "--out", tmp_path, "--threads", "1", "--epochs", "7")
    assert other.code == 1 and "seed3 was started with " in other.err and "and this sweep has" in other.err
    nothing = cli("sweep", "--epochs", "3", "--out", tmp_path / "nothing")
    assert nothing.code == 1 and "nothing has finished: name zoo entries" in nothing.err


def test_a_sweep_that_fails_ends_with_status_1(cli: Cli, tmp_path: Path) -> None:
    with started_here():
        found = cli("sweep", ENTRY, "--out", tmp_path, "--threads", "1", "--jobs", "1", "--set", "prior.tua=1")
    assert found.code == 1
    assert "1 of 1 runs failed" in found.err and "tua" in found.err


def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
