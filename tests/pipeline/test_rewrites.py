"""A run whose network is rewritten after pretraining: recorded, resumed, and made again by every step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_compress as pc
from pyro_compress.errors import NetworkError, RunError
from pyro_compress.models.networks import digits_mlp, load_weights
from pyro_compress.models.rewrites.low_rank import LowRank
from pyro_compress.network.layers import Weighted, weight_shape
from pyro_compress.pipeline import evaluation, starting, steps
from pyro_compress.pipeline.predictors import predictors_of
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.run_options import parse_rewrite
from pyro_compress.pipeline.settings import RunSettings, settings_from_entry
from tests.pipeline.conftest import Cli, cli
from tests.pipeline.test_resume import interrupt

RANK = "low-rank:rank={'fc1': 12, 'fc2': 10}"
ARGUMENTS = (
    "--network", "digits-mlp", "--prior", "log-uniform", "--data", "digits", "--pretrain-epochs", "15", "--epochs", "3",
    "--kl-weight", "0.05", "--threads", "1", "--set", "method.learning_rate=3e-3", "--set", "decision.refine=False",
    "--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=[0.5]",
)  # fmt: skip


@pytest.fixture(scope="module")
def rewritten_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a network of low rank; not to be written to."""
    directory = tmp_path_factory.mktemp("rewritten") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "save_all", lambda folder, drawn: None)
        found = cli("run", *ARGUMENTS, "--rewrite", RANK, "--retrain-epochs", "3", "--out", directory)
    assert found.code == 0, found.err
    return directory


def test_a_rewritten_run_is_held_against_the_network_that_was_given(rewritten_run: Path) -> None:
    results: dict[str, Any] = json.loads((rewritten_run / "results.json").read_text())
    original = sum(parameter.numel() for parameter in digits_mlp().parameters())
    weights = sum(parameter.numel() for parameter in digits_mlp().parameters() if parameter.ndim > 1)
    assert results["original_bytes"] == 4 * original
    assert results["rewrites"] == [{"name": "low-rank", "rank": {"fc1": 12, "fc2": 10}}]
    assert results["file_bytes"] == (rewritten_run / "network.pyrc").stat().st_size
    assert list(results["bits_per_layer"]) == [
        f"{name}.weight" for name in ("fc1.first", "fc1.second", "fc2.first", "fc2.second", "fc3")
    ]
    # all that the factors have are a fifth of what the layers had
    assert results["weights_left_percent"] <= 100 * (12 * 164 + 10 * 150 + 500) / weights
    assert results["rates"]["pruning"] >= weights / (12 * 164 + 10 * 150 + 500)
    assert results["error_after_percent"] < 30


