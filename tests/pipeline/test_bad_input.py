"""A user's mistake ends with one sentence on stderr and exit status 1, never with a traceback."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.pipeline.conftest import Called, Cli

MINE = ("--network", "mine:net", "--data", "mine:data")


def sentence(found: Called) -> str:
    """The one line that a failed call has printed."""
    assert (found.code, found.out) == (1, ""), (found.out, found.err)
    assert found.err.startswith("error: ") and found.err.count("\n") == 1 and found.err.endswith("\n")
    return found.err.removeprefix("error: ").rstrip("\n")


UNKNOWN = {
    "entry": (
        ["lenet-300-100/log-unifrom"],
        "unknown zoo entry 'lenet-300-100/log-unifrom': known are digits-cnn/group-horseshoe, ",
        "Did you mean 'lenet-300-100/log-uniform'?",
    ),
    "network": (
        ["--network", "lenet5", "--prior", "normal"],
        "unknown network 'lenet5': known are autoencoder-mnist, ",
        "Did you mean 'lenet-5'?",
    ),
    "prior": (
        ["--prior", "horseshoe", *MINE],
        "unknown prior 'horseshoe': known are entropy-penalised, ",
        "Did you mean 'group-horseshoe'?",
    ),
    "data": (
        ["--network", "digits-mlp", "--prior", "normal", "--data", "digit"],
        "unknown data set 'digit': known are cifar10, diamonds, digit-scenes, digits, electricity, ",
        "Did you mean 'digits'?",
    ),
    "method": (
        ["--prior", "normal", *MINE, "--inference", "sv"],
        "unknown inference method 'sv': known are approximate-metropolis, bbb, ",
        "Did you mean 'svi'?",
    ),
    "likelihood": (
        ["--prior", "normal", *MINE, "--likelihood", "poison"],
        "unknown likelihood 'poison': known are bernoulli, categorical, continuous-bernoulli, cox, ",
        "Did you mean 'poisson'?",
    ),
    "section": (
        ["--prior", "normal", *MINE, "--set", "desicion.c=1"],
        "unknown section of --set 'desicion': known are augmentation, decision, likelihood, method, pretraining, ",
        "Did you mean 'decision'?",
    ),
    "option of no prior": (
        ["--prior", "none", *MINE, "--set", "prior.scale=1"],
        "prior 'none' has no options, found scale",
        "",
    ),
    "prior option": (
        ["--prior", "group-horseshoe", *MINE, "--set", "prior.tao=1"],
        "unknown option of prior 'group-horseshoe': 'tao': known are initial_log_variance, ",
        "Did you mean 'tau'?",
    ),
    "method option": (
        ["--prior", "normal", *MINE, "--set", "method.learningrate=1"],
        "unknown option of inference method 'svi': 'learningrate': known are accumulate, averaging, baseline, ",
        "Did you mean 'learning_rate'?",
    ),
    "augmentation option": (
        ["--prior", "normal", *MINE, "--set", "augmentation.shfit=1"],
        "unknown option of augmentation: 'shfit': known are cutout, flip, rotate, scale, shift, transform.",
        "Did you mean 'shift'?",
    ),
    "decision option": (
        ["--prior", "normal", *MINE, "--set", "decision.fine_tune_epoch=1"],
        "unknown option of the decision: 'fine_tune_epoch': known are align_by, c, ",
        "Did you mean 'fine_tune_epochs'?",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("command", ["run", "fit"])
def test_unknown_names_list_the_known_ones_and_the_nearest(cli: Cli, user: Path, command: str, case: str) -> None:
    arguments, known, nearest = UNKNOWN[case]
    found = sentence(cli(command, *arguments))
    assert known in found and found.endswith(nearest)
    assert not (user / "runs").exists()


CONTRADICTIONS = {
    "nothing": ([], "give a zoo entry (see `pyro-compress zoo`) or --network and --prior; found no network"),
    "no prior": (["--network", "lenet-5"], "or --network and --prior; found no prior"),
    "own network, no data": (
        ["--network", "mine:net", "--prior", "normal"],
        "a network of your own needs --data: the name of a data set, or module:factory",
    ),
    "entry and prior": (
        ["digits-cnn/group-horseshoe", "--prior", "normal"],
        "'digits-cnn/group-horseshoe' names its network and prior: leave out --network and --prior, or the entry",
    ),
    "no section": (
        ["--prior", "normal", *MINE, "--set", "fine_tune_epochs=1"],
        "--set takes section.name=value, for example decision.fine_tune_epochs=4; found 'fine_tune_epochs=1'",
    ),
    "a word for a number": (
        ["--prior", "normal", *MINE, "--set", "method.learning_rate=fast"],
        "option 'learning_rate' of inference method 'svi' must be a number, found 'fast'",
    ),
    "a number for a list": (
        ["--prior", "normal", *MINE, "--set", "decision.rate_weights=2"],
        "option 'rate_weights' of the decision must be a list, each a number, found 2",
    ),
    "a fraction of an epoch": (
        ["--prior", "normal", *MINE, "--set", "method.epochs=1.5"],
        "option 'epochs' of inference method 'svi' must be a whole number, found 1.5",
    ),
    "out of range": (
        ["--prior", "normal", *MINE, "--set", "decision.fine_tune_epochs=-1"],
        "fine_tune_epochs and tolerances must not be negative",
    ),
    "no images": (
        ["--prior", "normal", *MINE, "--set", "augmentation.flip=True"],
        "augmentation changes images (channels, height, width), and these examples have the shape (6,)",
    ),
    "missing module": (
        ["--network", "theirs:net", "--prior", "normal", "--data", "digits"],
        "--network theirs:net: no module 'theirs' is installed or lies in ",
    ),
    "missing factory": (
        ["--network", "mine:nett", "--prior", "normal", "--data", "mine:data"],
        "--network mine:nett: module 'mine' has no function 'nett'",
    ),
    "failing factory": (
        ["--network", "mine:net", "--prior", "normal", "--data", "mine:broken"],
        "--data mine:broken: broken() failed with ValueError: no such table",
    ),
    "weights that are not there": (
        ["--prior", "normal", *MINE, "--weights", "nowhere.pt"],
        "there is no file of weights at ",
    ),
    "not a run directory": (
        ["--resume", "nowhere"],
        "nowhere is not a run directory: it has no settings.json; start with `fit`",
    ),
    "a file in the way": (
        ["--prior", "normal", *MINE, "--out", "mine.py"],
        "mine.py is a file: --out names the folder that a run makes",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_cannot_be_run_is_said(cli: Cli, user: Path, case: str) -> None:
    arguments, expected = CONTRADICTIONS[case]
    assert expected in sentence(cli("run", *arguments))


UNFIT = {
    "unsupported module": (
        "with_hardshrink",
        "data",
        ["module '1' (Hardshrink) is not supported: supported are Linear"],
    ),
    "branch": (
        "Gated",
        "data",
        ["function 'maximum' in the forward pass of Gated takes several results"],
    ),
    "input shape": ("net", "digits", ["does not accept examples of shape (1, 8, 8)", "module '0' (Linear)", "6x8"]),
    "too few outputs": ("narrow", "data", ["network mine:narrow returns outputs of shape (2,), thirds has 3 classes"]),
    "no labels": (
        "net",
        "regression",
        ["line: ", "is no distribution over classes", "change the targets or the likelihood"],
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_networks_that_do_not_fit_say_what_and_where(cli: Cli, user: Path, case: str) -> None:
    network, data, expected = UNFIT[case]
    data = data if data == "digits" else f"mine:{data}"
    given = ("run", "--network", f"mine:{network}", "--prior", "normal", "--data", data, "--kind", "runnable")
    found = sentence(cli(*given, "--out", "run"))
    assert all(part in found for part in expected), found
    assert not (user / "run").exists()


def test_weights_of_another_shape_say_both(cli: Cli, user: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).state_dict(), "wide.pt")
    found = sentence(cli("fit", "--prior", "normal", *MINE, "--weights", "wide.pt"))
    assert "wide.pt: 0.weight has shape (9, 6), expected (8, 6)" in found


def test_a_diverging_fit_says_where_and_keeps_the_last_good_epoch(cli: Cli, user: Path) -> None:
    steep = ("--set", "method.learning_rate=1e30", "--threads", "1", "--epochs", "3")
    found = sentence(cli("run", "--prior", "group-horseshoe", *MINE, *steep, "--out", "run", "--json"))
    assert "epoch 0" in found and ".weight" in found
    assert "the last good state is kept: lower the learning rate" in found
    assert not (user / "run" / "posterior.safetensors").exists()
    # nothing was fitted, so nothing is in the way of another try
    again = cli("fit", "--prior", "group-horseshoe", *MINE, "--epochs", "1", "--threads", "1", "--out", "run")
    assert again.code == 0, again.err


SAMPLERS = {
    "no chain": (["--inference", "nuts", "--chains", "0"], "NUTS needs at least 1 chain and 1 draw; found chains=0"),
    "no draw": (
        ["--inference", "hmc", "--draws", "0"],
        "HMC needs at least 1 chain and 1 draw; found chains=4, ",
    ),
    "no chain on batches": (["--inference", "sgld", "--chains", "0"], "SGLD needs at least 1 chain and 1 draw"),
    "a step backwards": (
        ["--inference", "hmc", "--set", "method.step_size=-1"],
        "HMC needs step_size > 0 and target_acceptance in [0, 1); found step_size=-1",
    ),
    "a divergent step": (
        ["--inference", "sgld", "--epochs", "20", "--set", "method.a=1e8"],
        "the last good state is kept",
    ),
    "a divergent step that stays finite": (
        ["--inference", "psgld", "--epochs", "20", "--set", "method.a=1e6"],
        "far below where it started: the steps are too long; lower the step size (a=...)",
    ),
    "rejection on a network": (
        ["--inference", "rejection", "--draws", "10"],
        "rejection sampling is hopeless here and stops after 25 proposals",
    ),
    "nothing to propose with": (
        ["--inference", "importance", "--set", "method.proposal=nowhere"],
        "nowhere/posterior.safetensors does not hold a posterior",
    ),
    "no example": (["--examples", "0"], "examples must be at least 1, found 0"),
    "too many examples": (
        ["--examples", "201"],
        "thirds has 200 training examples: --examples takes at most that, found 201",
    ),
}


@pytest.mark.parametrize("case", SAMPLERS)
def test_samplers_that_cannot_run_say_why(cli: Cli, user: Path, case: str) -> None:
    arguments, expected = SAMPLERS[case]
    words = ("--prior", "normal", *MINE, "--threads", "1", *arguments, "--out", "run")
    found = cli("fit", *words)
    assert (found.code, found.out) == (1, ""), found.err
    # progress may stand before it
    assert expected in found.err.splitlines()[-1] and found.err.splitlines()[-1].startswith("error: ")
    assert not (user / "run" / "posterior.safetensors").exists()


def test_a_finished_run_is_not_written_over(cli: Cli, digits_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")}
    found = sentence(cli("run", "digits-cnn/group-horseshoe", "--out", digits_run))
    assert found == f"{digits_run} holds a finished run: give another --out, or remove it"
    assert {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")} == before


def test_steps_out_of_order_name_the_step_that_is_missing(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    shutil.copy(digits_run / "settings.json", tmp_path)
    assert "does not hold a posterior" in (found := sentence(cli("analyse", tmp_path)))
    assert found.endswith("run `pyro-compress fit` first")
    assert "does not hold a decision" in sentence(cli("compress", tmp_path))
    assert f"run `pyro-compress compress {tmp_path}`" in sentence(cli("inspect", tmp_path))
    for name in ("posterior.safetensors", "decision.safetensors"):
        shutil.copy(digits_run / name, tmp_path)
    assert "network.pyrc" in (found := sentence(cli("evaluate", tmp_path)))
    assert "run `pyro-compress compress" in found


def test_files_that_are_missing_damaged_or_unfit(cli: Cli, digits_run: Path, user: Path) -> None:
    assert "no file of that name, and unknown shipped network 'nowhere'" in sentence(cli("evaluate", "nowhere"))
    assert "cannot read nowhere.pyrc: No such file" in sentence(cli("inspect", "nowhere.pyrc"))
    whole = (digits_run / "network.pyrc").read_bytes()
    Path("cut.pyrc").write_bytes(whole[:-4])
    assert sentence(cli("inspect", "cut.pyrc")).startswith("cut.pyrc: ")
    assert sentence(cli("evaluate", "cut.pyrc", "--data", "digits")).startswith("cut.pyrc: ")
    path = digits_run / "network.pyrc"
    assert "needs --data" in sentence(cli("evaluate", path))
    found = sentence(cli("evaluate", path, "--data", "mine:data"))
    assert found == f"{path} takes inputs of shape (1, 8, 8), data set thirds has (6,)"
    assert "says its data, likelihood and network" in sentence(cli("evaluate", digits_run, "--data", "digits"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "settings.json cannot be read as JSON: "),
        ("[]", "settings.json holds a list, expected the settings of a run by name"),
        ('{"network": "lenet-5"}', "settings.json lacks prior, data"),
        ('{"network": "lenet-5", "prio": 1}', "unknown setting 'prio': known are "),
    ],
)
def test_damaged_settings(cli: Cli, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    assert expected in sentence(cli("analyse", tmp_path))


def test_text_in_brackets_is_printed_as_it_is(cli: Cli, user: Path) -> None:
    assert "'[red]x'" in sentence(cli("run", "[red]x"))


def test_a_disk_that_cannot_be_written_to_is_a_sentence(cli: Cli, user: Path) -> None:
    found = sentence(cli("fit", "--prior", "normal", *MINE, "--epochs", "1", "--out", "mine.py/run"))
    assert found == "mine.py/run: Not a directory"
