"""`pyro-compress uncertainty`: what it measures, writes and refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compress.data.examples import as_data
from pyro_compress.pipeline import uncertainty
from tests.pipeline.conftest import Cli


@pytest.fixture
def finished(digits_run: Path, tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_a_run_is_measured_three_ways(finished: Path, cli: Cli) -> None:
    called = cli("uncertainty", finished, "--out-of-distribution", "noise", "--draws", 5)
    assert called.code == 0, called.err
    found = json.loads((finished / "uncertainty.json").read_text())
    rows = found["predictors"]
    assert list(rows) == ["decoded file", "posterior mean", "posterior predictive"]
    assert found["draws"] == 5 and found["examples"] == 360
    results = json.loads((finished / "results.json").read_text())
    for name, key in (("decoded file", "error_after_percent"), ("posterior mean", "error_before_percent")):
        assert rows[name]["error_percent"] == pytest.approx(results[key])
        assert rows[name]["mutual_information_nats"] == 0.0
    for key in ("calibration_error", "brier_score", "nll_nats_per_example"):
        assert rows["decoded file"][key] == pytest.approx(results[key], rel=1e-5)
    averaged = rows["posterior predictive"]
    assert 0 < averaged["mutual_information_nats"] < averaged["predictive_entropy_nats"] < np.log(10)
    assert averaged["rejection_error_percent"] < averaged["error_percent"]
    auroc = found["out_of_distribution"]["auroc"]
    assert set(auroc["posterior predictive"]) == {"predictive entropy", "mutual information"}
    assert set(auroc["decoded file"]) == {"predictive entropy"}
    assert auroc["posterior predictive"]["predictive entropy"] > 0.7
    drawn = sorted(path.name for path in (finished / "figures" / "uncertainty").iterdir())
    assert drawn == ["out_of_distribution.png", "rejection.png", "reliability.png"]
    assert all(name in called.out for name in (*rows, "AUROC of telling digits from 360 inputs of noise"))
    assert max(map(len, called.out.splitlines()[:8])) <= 80


def test_without_a_file_the_posterior_is_measured_alone(
    finished: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "save_all", lambda folder, drawn: None)
    (finished / "network.pyrc").unlink()
    called = cli("uncertainty", finished, "--draws", 2, "--json")
    found = json.loads(called.out)
    assert list(found["predictors"]) == ["posterior mean", "posterior predictive"]
    assert "out_of_distribution" not in found


def test_regression_has_spreads_instead_of_calibration(user: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    called = cli(
        "fit", "--network", "mine:net", "--prior", "normal", "--data", "mine:regression", "--likelihood", "gaussian",
        "--set", "likelihood.noise=0.5", "--epochs", 2, "--out", "run",
    )  # fmt: skip
    assert called.code == 0, called.err
    called = cli("uncertainty", "run", "--draws", 20)
    assert called.code == 0, called.err
    row = json.loads(Path("run/uncertainty.json").read_text())["predictors"]["posterior predictive"]
    assert row["aleatoric_sd"] == pytest.approx(0.5) and row["epistemic_sd"] > 0
    assert row["calibration_error"] is None and row["predictive_entropy_nats"] is None
    assert [path.name for path in Path("run/figures/uncertainty").iterdir()] == ["rejection.png"]
    assert "aleatoric" in called.out


def test_other_inputs_must_be_others_of_the_same_shape(finished: Path, cli: Cli) -> None:
    called = cli("uncertainty", finished, "--out-of-distribution", "digits")
    assert called.code == 1 and "that is what the run learned from" in called.err
    called = cli("uncertainty", finished, "--out-of-distribution", "nosuch")
    assert called.code == 1 and "unknown data set 'nosuch'" in called.err
    called = cli("uncertainty", finished / "nothing")
    assert called.code == 1 and "is not a run directory" in called.err


def test_inputs_of_another_shape_are_refused(user: Path, cli: Cli, finished: Path) -> None:
    called = cli("uncertainty", finished, "--out-of-distribution", "mine:data")
    assert called.code == 1 and "its inputs have the shape (6,), the run's have (1, 8, 8)" in called.err


def test_noise_has_the_range_and_number_of_the_data() -> None:
    x, y = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 4 - 1, torch.arange(40) % 2
    data = as_data((x, y), test=(x[:7], 1 - y[:7]))
    noise = uncertainty.other_inputs("noise", data, None, seed=1)
    assert noise.shape == (7, 3)
    assert float(noise.min()) >= float(x.min()) and float(noise.max()) <= float(x.max())
    assert torch.equal(noise, uncertainty.other_inputs("noise", data, None, seed=1))
    assert not torch.equal(noise, uncertainty.other_inputs("noise", data, None, seed=2))


def test_samples_of_the_file_are_one_more_row(finished: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "save_all", lambda folder, drawn: None)
    before = (finished / "network.pyrc").stat().st_size
    assert cli("compress", finished, "--keep-deviations").code == 0
    assert before < (finished / "network.pyrc").stat().st_size < 2 * before
    called = cli("uncertainty", finished, "--out-of-distribution", "noise", "--draws", 5, "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    row = found["predictors"]["samples of the file"]
    assert 0 < row["mutual_information_nats"] < row["predictive_entropy_nats"] < np.log(10)
    assert found["predictors"]["decoded file"]["mutual_information_nats"] == 0.0
    assert set(found["out_of_distribution"]["auroc"]["samples of the file"]) == {
        "predictive entropy", "mutual information",
    }  # fmt: skip
