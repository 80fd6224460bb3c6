"""Files of a run that are not as they were left, and words that cannot be taken: one sentence, and nothing lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, DecisionError, RunError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal
from pyro_compress.pipeline.run_directory import RunDirectory, results_in
from pyro_compress.pipeline.sweeping import collect
from pyro_compress.pipeline.validation import place
from tests.pipeline.conftest import Cli
from tests.pipeline.test_bad_input import MINE, sentence


class Stopped(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("method", [SVI(), SGLD()])
def test_a_fit_of_as_many_epochs_as_a_method_has_by_itself_is_resumed(tmp_path: Path, method: Any) -> None:
    """The number that stands there is of a type of its own, which a checkpoint must not hold."""
    x = torch.randn(40, 3)
    data = as_data((x, (x[:, 0] > 0).long()), classes=2)
    model, kept = BayesianNetwork(nn.Linear(3, 2), Normal()), tmp_path / "kept.pt"

    def stop(record: Any, state: Any) -> None:
        if record.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        fit(model, data, method, checkpoint=kept, callbacks=[stop])
    resumed = fit(model, data, method, checkpoint=kept, resume=True)
    whole = fit(model, data, method)
    np.testing.assert_array_equal(resumed.parameters["weight"].mean, whole.parameters["weight"].mean)
    assert type(method.rounds) is int


def test_a_network_that_has_changed_since_the_fit_is_named() -> None:
    numbers = np.zeros((8, 6), np.float32)
    decision = Decision({"weight": SiteDecision(numbers, numbers, np.full((8, 6), 32, np.uint8), None)})
    with pytest.raises(
        DecisionError, match=r"network has weight of shape \(9, 6\), and what was fitted has it of shape"
    ):
        place(nn.Linear(6, 9, bias=False), decision)
    with pytest.raises(DecisionError, match=r"has bias of shape .* and what was fitted has no such parameter"):
        place(nn.Linear(6, 8), decision)


@pytest.mark.parametrize("held", ["", "{}", "[]", '{"seed": 0, "file_by'])
def test_damaged_results_are_named_and_leave_the_others_their_row(tmp_path: Path, held: str) -> None:
    for name, text in (("a", held), ("b", json.dumps({"entry": "x/y", "seed": 3, "file_bytes": 9}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    with pytest.raises(RunError, match=r"results\.json is damaged .*: measure again with `pyro-compress evaluate "):
        results_in(tmp_path / "a" / "results.json")
    with pytest.warns(match="is damaged"):
        assert [each["seed"] for each in collect(tmp_path)["x/y"]] == [3]


@pytest.mark.parametrize("held", ["", "[]", '{"wall": {"fit": "x"}}', '{"wall": {"fit": 1.0}}'])
def test_damaged_times_cost_no_work(tmp_path: Path, held: str) -> None:
    run = RunDirectory(tmp_path)
    run.timings.write_text(held)
    with pytest.warns(match=r"timings\.json is damaged"):
        run.note_seconds("fit", 2.0, 1.0)
    assert run.seconds() == {"wall": {"fit": 2.0}, "processor": {"fit": 1.0}}


def test_examples_that_there_cannot_be(tmp_path: Path) -> None:
    x, y = torch.zeros(5, 2), torch.arange(5)
    with pytest.raises(DataError, match="there are no training examples"):
        as_data((x[:0], y[:0]), validation=(x, y), classes=5)
    with pytest.raises(DataError, match=r"largest label is 4,611,686,018,427,387,908, and labels count classes"):
        as_data((x, y + 2**62))
    np.save(tmp_path / "one.npy", np.zeros((3, 2)))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    from pyro_compress.data.archives import read_archive

    with pytest.raises(DataError, match=r"holds one array, as numpy\.save writes it"):
        read_archive(tmp_path / "one.npz")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "1", "--set", "method.epochs=7"), "--epochs and --set method.epochs say the same"),
        (("--set", "method.epochs=1", "--set", "method.epochs=2"), "--set method.epochs is given twice: give one of"),
        (("--kind", "weights", "--set", "decision.kind=runnable"), "--kind and --set decision.kind say the same"),
        (("--seed", "99999999999999999999999"), "seed must be at most 9,223,372,036,854,775,807, found 99,999,"),
        (("--threads", "99999"), "threads must be at most 4,096, found 99,999"),
        (("--set", "prior.scale={[]:1}"), "scale"),
    ],
)
def test_words_that_contradict_or_that_no_machine_takes(
    cli: Cli, user: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in sentence(cli("run", "--prior", "normal", *MINE, *words, "--out", "never"))
    assert not (user / "never").exists()


def test_text_of_the_users_stays_as_it_is(cli: Cli, user: Path) -> None:
    """Three letters between colons are no picture here, and a factory that leaves says so."""
    assert "/:x:.pyrc" in cli("evaluate", user / ":x:.pyrc", "--data", "digits").err
    (user / "leaving.py").write_text("def net():\n    raise SystemExit(0)\ndef two():\n    raise ValueError('a\\nb')\n")
    for factory, said in (("net", "net() failed with SystemExit: 0"), ("two", "two() failed with ValueError: a b")):
        found = cli("fit", "--network", f"leaving:{factory}", "--data", "mine:data", "--prior", "normal")
        assert said in sentence(found)


def test_a_run_without_validation_examples_is_refused_before_it_costs_time(cli: Cli, user: Path) -> None:
    (user / "few.py").write_text(
        "import torch\nfrom pyro_compress.data import as_data\n"
        "def part():\n    x = torch.randn(50, 6)\n    return x, x[:, :3].argmax(1)\n"
        "def data():\n    return as_data(part(), validation=0, test=part())\n"
    )
    found = cli(
        "run", "--network", "mine:net", "--data", "few:data", "--prior", "normal", "--epochs", "1", "--out", "v"
    )
    assert "there are no validation examples" in sentence(found)
    assert not (user / "v" / "posterior.safetensors").exists()


def test_a_file_that_was_cut_off_is_not_passed_over(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    """The results that lie beside it are of another file."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    (run / "network.pyrc").write_bytes((run / "network.pyrc").read_bytes()[:20])
    found = cli("run", "--resume", run)
    assert found.code == 1 and "network.pyrc is damaged" in found.err.splitlines()[-1]


@pytest.mark.usefixtures("no_figures")
def test_a_file_of_as_many_bytes_is_not_passed_over(cli: Cli, digits_run: Path, tmp_path: Path) -> None:
    """Nobody fetched it from anywhere: it is written again."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    whole = (run / "network.pyrc").read_bytes()
    (run / "network.pyrc").write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    for words in (("run", "--resume", run), ("evaluate", run), ("uncertainty", run)):
        said = sentence(cli(*words))
        assert "network.pyrc is damaged (the file is damaged: its checksum is" in said
        assert f"write it again with `pyro-compress compress {run}`" in said and "fetch" not in said
    assert cli("compress", run).code == 0 and (run / "network.pyrc").read_bytes() == whole
