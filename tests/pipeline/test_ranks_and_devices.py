"""The command line on several ranks, started as users start them, and with --device."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.loop import processes
from pyro_compress.pipeline import steps
from pyro_compress.pipeline.settings import RunSettings
from tests.pipeline.conftest import Cli

MISSING = "cuda" if not torch.cuda.is_available() else "mps"


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node 2 -m pyro_compress ...`."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    paths = {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "pyro_compress", *words], cwd=folder, env={**os.environ, **paths}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_a_run_on_two_ranks_and_its_end_on_one(cli: Cli, user: Path) -> None:
    words = (
        "run", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "12",
        "--pretrain-epochs", "2", "--threads", "2", "--set", "method.batch_size=15", "--kl-weight", "0.1",
        "--set", "method.learning_rate=0.02", "--set", "decision.fine_tune_epochs=2", "--out", "shared",
    )  # fmt: skip
    done = torchrun(user, *words)
    assert done.returncode == 0, done.stderr
    # one of them speaks
    assert done.stderr.count(" 12/12  ELBO") == 1 and done.stdout.count("everything is in shared") == 1
    run = steps.RunDirectory(user / "shared")
    results = json.loads(run.results.read_text())
    assert results["file_bytes"] == run.file.stat().st_size and results["error_after_percent"] < 30
    assert not run.checkpoint.exists() and run.initial.exists()
    # what the ranks wrote, one process reads
    before = run.file.read_bytes()
    assert cli("compress", "shared").code == 0 and run.file.read_bytes() == before


def test_of_several_ranks_the_first_says_why_all_failed(user: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = InferenceError("no luck")
    failure.said_elsewhere = True

    def joined() -> None:
        raise failure

    monkeypatch.setattr(processes, "joined", joined)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        found = cli("fit", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--out", "shared")
        assert found.code == 1 and found.err.count("no luck") == times


# three processes that start
@pytest.mark.nightly
def test_what_two_ranks_refuse_one_of_them_says(user: Path) -> None:
    (user / "shared").mkdir()
    (user / "shared" / "checkpoint.pt").touch()
    words = ("fit", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--out", "shared")
    again = torchrun(user, *words)
    assert again.returncode != 0 and again.stderr.count("shared holds an unfinished run") == 1


def test_commands_that_do_not_share_say_so(cli: Cli, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = cli("zoo")
    assert found.code == 1 and "run and fit can share their work among ranks, zoo does not" in found.err


def test_a_device_is_a_setting_of_the_run(cli: Cli, digits_run: Path, user: Path, no_figures: None) -> None:
    words = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "1")
    assert cli("fit", *words, "--device", "cpu", "--out", "here").code == 0
    assert RunSettings.load(user / "here" / "settings.json").device == "cpu"
    assert cli("analyse", "here", "--device", "cpu").code == 0
    shutil.copytree(digits_run, user / "digits")
    assert cli("evaluate", "digits", "--device", "cpu").code == 0


def test_a_device_that_is_not_there_is_one_sentence(cli: Cli, digits_run: Path, user: Path) -> None:
    words = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--out", "there")
    found = [
        cli("run", *words, "--device", MISSING),
        cli("analyse", digits_run, "--device", MISSING),
        cli("evaluate", digits_run, "--device", MISSING),
    ]
    for one in found:
        assert one.code == 1 and f"has no device '{MISSING}': use --device cpu" in one.err
    assert not (user / "there").exists()
    assert "Did you mean" in cli("run", *words, "--device", "cud").err
