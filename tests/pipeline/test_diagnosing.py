"""`pyro-compress diagnose` on runs whose posteriors are known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_compress.pipeline import diagnosing
from pyro_compress.pipeline.diagnosing import DiagnosisOptions, describe
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.pipeline.conftest import Cli

FIGURES = ["autocorrelation.png", "energy.png", "forest.png", "rank.png", "trace.png"]
SHAPES: dict[str, tuple[int, ...]] = {"0.weight": (8, 6), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}


def chains(shift: float = 0.0, permute: bool = False, count: int = 60) -> Posterior:
    """Two chains around one network; the second `shift` away from the first, or with its hidden units reversed."""
    generator = np.random.default_rng(0)
    centre = generator.normal(size=83)
    flat = centre + 0.05 * generator.normal(size=(2, count, 83))
    flat[1] += shift * generator.normal(size=83)
    draws = Draws(flat.astype(np.float32), SHAPES)
    if permute:
        parts = {name: draws.site(name).copy() for name in SHAPES}
        for name, axis in (("0.weight", 1), ("0.bias", 1), ("2.weight", 2)):
            parts[name][1] = np.flip(parts[name][1], axis)
        draws = Draws(np.concatenate([part.reshape(2, count, -1) for part in parts.values()], axis=2), SHAPES)
    statistics = {
        "lp": -100 + generator.normal(size=(2, count)),
        "energy": generator.normal(size=(2, count)),
        "diverging": np.zeros((2, count)),
        "acceptance_rate": np.full((2, count), 0.8),
    }
    parameters = {
        n: ParameterPosterior(np.zeros(s, np.float32), np.ones(s, np.float32), "Normal") for n, s in SHAPES.items()
    }
    provenance = {"settings": "NUTS(target_acceptance=0.8)"}
    return Posterior(parameters, kind="chains", provenance=provenance, draws=replace(draws, statistics=statistics))


@pytest.fixture
def run(user: Path, cli: Cli) -> Path:
    """A fitted run of a small network under the normal prior."""
    directory = user / "run"
    options = (
        "--network",
        "mine:net",
        "--data",
        "mine:data",
        "--prior",
        "normal",
        "--threads",
        "1",
        "--out",
        directory,
    )
    found = cli("fit", *options, "--epochs", "1")
    assert found.code == 0, found.err
    return directory


def written(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "diagnosis.json").read_text())
    return found


def names(directory: Path) -> list[str]:
    return [flag["name"] for flag in written(directory)["flags"]]


def test_chains_get_a_table_flags_figures_and_json(run: Path, cli: Cli) -> None:
    chains().save(run / "posterior.safetensors")
    found = cli("diagnose", run)
    assert found.code == 0, found.err
    for words in ("2 chains of 60 draws, 20 of 1", "R-hat", "bulk", "MCSE", "worst R-hat: log_joint", "FLAG ess:"):
        assert words in found.out
    table = found.out.partition("worst R-hat")[0].splitlines()
    assert max(len(line) for line in table) <= 80 and any("weight[" in line for line in table)
    assert "acceptance rate by chain: 0.80, 0.80 (target 0.8)" in found.out
    assert sorted(path.name for path in (run / "figures/diagnose").iterdir()) == FIGURES
    rows = {row["name"]: row for row in written(run)["rows"]}
    # 83 parameters, 2 norms, the log joint, 20 validation examples of three classes
    assert len(rows) == 83 + 2 + 1 + 60
    assert sum(name.startswith("predictions[") for name in rows) == 60
    total = sum(rows[f"predictions[0,{name}]"]["mean"] for name in "012")
    assert total == pytest.approx(1.0, abs=1e-5)
    assert written(run)["kind"] == "chains" and set(names(run)) <= {"ess", "r_hat", "r_hat_predictions"}


def test_exchanged_hidden_units_are_seen_on_weights_and_not_on_predictions(run: Path, cli: Cli) -> None:
    chains(permute=True, count=400).save(run / "posterior.safetensors")
    assert cli("diagnose", run).code == 0
    assert "r_hat" in names(run) and "hidden units can be exchanged" in written(run)["flags"][0]["sentence"]
    predictions = [row["r_hat"] for row in written(run)["rows"] if row["name"].startswith("predictions[")]
    weights = [row["r_hat"] for row in written(run)["rows"] if row["name"].startswith("0.weight[")]
    assert max(predictions) < 1.05 and max(weights) > 1.5
    chains(shift=2.0).save(run / "posterior.safetensors")
    assert cli("diagnose", run).code == 0
    assert "r_hat_predictions" in names(run)


def test_sites_json_and_leave_one_out(run: Path, cli: Cli) -> None:
    chains().save(run / "posterior.safetensors")
    found = cli("diagnose", run, "--sites", "2.*", "--sites", "log_joint", "--log-likelihood", "--json")
    assert found.code == 0, found.err
    result = json.loads(found.out)
    assert result == written(run)
    assert {row["name"].partition("[")[0] for row in result["rows"]} == {
        "2.weight",
        "2.bias",
        "layer_norm",
        "log_joint",
    }
    assert result["statistics"]["loo"]["examples"] == 200
    assert "sites not asked for: 0.weight, 0.bias" in result["statistics"]["left_out"]
    refused = cli("diagnose", run, "--sites", "conv*")
    assert refused.code == 1 and "sites 'conv*' matches nothing: there are 0.weight, " in refused.err


def test_log_likelihoods_are_limited_and_the_reader_is_told(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "MOST_LOG_LIKELIHOODS", 50 * 120)
    chains().save(run / "posterior.safetensors")
    found = cli("diagnose", run, "--log-likelihood")
    assert "LOO is over 50 of 200 training examples" in found.out and "over 50 examples" in found.out


def test_a_guide_gets_k_hat_and_no_r_hat(run: Path, cli: Cli) -> None:
    found = cli("diagnose", run)
    assert found.code == 0, found.err
    assert "200 independent draws" in found.out and "Pareto k-hat: " in found.out
    assert "R-hat and effective sample sizes compare dependent ones" in found.out
    result = written(run)
    assert result["kind"] == "guide" and {row["r_hat"] for row in result["rows"]} == {None}
    assert result["statistics"]["pareto_k_draws"] == 200
    assert [path.name for path in (run / "figures/diagnose").iterdir()] == ["forest.png"]


@pytest.mark.parametrize("guide", ["full-rank", "low-rank"])
def test_a_guide_over_all_sites_gets_k_hat_too(user: Path, cli: Cli, guide: str) -> None:
    words = ("--network", "mine:net", "--data", "mine:data", "--prior", "normal", "--set", f"method.guide={guide}")
    assert cli("fit", *words, "--threads", "1", "--epochs", "1", "--out", user / "run").code == 0
    found = cli("diagnose", user / "run")
    assert found.code == 0, found.err
    assert "200 independent draws" in found.out and "Pareto k-hat: " in found.out
    assert {row["name"] for row in written(user / "run")["rows"]} >= {"log_joint", "0.bias[0]"}
    assert written(user / "run")["statistics"]["pareto_k_draws"] == 200
    few = cli("fit", *words, "--draws", 10, "--threads", "1", "--epochs", "1", "--out", user / "few")
    assert few.code == 0, few.err
    assert "needs at least 25 draws of the guide, there are 10" in cli("diagnose", user / "few").out


def test_an_improper_prior_has_no_k_hat(user: Path, cli: Cli) -> None:
    options = ("--network", "mine:net", "--data", "mine:data", "--prior", "log-uniform", "--set", "prior.low=0")
    assert cli("fit", *options, "--threads", "1", "--epochs", "1", "--out", user / "run").code == 0
    found = cli("diagnose", user / "run")
    assert found.code == 0, found.err
    assert "Pareto k-hat cannot be computed" in found.out and "pareto_k" not in written(user / "run")["statistics"]


def test_a_point_estimate_has_nothing_to_diagnose(run: Path, cli: Cli) -> None:
    chains().save(run / "posterior.safetensors")
    assert cli("diagnose", run).code == 0
    shutil.rmtree(run / "posterior.draws")
    zero = {
        name: ParameterPosterior(np.zeros(s, np.float32), np.zeros(s, np.float32), "point")
        for name, s in SHAPES.items()
    }
    Posterior(zero, kind="point").save(run / "posterior.safetensors")
    found = cli("diagnose", run)
    assert found.code == 0 and "there is nothing to diagnose" in found.out
    assert written(run)["kind"] == "point" and list((run / "figures/diagnose").iterdir()) == []


def test_independent_weighted_draws_are_resampled(run: Path, cli: Cli) -> None:
    of_chains = chains()
    assert of_chains.draws is not None
    weighted = replace(of_chains.draws.select(0), log_weight=np.zeros((1, 60)), statistics={})
    replace(of_chains, kind="iid", draws=weighted).save(run / "posterior.safetensors")
    found = cli("diagnose", run)
    assert found.code == 0, found.err
    assert "effective draws by weight: 60.0" in found.out and "FLAG importance_ess:" in found.out


def test_a_directory_without_a_posterior_is_refused(tmp_path: Path, cli: Cli) -> None:
    found = cli("diagnose", tmp_path)
    assert found.code == 1 and "is not a run directory" in found.err


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (-0.23456, 0.0462, "-0.235"),
        (-5123.45, 20.0, "-5,123"),
        (8.66e-11, 1.35e-6, "0"),
        (4.583e-6, 1.35e-6, "4.6e-06"),
        (3.3e10, 3.9e8, "3.3e+10"),
        (0.25, 0.0, "0.25"),
    ],
)
def test_numbers_are_rounded_by_their_spread(value: float, sd: float, text: str) -> None:
    assert diagnosing._rounded(value, sd) == text


def test_large_r_hats_are_cut_short() -> None:
    assert [diagnosing._r_hat(value) for value in (1.0123, 2.345, 3e15)] == ["1.012", "2.35", "> 100"]


def test_few_draws_are_told_and_not_compared() -> None:
    from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
    from pyro_compress.analysis.diagnosis.diagnostics import diagnose

    posterior = chains(count=3)
    printed = describe(diagnose(posterior, to_arviz(posterior)))
    assert any("2 chains of 3 draws are too few for R-hat" in str(part) for part in printed)
    assert DiagnosisOptions().guide_draws == 200
