"""Every option does what its help says, and a new one without a test is found."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.main import get_command

import pyro_compress as pc
from pyro_compress import __version__
from pyro_compress.cli.app import app
from pyro_compress.inference.point.map import MAP
from pyro_compress.models import zoo
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.posterior import Posterior
from tests.pipeline.conftest import Cli

HERE = Path(__file__).parent


def options_of_the_program() -> dict[str, set[str]]:
    """Long options by command; '' is the program itself."""
    program = get_command(app)
    commands = {"": program, **program.commands}  # type: ignore[attr-defined]
    return {
        name: {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for name, command in commands.items()
    }


def options_in_tests() -> dict[str, set[str]]:
    """Options that stand in a `cli("command", ...)` of these tests, by command."""
    found: dict[str, set[str]] = {}
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cli":
                words = [part.value for part in node.args if isinstance(part, ast.Constant)]
                if words and isinstance(words[0], str):
                    command = "" if words[0].startswith("--") else words[0]
                    options = {str(word) for word in words if str(word).startswith("--")}
                    found.setdefault(command, set()).update(options)
    return found


def test_every_option_is_in_a_test() -> None:
    tested = options_in_tests()
    untested = {name: options - tested.get(name, set()) for name, options in options_of_the_program().items()}
    assert {name: options for name, options in untested.items() if options} == {}
    assert {"--epochs", "--kl-weight", "--resume"} <= options_of_the_program()["run"]


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"pyro-compress {__version__}\n"
    text = cli("--help").out
    assert all(command in text for command in options_of_the_program() if command)
    assert cli().out.strip() == text.strip()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom pyro_compress.cli.app import app\n"
        "try:\n    app(['run', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'pyro', 'arviz', 'matplotlib', 'numpy', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--kl-weight" in done.stdout


def test_zoo_lists_every_entry(cli: Cli) -> None:
    found = cli("zoo")
    assert found.code == 0
    assert all(name in found.out for name in zoo.entries())


def test_a_network_and_data_of_the_users_own(cli: Cli, user: Path) -> None:
    torch.manual_seed(1)
    save_file(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), user / "start.safetensors")
    found = cli(
        "run", "--network", "mine:net", "--weights", "start.safetensors", "--prior", "log-uniform",
        "--data", "mine:data", "--data-dir", user, "--inference", "svi", "--likelihood", "categorical",
        "--epochs", 2, "--pretrain-epochs", 0, "--kl-weight", 0.5, "--seed", 7, "--threads", 1,
        "--set", "prior.low=1e-6", "--set", "method.learning_rate=1e-3", "--set", "decision.fine_tune_epochs=0",
        "--out", "run", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert found.err == ""
    results = json.loads(found.out)
    assert results == json.loads((user / "run" / "results.json").read_text())
    # an untrained network guesses one class of three; the fit does not change what the given weights were worth
    assert results["error_given_percent"] > results["error_before_percent"] - 1e-9
    settings = RunSettings.load(user / "run" / "settings.json")
    assert settings == RunSettings(
        network="mine:net", prior="log-uniform", data="mine:data", weights=str(user / "start.safetensors"),
        prior_options={"low": 1e-6}, method_options={"learning_rate": 1e-3, "epochs": 2, "kl_weight": 0.5},
        decision_options={"fine_tune_epochs": 0}, seed=7, threads=1,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["fit", "run"])
def test_samplers_are_run_diagnosed_and_asked_for_their_uncertainty(cli: Cli, user: Path, command: str) -> None:
    words = (
        "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--data-dir", user,
        "--inference", "metropolis", "--set", "method.warmup=5", "--out", "run",
    )  # fmt: skip
    if command == "fit":
        found = cli("fit", *words, "--chains", 2, "--draws", 30)
    else:
        found = cli("run", *words, "--chains", 2, "--draws", 30, "--set", "decision.fine_tune_epochs=1")
    assert found.code == 0, found.err
    posterior = Posterior.load(user / "run" / "posterior.safetensors")
    assert posterior.draws is not None and posterior.draws.flat.shape[:2] == (2, 30)
    assert not (user / "run" / "checkpoint.pt.draws").exists()
    diagnosed = cli("diagnose", "run", "--data-dir", user, "--json")
    assert diagnosed.code == 0 and json.loads(diagnosed.out)
    if command == "run":
        found = cli("uncertainty", "run", "--data-dir", user, "--json")
        assert found.code == 0 and json.loads(found.out)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_sentence(cli: Cli, user: Path) -> None:
    words = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--inference", "importance")
    found = cli("fit", *words, "--draws", 200, "--out", "run")
    assert found.code == 0, found.err
    (line,) = [line for line in found.err.splitlines() if line.startswith("warning: ")]
    assert "200 proposals are worth" in line and ".py" not in found.err


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_fit_starts_from_the_given_weights(cli: Cli, user: Path, kind: str) -> None:
    torch.manual_seed(1)
    state = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict()
    path = user / f"start.{kind}"
    if kind == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    found = cli(
        "fit", "--network", "mine:net", "--weights", path, "--prior", "normal", "--data", "mine:data",
        "--data-dir", user, "--inference", "svi", "--likelihood", "categorical", "--epochs", 1, "--kl-weight", 0.5,
        "--seed", 0, "--threads", 1, "--set", "method.learning_rate=1e-12", "--out", "run",
    )  # fmt: skip
    assert found.code == 0, found.err
    posterior = Posterior.load(user / "run" / "posterior.safetensors")
    for name, value in state.items():
        assert torch.from_numpy(posterior.parameters[name].mean).allclose(value, atol=1e-6)
    assert posterior.provenance["kl_weight"] == 0.5


def test_trained_weights_are_not_pretrained_again(cli: Cli, user: Path) -> None:
    """An entry's pretraining is for networks that start from nothing; asked for, it is done all the same."""
    torch.save(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), "start.pt")
    words = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "1")
    assert cli("fit", *words, "--weights", "start.pt", "--out", "plain").code == 0
    assert not (user / "plain" / "initial.safetensors").exists()
    asked = cli("fit", *words, "--weights", "start.pt", "--pretrain-epochs", 2, "--out", "asked")
    assert asked.code == 0 and "pretraining epoch 2/2" in asked.err
    assert (user / "asked" / "initial.safetensors").exists()
    resumed = cli("fit", "--resume", "asked")
    assert resumed.code == 0


