"""Whole runs on the embedded digits: what they leave behind, and that the same settings give the same bytes."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_compress.artifact.writing.artifact import load
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.splits import batches
from pyro_compress.pipeline import starting, steps
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report.measure import predict
from tests.pipeline.conftest import SETTINGS, Cli

RELIED_ON = {
    "error_before_percent": float,
    "error_after_percent": float,
    "file_bytes": int,
    "file_rate": float,
    "weights_left_percent": float,
    "architecture_left": str,
    "seed": int,
    "wall_seconds": float,
}
FIGURES = ("learning_curve", "pruned_architecture", "weight_matrices", "snr_histogram", "error_against_rate")


def in_new_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyro_compress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return found


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def test_results_hold_what_others_rely_on(digits_run: Path) -> None:
    text = (digits_run / "results.json").read_text()
    found = json.loads(text, parse_constant=refuse_constant)
    assert {key: type(found[key]) for key in RELIED_ON} == RELIED_ON
    assert found["seed"] == 3
    assert found["kl_weight"] == 0.1
    assert set(found["seconds_per_step"]) == {"pretrain", "fit", "analyse", "compress"}
    # one thread cannot compute for longer than it takes, but for the clocks' resolution
    assert 0 < found["processor_seconds_per_step"]["fit"] < found["threads"] * found["seconds_per_step"]["fit"] + 0.5
    assert set(found["bits_per_layer"]) == {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"}
    assert {"pruning", "fast_prediction", "maximum_compression"} <= set(found["rates"])


def test_results_are_those_of_the_file(digits_run: Path) -> None:
    path = digits_run / "network.pyrc"
    assert [p.name for p in digits_run.glob("*.pyrc")] == ["network.pyrc"]
    found, artifact = results(digits_run), load(path)
    assert found["file_bytes"] == path.stat().st_size == len(artifact)
    assert found["file_rate"] == found["original_bytes"] / found["file_bytes"]
    assert found["original_bytes"] == 4 * 13_706
    settings = RunSettings.load(digits_run / "settings.json")
    x, y = steps.load_data(settings, None).part("test")
    errors = (artifact.to_torch()(x).argmax(1) != y).double()
    assert found["error_after_percent"] == pytest.approx(100 * float(errors.mean()))
    weights = [t.dense() for name, t in artifact.network.tensors.items() if name.endswith("weight")]
    left = 100 * sum(int(np.count_nonzero(w)) for w in weights) / 13_584
    assert found["weights_left_percent"] == pytest.approx(left)


def test_the_two_part_code_sends_the_training_labels(digits_run: Path) -> None:
    found, artifact = results(digits_run), load(digits_run / "network.pyrc")
    x, y = steps.load_data(RunSettings.load(digits_run / "settings.json"), None).part("train")
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(artifact.to_torch()(x), y, reduction="sum")
    assert found["two_part_code_bits"] == pytest.approx(8 * len(artifact) + float(nats) / math.log(2), rel=1e-5)


def test_run_directory_is_complete(digits_run: Path) -> None:
    assert sorted(path.name for path in digits_run.iterdir()) == [
        "decision.safetensors",
        "figures",
        "initial.safetensors",
        "network.pyrc",
        "posterior.safetensors",
        "results.json",
        "settings.json",
        "timings.json",
    ]
    for name in FIGURES:
        assert (digits_run / "figures" / f"{name}.png").stat().st_size > 1000
    settings = RunSettings.load(digits_run / "settings.json")
    assert settings.entry == "digits-cnn/group-horseshoe"
    assert settings.method_options["epochs"] == 3
    assert settings.method_options["batch_size"] > 0  # the entry's own options stay beside the given ones
    assert settings.build_decision().rate_weights == (0.5, 1.0)


def test_a_new_process_gives_the_same_file(digits_run: Path, tmp_path: Path) -> None:
    done = in_new_process("run", *SETTINGS, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "network.pyrc").read_bytes() == (digits_run / "network.pyrc").read_bytes()
    assert "error of the decoded file" in done.stdout and f"everything is in {tmp_path}" in done.stdout
    progress = done.stderr.splitlines()
    assert progress[0].startswith("pretraining epoch 1/1  ELBO")
    assert [line.split("  ")[0] for line in progress[1:4]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for part in ("= data", "- complexity", "validation error", "weights left"):
        assert all(part in line for line in progress[:4])
    assert any(line.startswith("posterior mean, nothing pruned") for line in progress)
    same = {key: value for key, value in results(digits_run).items() if "seconds" not in key}
    assert {key: value for key, value in results(tmp_path / "run").items() if "seconds" not in key} == same


@pytest.mark.nightly
def test_posterior_read_in_a_new_process_gives_the_same_decision_and_file(digits_run: Path, tmp_path: Path) -> None:
    for name in ("settings.json", "posterior.safetensors"):
        shutil.copy(digits_run / name, tmp_path / name)
    done = in_new_process("run", "--resume", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stderr  # nothing was fitted
    for name in ("decision.safetensors", "network.pyrc"):
        assert (tmp_path / name).read_bytes() == (digits_run / name).read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_steps_one_by_one_give_the_same_file(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "steps"
    fitted = cli("fit", *SETTINGS, "--out", run)
    assert (fitted.code, fitted.out) == (0, f"posterior in {run}; next: pyro-compress analyse {run}\n")
    analysed = cli("analyse", run, "--data-dir", tmp_path)
    assert (analysed.code, analysed.out) == (0, f"decision in {run}; next: pyro-compress compress {run}\n")
    size = (digits_run / "network.pyrc").stat().st_size
    compressed = cli("compress", run, "--data-dir", tmp_path)
    assert compressed.code == 0
    assert compressed.out == f"{run}/network.pyrc: {size:,} bytes; next: pyro-compress evaluate {run}\n"
    evaluated = cli("evaluate", run, "--data-dir", tmp_path, "--json")
    assert evaluated.code == 0
    assert (run / "network.pyrc").read_bytes() == (digits_run / "network.pyrc").read_bytes()
    assert json.loads(evaluated.out) == results(run)
    same = {key: value for key, value in results(digits_run).items() if "seconds" not in key}
    assert {key: value for key, value in results(run).items() if "seconds" not in key} == same
    # a new decision takes what was made from the old one with it
    assert cli("analyse", run).code == 0
    assert not (run / "network.pyrc").exists() and not (run / "results.json").exists()


@pytest.mark.usefixtures("no_figures")
def test_the_test_set_is_not_looked_at(
    cli: Cli, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = steps.load_data

    def with_garbage(settings: RunSettings, data_dir: Path | None) -> DataSet:
        data = honest(settings, data_dir)
        return replace(data, test_x=1e3 * torch.randn_like(data.test_x), test_y=torch.zeros_like(data.test_y))

    monkeypatch.setattr(steps, "load_data", with_garbage)
    found = cli("run", *SETTINGS, "--out", tmp_path / "run")
    assert found.code == 0, found.err
    assert (tmp_path / "run" / "network.pyrc").read_bytes() == (digits_run / "network.pyrc").read_bytes()
    assert results(tmp_path / "run")["error_after_percent"] != results(digits_run)["error_after_percent"]


def test_evaluate_a_file_alone(cli: Cli, digits_run: Path) -> None:
    path = digits_run / "network.pyrc"
    found = cli("evaluate", path, "--data", "digits", "--data-dir", digits_run, "--json")
    assert found.code == 0, found.err
    expected = results(digits_run)
    shared = {key: expected[key] for key in json.loads(found.out)}
    assert json.loads(found.out) == shared and {"error_standard_error_percent", "file_bytes"} < set(shared)
    text = cli("evaluate", path, "--data", "digits", "--likelihood", "categorical").out
    assert f"file_bytes: {expected['file_bytes']}\n" in text
    assert f"error_after_percent: {expected['error_after_percent']:.5g}\n" in text


def test_inspect_adds_up(cli: Cli, digits_run: Path) -> None:
    path = digits_run / "network.pyrc"
    found = json.loads(cli("inspect", path, "--json").out)
    assert found["file_bytes"] == path.stat().st_size
    assert sum(section["file_bytes"] for section in found["sections"]) == pytest.approx(found["file_bytes"], abs=0.1)
    assert found["architecture_left"] == results(digits_run)["architecture_left"]
    assert found["input_shape"] == [1, 8, 8]
    text = cli("inspect", digits_run).out
    assert text.startswith(f"{path}: {found['file_bytes']:,} bytes, architecture left {found['architecture_left']}\n")
    assert all(f"  {layer}\n" in text for layer in found["layers"])  # one line each, however long
    for name in ("conv1.weight", "fc2.bias", "bits per", "entropy"):
        assert name in text


def test_before_is_the_posterior_mean(digits_run: Path) -> None:
    """error_before_percent belongs to the whole network at the posterior mean, on the test part."""
    settings = RunSettings.load(digits_run / "settings.json")
    data = steps.load_data(settings, None)
    posterior = Posterior.load(digits_run / "posterior.safetensors")
    network = starting.build_network(settings, data)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(posterior.parameters[name].mean))
    errors = predict(network, *data.part("test"), settings.build_likelihood()).errors
    assert results(digits_run)["error_before_percent"] == pytest.approx(100 * errors.mean())


@pytest.mark.usefixtures("no_figures", "user")
def test_a_collapsed_fit_does_not_finish_silently(cli: Cli) -> None:
    """A KL weight that leaves nothing of a pretrained network: said while it runs, in results.json and in the table."""
    found = cli(
        "run", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--pretrain-epochs", "40",
        "--epochs", "40", "--kl-weight", "300", "--set", "method.learning_rate=0.1", "--threads", "1",
        "--set", "decision.fine_tune_epochs=0", "--out", "run",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "warning: the fit ended" in found.err and "worse on validation than the pretrained network" in found.err
    assert "the fit ended" in results(Path("run"))["worse_than_start"]
    assert results(Path("run"))["decision"]["reference"] == "pretrained network"
    assert "warning" in found.out


def test_without_a_prior_a_run_is_maximum_likelihood(cli: Cli, tmp_path: Path) -> None:
    fitted = cli(
        "fit", "--network", "digits-softmax", "--prior", "none", "--inference", "map", "--epochs", "2",
        "--threads", "1", "--out", tmp_path / "run",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    posterior = Posterior.load(tmp_path / "run" / "posterior.safetensors")
    settings = RunSettings.load(tmp_path / "run" / "settings.json")
    data = steps.load_data(settings, None)
    network = starting.build_network(settings, data)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    order = [part for epoch in range(2) for part in batches(*data.part("train"), 128, 0, epoch)]
    for step, (xs, ys) in enumerate(order):
        progress = step / len(order)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, 2.0 * (1.0 - progress))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(xs), ys).backward()
        optimizer.step()
    for name, value in network.named_parameters():
        np.testing.assert_allclose(posterior.parameters[name].mean, value.detach().numpy(), atol=2e-6)
        assert posterior.parameters[name].is_point
