"""From minibatch draws to a compressed file, by the command line."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Cli


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("method", "prior"),
    [
        pytest.param("sgld", "normal", marks=pytest.mark.nightly),
        ("psgld", "group-horseshoe"),
    ],
)
def test_minibatch_samplers_compress_the_digits(cli: Cli, tmp_path: Path, method: str, prior: str) -> None:
    run = tmp_path / "run"
    found = cli(
        *("run", "--network", "digits-cnn", "--prior", prior, "--inference", method, "--data", "digits"),
        *("--epochs", 40, "--draws", 40, "--threads", 1, "--seed", 1, "--set", "decision.fine_tune_epochs=0"),
        *("--out", run),
    )
    assert found.code == 0, found.err
    results = json.loads((run / "results.json").read_text())
    assert results["error_before_percent"] < 8 and results["error_after_percent"] < 10
    assert results["file_rate"] > 5