def test_weights_switch_an_entrys_pretraining_off(user: Path) -> None:
    from pyro_compress.pipeline.run_options import choose_settings

    entry = "lenet-5/group-horseshoe"
    assert choose_settings(entry, None, user / "a")[0].pretrain_epochs == zoo.entry(entry).pretrain_epochs > 0
    assert choose_settings(entry, None, user / "a", weights=Path("w.pt"))[0].pretrain_epochs == 0
    assert choose_settings(entry, None, user / "a", weights=Path("w.pt"), pretrain_epochs=3)[0].pretrain_epochs == 3


def test_pretraining_has_options_of_its_own(user: Path, cli: Cli) -> None:
    """What train_first leaves is what MAP with these options finds; what cannot be is said before it begins."""
    words = ("--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "1", "--threads", 1)
    told = ("--set", "pretraining.batch_size=7", "--set", "pretraining.learning_rate=0.02")
    assert cli("fit", *words, "--pretrain-epochs", 2, *told, "--out", "own").code == 0
    assert cli("fit", *words, "--pretrain-epochs", 2, "--out", "usual").code == 0
    own, usual = (load_file(user / name / "initial.safetensors") for name in ("own", "usual"))
    settings = RunSettings.load(user / "own" / "settings.json")
    assert settings.pretraining_options == {"batch_size": 7, "learning_rate": 0.02}
    torch.manual_seed(settings.seed)
    model, data = settings.build_unpenalised(settings.build_network()), pc.data.load("mine:data")
    wanted = pc.fit(model, data, MAP(epochs=2, batch_size=7, learning_rate=0.02, schedule="linear"), seed=settings.seed)
    for name, found in own.items():
        np.testing.assert_array_equal(found.numpy(), wanted.parameters[name].mean)
        assert not torch.equal(found, usual[name])
    refused = {
        "pretraining.batch_size=7": "pretraining has the options batch_size, and there is none: give --pretrain-epochs",
        "pretraining.epochs=2": "leave out pretraining.epochs",
        "pretraining.bath_size=7": "Did you mean 'batch_size'?",
    }
    for option, sentence in refused.items():
        begin = () if option.endswith("batch_size=7") else ("--pretrain-epochs", 1)
        failed = cli("fit", *words, *begin, "--set", option, "--out", "refused")
        assert failed.code == 1 and sentence in failed.err
    assert not (user / "refused").exists()


BRANCH = """
import torch

class Branch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x.relu()))
"""


def test_units_that_cannot_go_are_refused_before_the_fit(user: Path, cli: Cli) -> None:
    (user / "branch.py").write_text(BRANCH)
    words = ("--prior", "normal", "--data", "mine:data", "--epochs", 1, "--threads", 1, "--out", "run")
    ranked = ("--set", "decision.remove_units_percent=50")
    fast = ("--set", "decision.multiply_adds=0.5")
    refused = {
        ("--network", "branch:Branch", *ranked): "units are ranked in chains of layers",
        ("--network", "mine:net", "--set", "decision.remove_units_percent={'9*': 50.0}"): "matches no hidden layer",
        ("--network", "mine:net", "--kind", "weights", *fast): "no unit can be removed from a file of weights",
        ("--network", "mine:net", "--kind", "weights", *ranked): "no unit can be removed from a file of weights",
    }
    for options, sentence in refused.items():
        failed = cli("run", *options, *words)
        assert failed.code == 1 and sentence in failed.err and failed.err.count("\n") <= 2, failed.err
        assert not (user / "run").exists()
    assert cli("run", "--network", "branch:Branch", *fast, *words).code == 0


def test_map_and_another_likelihood(cli: Cli, user: Path) -> None:
    found = cli(
        "run", "--network", "mine:net", "--prior", "normal", "--data", "mine:regression", "--inference", "map",
        "--likelihood", "gaussian", "--set", "likelihood.noise=0.5", "--epochs", 1, "--threads", 1, "--out", "run",
        "--set", "decision.fine_tune_epochs=0", "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    whole = json.loads(found.out)
    assert whole["method"] == "map"
    alone = cli("evaluate", "run/network.pyrc", "--data", "mine:regression", "--likelihood", "gaussian", "--json")
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["error_after_percent"] == pytest.approx(whole["error_after_percent"])


def test_registered_networks_know_their_usual_data(cli: Cli, user: Path) -> None:
    found = cli("fit", "--network", "digits-mlp", "--prior", "normal", "--epochs", 1, "--threads", 1)
    assert found.code == 0, found.err
    settings = RunSettings.load(Path("runs/digits-mlp-normal-seed0/settings.json"))
    assert settings.data == "digits"


@pytest.mark.parametrize("command", ["run", "fit", "sweep", "analyse"])
def test_an_example_of_a_setting_is_not_cut_off(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, help_of_set = cli(command, "--help").out.partition("--set ")
    said = help_of_set.partition(" --")[0]
    assert "given again" in " ".join(said.replace("│", " ").split()) and "…" not in said
