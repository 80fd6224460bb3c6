"""Survival on the road: from `run` to a file whose curves are scored, and no error in percent."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import pyro_compress as pc
from pyro_compress.artifact.runtimes.numpy_runtime import load as numpy_load
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.named import load
from pyro_compress.models.zoo import entry
from pyro_compress.report.survival import survival_scores
from tests.pipeline.conftest import Called, cli, draw_nothing

LIKELIHOOD = pc.models.likelihoods.PiecewiseExponential(**entry("survival/rossi").likelihood_options)


@pytest.fixture(scope="module")
def survival_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Called]:
    out = tmp_path_factory.mktemp("survival") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_compress.pipeline.evaluation.save_all", draw_nothing)
        called = cli(
            *("run", "survival/rossi", "--out", out, "--epochs", 40, "--threads", 1),
            *("--set", "decision.fine_tune_epochs=2"),
        )
    assert called.code == 0, called.err
    return out, called


def test_results_are_of_the_file_in_nats_and_concordance(survival_run: tuple[Path, Called]) -> None:
    found = json.loads((survival_run[0] / "results.json").read_text())
    x, y = load("rossi").part("test")
    network = load_artifact(survival_run[0] / "network.pyrc").to_torch()
    with torch.no_grad():
        output = network(x)
    assert found["error_unit"] == "nats" and not {key for key in found if key.startswith("error") and "percent" in key}
    assert found["error_after_nats"] == pytest.approx(-float(LIKELIHOOD.log_prob(output, y).mean()), rel=1e-5)
    assert found["error_after_nats"] == pytest.approx(found["nll_nats_per_example"])
    scores = survival_scores(LIKELIHOOD.risk(output), partial(LIKELIHOOD.survival, output), y)
    assert found["survival"].keys() == scores.keys()
    for key, value in scores.items():
        assert found["survival"][key] == pytest.approx(value, rel=1e-6)
    assert 0.5 < found["survival"]["concordance"] < 0.8 and found["file_bytes"] < 1000


def test_what_is_printed_says_nats_and_concordance(survival_run: tuple[Path, Called]) -> None:
    _, called = survival_run
    shown = [line for line in (called.out + called.err).splitlines() if "error" in line]
    assert shown and all("nats" in line for line in shown if "validation" in line) and "concordance" in called.out
    assert not any("points" in line for line in shown)


def test_the_file_holds_ratios_and_baseline_also_without_torch(survival_run: tuple[Path, Called]) -> None:
    path = survival_run[0] / "network.pyrc"
    x, _ = load("rossi").part("test")
    output = torch.from_numpy(numpy_load(path)(x.numpy()))
    ratio = output - output[:1]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-5, rtol=0)
    curve = LIKELIHOOD.survival(output, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(curve[:, 0], torch.ones(len(x))) and bool((curve.diff(dim=1) < 0).all())
    # about a quarter of the men are arrested within the year
    assert 0.6 < float(curve[:, -1].mean()) < 0.85


def test_a_file_is_evaluated_from_python_with_its_own_breaks(survival_run: tuple[Path, Called]) -> None:
    path, expected = survival_run[0] / "network.pyrc", json.loads((survival_run[0] / "results.json").read_text())
    found = pc.evaluate(path, load("rossi"), likelihood=LIKELIHOOD)
    assert found["error_after_nats"] == pytest.approx(expected["error_after_nats"])
    assert found["survival"] == expected["survival"]