def test_the_fit_begins_with_the_factors_of_the_pretrained_network(rewritten_run: Path) -> None:
    run, settings = RunDirectory(rewritten_run), RunSettings.load(rewritten_run / "settings.json")
    data = steps.load_data(settings, None)
    pretrained = digits_mlp()
    load_weights(pretrained, run.initial)
    untrained = replace(settings, retrain_epochs=0)
    found = starting.rewritten(untrained, pretrained, data).state_dict()
    wanted = LowRank(rank={"fc1": 12, "fc2": 10})(pretrained).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    # three epochs on, the network that every later step makes has the weights that are on disk
    retrained = starting.fitted_network(run, settings, data).state_dict()
    assert not torch.equal(retrained["fc1.first.weight"], wanted["fc1.first.weight"])
    held = LowRank(rank={"fc1": 12, "fc2": 10})(pretrained)
    load_weights(held, run.rewritten)
    assert all(torch.equal(tensor, held.state_dict()[name]) for name, tensor in retrained.items())


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_was_stopped_twice_is_the_same_run(
    cli: Cli, rewritten_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt(patched, "retraining epoch", 1)
        assert cli("fit", *ARGUMENTS, "--rewrite", RANK, "--retrain-epochs", "3", "--out", run).code == 130
    assert (run / "initial.safetensors").exists() and not (run / "rewritten.safetensors").exists()
    with monkeypatch.context() as patched:
        interrupt(patched, "epoch", 1)
        assert cli("fit", "--resume", run).code == 130
    assert (run / "checkpoint.pt").exists() and not (run / "posterior.safetensors").exists()
    assert cli("run", "--resume", run).code == 0
    assert (run / "network.pyrc").read_bytes() == (rewritten_run / "network.pyrc").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_every_later_step_makes_the_network_again(cli: Cli, rewritten_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(rewritten_run, tmp_path / "run"))
    before = {name: (run / name).read_bytes() for name in ("decision.safetensors", "network.pyrc")}
    for command in ("analyse", "compress", "evaluate"):
        found = cli(command, run)
        assert found.code == 0, found.err
    settings = RunSettings.load(run / "settings.json")
    data = steps.load_data(settings, None)
    # the posterior is placed in the network of its own shape
    predictors = predictors_of(RunDirectory(run), settings, data, draws=2)
    mean = predictors.of_network(predictors.networks["posterior mean"], *data.part("test"))
    results = json.loads((run / "results.json").read_text())
    assert 100 * mean.errors.mean() == pytest.approx(results["error_before_percent"])
    assert cli("diagnose", run, "--sites", "fc1.first.weight").code == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    (run / "rewritten.safetensors").unlink()
    assert "there is no file of weights at" in cli("analyse", run).err


@pytest.mark.usefixtures("no_figures", "user")
def test_rewrites_go_one_after_the_other(cli: Cli) -> None:
    found = cli(
        "run", "--network", "digits-mlp", "--prior", "normal", "--data", "digits", "--inference", "map", "--epochs", 1,
        "--rewrite", "low-rank:rank={'fc1': 20}", "--rewrite", "low-rank:rank={'fc1.second': 10}", "--threads", 1,
        "--set", "decision.fine_tune_epochs=0", "--set", "decision.refine=False", "--out", "run",
    )  # fmt: skip
    assert found.code == 0, found.err
    bits = json.loads(Path("run/results.json").read_text())["bits_per_layer"]
    assert list(bits)[:3] == ["fc1.first.weight", "fc1.second.first.weight", "fc1.second.second.weight"]


def test_words_of_the_command_line() -> None:
    assert parse_rewrite("low-rank") == {"name": "low-rank"}
    found = parse_rewrite("low-rank:layers=['fc1', 'conv*'], scheme=spatial, energy=0.5")
    assert found == {"name": "low-rank", "layers": ["fc1", "conv*"], "scheme": "spatial", "energy": 0.5}
    for wrong in (
        ":rank=2",
        "low-rank:",
        "low-rank:3",
        "low-rank:rank",
        "low-rank:**x",
        "low-rank:rank=2)",
        "a:name=b",
    ):
        with pytest.raises(RunError, match=r"--rewrite takes name:key=value, for example low-rank:energy=0.9; found"):
            parse_rewrite(wrong)


def test_what_cannot_be_rewritten_is_refused_before_anything_is_trained(cli: Cli, user: Path) -> None:
    too_high = cli("run", *ARGUMENTS, "--rewrite", "low-rank:rank=20", "--out", "run")
    assert "rank 20 of layer fc3 is above 10, the full rank of its weight" in too_high.err
    unknown = cli("run", *ARGUMENTS, "--rewrite", "low-rang:rank=20", "--out", "run")
    assert "unknown rewrite 'low-rang': known are low-rank, narrow, tie. Did you mean 'low-rank'?" in unknown.err
    alone = cli("run", *ARGUMENTS, "--retrain-epochs", 2, "--out", "run")
    assert "retrain_epochs train what rewrites have made, and there are none" in alone.err
    assert not (user / "run").exists()
    with pytest.raises(RunError, match="a rewrite has a 'name' among its options"):
        RunSettings("digits-mlp", "normal", "digits", rewrites=({"rank": 2},))
    with pytest.raises(NetworkError, match="unknown option of rewrite 'low-rank': 'ranks'"):
        RunSettings("digits-mlp", "normal", "digits", rewrites=({"name": "low-rank", "ranks": 2},))


def test_an_entrys_rewrites_are_its_own_unless_others_are_given() -> None:
    own = settings_from_entry("lenet-300-100/low-rank")
    assert [rewrite["name"] for rewrite in own.rewrites] == ["low-rank"] and own.retrain_epochs
    other = settings_from_entry("lenet-300-100/low-rank", rewrites=({"name": "low-rank", "rank": {"fc1": 3}},))
    assert other.build_rewrites() == (LowRank(rank={"fc1": 3}),)


@pytest.mark.usefixtures("no_figures")
def test_single_weights_after_groups(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    """What a run under a group prior stores becomes a narrower network, on which another prior is put."""
    first, second = json.loads((digits_run / "results.json").read_text()), tmp_path / "second"
    settings = RunSettings.load(digits_run / "settings.json")
    made = cli(
        "run", "--network", settings.network, "--weights", digits_run, "--rewrite", "narrow", "--data", "digits",
        "--prior", "log-uniform", "--epochs", "6", "--kl-weight", "0.3", "--threads", "1", "--out", second,
        "--set", "decision.fine_tune_epochs=2", "--set", "decision.rate_weights=[0.5]",
    )  # fmt: skip
    assert made.code == 0, made.err
    found = json.loads((second / "results.json").read_text())
    # the network that was given counts, not what is left of it
    assert found["original_bytes"] == first["original_bytes"]
    print(first, found)
    assert found["file_bytes"] < 1.1 * first["file_bytes"]
    assert found["error_after_percent"] < first["error_after_percent"] + 3
    run, data = RunDirectory(second), steps.load_data(settings, None)
    narrow = starting.fitted_network(run, RunSettings.load(run.settings), data)
    stored = pc.load(digits_run / "network.pyrc").network.architecture
    kept = [layer for layer in stored.layers if isinstance(layer, Weighted)]
    for layer in kept:
        assert len(narrow.get_submodule(layer.name).weight) == weight_shape(layer)[0]  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_figures")
def test_weights_of_a_run_that_do_not_serve(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    called = cli(
        "fit", "--network", "digits-mlp", "--weights", digits_run, "--prior", "normal", "--out", tmp_path / "a"
    )
    assert called.code == 1 and "do not fit the network: the run lacks fc3.weight" in called.err
    (tmp_path / "empty").mkdir()
    called = cli(
        "fit", "--network", "digits-mlp", "--weights", tmp_path / "empty", "--prior", "normal", "--out", tmp_path / "b"
    )
    assert called.code == 1 and "are a folder without decision.safetensors" in called.err
    called = cli(
        "fit", "--network", "digits-mlp", "--weights", tmp_path / "none", "--prior", "normal", "--out", tmp_path / "c"
    )
    assert called.code == 1 and "none" in called.err
