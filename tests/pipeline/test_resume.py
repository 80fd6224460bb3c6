"""Ctrl-C leaves a run that goes on as if nothing had happened."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_compress.artifact.writing.artifact import load
from pyro_compress.pipeline import progress, steps
from pyro_compress.posterior.posterior import Posterior
from tests.pipeline.conftest import SETTINGS, Cli


def interrupt(monkeypatch: pytest.MonkeyPatch, phase: str, epoch: int) -> None:
    """Press Ctrl-C when this epoch of this phase has ended."""

    @contextmanager
    def bars(console: Any, **options: Any) -> Iterator[progress.Bars]:
        def bar(name: str, epochs: int) -> Any:
            def move(record: Any, state: Any) -> None:
                if (name, record.epoch) == (phase, epoch):
                    raise KeyboardInterrupt

            return move

        yield progress.Bars(bar)

    monkeypatch.setattr(progress, "epoch_bars", bars)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("phase", "kept", "command"), [("epoch", "checkpoint.pt", "run"), ("pretraining epoch", "settings.json", "fit")]
)
def test_a_resumed_run_is_the_same_run(
    cli: Cli, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, kept: str, command: str
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt(patched, phase, 0)
        stopped = cli("run", *SETTINGS, "--out", run)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == (
        f"stopped; finished epochs are kept: go on with  pyro-compress run --resume {run}"
    )
    assert (run / kept).exists() and not (run / "posterior.safetensors").exists()
    assert cli(command, "--resume", run).code == 0
    posterior, expected = (Posterior.load(folder / "posterior.safetensors") for folder in (run, digits_run))
    for name, site in expected.parameters.items():
        np.testing.assert_array_equal(posterior.parameters[name].mean, site.mean)
        np.testing.assert_array_equal(posterior.parameters[name].variance, site.variance)
    if command == "run":
        assert (run / "network.pyrc").read_bytes() == (digits_run / "network.pyrc").read_bytes()
    assert not (run / "checkpoint.pt").exists()


def test_fit_says_how_to_go_on_with_fit(cli: Cli, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "4")
    with monkeypatch.context() as patched:
        interrupt(patched, "epoch", 2)
        stopped = cli("fit", *arguments, "--threads", "1", "--out", "stopped")
    assert stopped.code == 130
    assert "go on with  pyro-compress fit --resume stopped" in stopped.err
    taken = cli("fit", *arguments, "--out", "stopped")
    assert taken.code == 1
    assert "stopped holds an unfinished run (checkpoint.pt): go on with `pyro-compress run --resume" in taken.err
    resumed = cli("fit", "--resume", "stopped")
    assert resumed.code == 0, resumed.err
    progress, *flags = resumed.err.splitlines()
    assert progress.startswith("epoch 4/4")
    found = Posterior.load(user / "stopped" / "posterior.safetensors").flags
    assert flags == [f"FLAG {flag.name}: {flag.sentence}" for flag in found] and found[0].name == "not_converged"
    assert cli("fit", *arguments, "--threads", "1", "--out", "whole").code == 0
    posteriors = [Posterior.load(user / name / "posterior.safetensors") for name in ("stopped", "whole")]
    for name, site in posteriors[0].parameters.items():
        assert (site.mean == posteriors[1].parameters[name].mean).all()
        assert (site.variance == posteriors[1].parameters[name].variance).all()
    again = cli("fit", "--resume", "stopped")
    assert again.code == 0 and again.err == ""  # there is nothing left to fit


def test_interrupted_before_anything_was_written(cli: Cli, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data(settings: Any, data_dir: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "load_data", load_data)
    stopped = cli("run", "--network", "digits-mlp", "--prior", "normal", "--out", "run")
    assert (stopped.code, stopped.err.strip()) == (130, "stopped; give the command again to go on")
    assert not (user / "run").exists()


def test_a_resumed_run_keeps_its_settings(cli: Cli, digits_run: Path) -> None:
    found = cli("run", "--resume", digits_run, "--seed", "0", "--epochs", "4", "--set", "decision.c=1")
    assert found.code == 1
    assert f"--resume keeps the settings of {digits_run}: leave out --set, --epochs, --seed" in found.err


@pytest.mark.usefixtures("no_figures")
def test_a_resumed_run_leaves_the_file_that_was_asked_for(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    wanted = round(0.9 * (run / "network.pyrc").stat().st_size)
    for asked in (["--target-bytes", wanted], ["--keep-deviations"]):
        assert cli("compress", run, *asked).code == 0
        kept = (run / "network.pyrc").read_bytes()
        found = cli("run", "--resume", run)
        assert found.code == 0, found.err
        assert (run / "network.pyrc").read_bytes() == kept
        decision = json.loads((run / "results.json").read_text())["decision"]
        assert decision.get("target_bytes") == (wanted if "--target-bytes" in asked else None)
    assert load(run / "network.pyrc").network.deviations


def test_a_finished_run_is_reported_and_nothing_of_it_is_done_again(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    shutil.rmtree(run / "figures")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    found = cli("run", "--resume", run, "--json")
    assert found.code == 0, found.err
    assert found.out == (run / "results.json").read_text()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()} == before


@pytest.mark.usefixtures("no_figures")
def test_a_run_is_decided_again_without_fitting_again(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    posterior, own = (run / "posterior.safetensors").read_bytes(), (run / "network.pyrc").stat().st_size
    for wrong, sentence in (
        ("method.epochs=3", "--set method.…: the run has been fitted, and decides again by decision.NAME alone"),
        ("decision.stagess=3", "unknown option of the decision: 'stagess'"),
        ("decision.snr", "--set takes section.name=value"),
    ):
        refused = cli("analyse", run, "--set", wrong)
        assert refused.code == 1 and sentence in refused.err
    assert (run / "network.pyrc").exists() and (run / "results.json").exists()  # as they were
    found = cli("analyse", run, "--set", "decision.fine_tune_epochs=0", "--set", "decision.refine=False")
    assert found.code == 0, found.err
    assert "on the grid" not in found.err and "refined" not in found.err
    recorded = json.loads((run / "settings.json").read_text())
    assert recorded["decision_options"] == {"fine_tune_epochs": 0, "rate_weights": [0.5, 1.0], "refine": False}
    before = json.loads((digits_run / "settings.json").read_text())
    assert {**recorded, "decision_options": 0} == {**before, "decision_options": 0}
    assert not (run / "network.pyrc").exists() and not (run / "results.json").exists()
    # what goes on from here, or decides again, takes what is recorded
    decided = (run / "decision.safetensors").read_bytes()
    assert cli("run", "--resume", run).code == 0
    assert (run / "decision.safetensors").read_bytes() == decided
    assert (run / "network.pyrc").stat().st_size > own
    assert "price_nats_per_bit" not in json.loads((run / "results.json").read_text())["decision"]
    assert cli("analyse", run).code == 0
    assert (run / "decision.safetensors").read_bytes() == decided
    assert (run / "posterior.safetensors").read_bytes() == posterior
