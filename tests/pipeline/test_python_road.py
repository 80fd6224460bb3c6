"""The road from Python in the command line's words: the same decisions, bytes and measurements."""

import copy
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress.artifact.writing.rate_distortion import refine
from pyro_compress.errors import DataError, DecisionError, RunError
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.size_targets import PRICE_LADDER, to_error
from pyro_compress.pipeline.validation import Judge, nothing_pruned, with_batch_norm
from tests.pipeline.conftest import Cli
from tests.pipeline.test_draws_to_decision import classes, saved, shifted

README = Path(__file__).parent.parent.parent / "README.md"
SHORT = pc.DecisionSettings(fine_tune_epochs=1, rate_weights=(0.5,))


def five_minutes() -> str:
    """The program of the README's first section in Python."""
    section = README.read_text(encoding="utf-8").partition("## Five minutes in Python")[2]
    found = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.usefixtures("no_figures")
def test_the_five_minutes_end_with_the_bytes_of_the_command_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = five_minutes()
    for whole, short in (
        ("epochs=40", "epochs=2"),
        ("pc.decide(posterior, net, data)", "pc.decide(posterior, net, data, SHORT)"),
    ):
        assert program.count(whole) == 1
        program = program.replace(whole, short)
    torch.set_num_threads(1)
    names: dict[str, Any] = {"SHORT": SHORT}
    with torch.random.fork_rng(devices=[]):
        exec(compile(program, str(README), "exec"), names)
    told = cli(
        "run", "digits-cnn/group-horseshoe", "--epochs", 2, "--threads", 1, "--out", "run", "--json",
        "--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=[0.5]",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert (tmp_path / "digits.pyrc").read_bytes() == (tmp_path / "run" / "network.pyrc").read_bytes()
    results = json.loads(told.out)
    found = pc.evaluate(names["artifact"], names["data"])
    assert found == {key: results[key] for key in found}
    assert f"{results['file_bytes']:,} bytes, {results['error_after_percent']:.1f} ±" in capsys.readouterr().out


def test_a_decision_from_a_run_is_the_runs_own(digits_run: Path, tmp_path: Path) -> None:
    """Given the same start; the network is told by itself or by the model that was fitted."""
    settings = RunSettings.load(digits_run / "settings.json")
    posterior = pc.Posterior.load(digits_run / "posterior.safetensors")
    net, start = pc.models.digits_cnn(), pc.models.digits_cnn()
    pc.models.load_weights(start, digits_run / "initial.safetensors")
    before, lines = copy.deepcopy(net.state_dict()), list[str]()
    for given in (net, pc.BayesianNetwork(net, pc.models.GroupHorseshoe())):
        decision = pc.decide(
            posterior, given, pc.data.load("digits"), settings.build_decision(), likelihood="categorical",
            starts={"pretrained network": start}, seed=3, say=lines.append,
        )  # fmt: skip
        assert saved(decision, tmp_path / "mine") == (digits_run / "decision.safetensors").read_bytes()
    assert lines[0].startswith("posterior mean, nothing pruned: ")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert pc.compress(net, decision, data=pc.data.load("digits")).data == (digits_run / "network.pyrc").read_bytes()


def test_teachers_draws_need_the_model_that_was_fitted() -> None:
    network, data = classes()
    model = pc.BayesianNetwork(network, pc.models.Normal())
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=1))
    taught = pc.DecisionSettings(fine_tune_epochs=1, rate_weights=(0.5,), teacher_draws=4)
    with pytest.raises(DecisionError, match=r"teacher_draws=4 .* the BayesianNetwork that was fitted .* Sequential"):
        pc.decide(posterior, network, data, taught)
    decision = pc.decide(posterior, model, data, taught, seed=5)
    teacher = pc.inference.predictive_mean(model, posterior, data.train_x, draws=4, seed=5)
    same = pc.decide(posterior, network, data, taught, teacher=teacher, seed=5)
    other = pc.decide(posterior, network, data, SHORT, seed=5)
    values = [found.sites["a.weight"].value for found in (decision, same, other)]
    assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])


def test_data_without_validation_examples_cannot_be_decided_on() -> None:
    network, data = classes()
    with pytest.raises(DataError, match="there are no validation examples"):
        pc.decide(shifted(network, 1.0), network, data.part("train"), SHORT)


def test_a_file_of_at_most_an_error() -> None:
    network, data = classes()
    decision = pc.decide(shifted(network, 1.0), network, data, pc.DecisionSettings(fine_tune_epochs=0))
    own = Judge(network, data, Categorical()).error_in_unit(decision)
    small = pc.compress(network, decision, data=data, target_error=own + 4)
    architecture = pc.models.trace(network, (6,))
    judge = Judge(network, data, Categorical())
    expected = to_error(architecture, decision, own + 4, judge.error_in_unit)
    assert small == pc.compress(network, expected, (6,))
    assert len(small) < len(pc.compress(network, decision, data=data))
    x, y = data.part("validation")
    assert pc.evaluate(small, (x, y))["error_after_percent"] == pytest.approx(judge.error_in_unit(expected))
    with pytest.raises(DecisionError, match=r"a target of the error is held on validation examples: give .* data="):
        pc.compress(network, decision, (6,), target_error=5)
    with pytest.raises(DecisionError, match="bytes or of the error, not both"):
        pc.compress(network, decision, data=data, target_error=5, target_bytes=100)
    with pytest.raises(DecisionError, match=r"needs the shape of one example: give input_shape=\(1, 28, 28\), or data"):
        pc.compress(network, decision)


def test_a_file_is_measured_on_the_examples_that_are_given(tmp_path: Path) -> None:
    network, data = classes()
    decision = pc.decide(shifted(network, 1.0), network, data, pc.DecisionSettings(fine_tune_epochs=0))
    artifact = pc.compress(network, decision, data=data)
    x, y = data.part("test")
    wrong = (artifact.to_torch()(x).argmax(1) != y).double()
    found = pc.evaluate(artifact, data)
    assert found["error_after_percent"] == pytest.approx(100 * float(wrong.mean()))
    share = float(wrong.mean())
    assert found["error_standard_error_percent"] == pytest.approx(100 * (share * (1 - share) / len(y)) ** 0.5)
    assert found["file_bytes"] == len(artifact.data)
    path = artifact.save(tmp_path / "thirds.pyrc")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    for compressed, examples in ((path, data), (str(path), (x.numpy(), y.numpy())), (artifact, loader)):
        assert pc.evaluate(compressed, examples) == found
    with pytest.raises(DataError, match=r"the artifact takes inputs of shape \(6,\), data set user data has \(5,\)"):
        pc.evaluate(artifact, (x[:, 1:], y))
    with pytest.raises(DataError, match=r"thirds\.pyrc takes inputs of shape"):
        pc.evaluate(path, (x[:, 1:], y))
    with pytest.raises(RunError, match="unknown likelihood 'categoric'"):
        pc.evaluate(artifact, data, likelihood="categoric")


@pytest.mark.parametrize("norm", [False, True], ids=["dense", "batch norm"])
def test_the_search_ends_with_the_smallest_file_that_validation_accepts(norm: bool) -> None:
    network, data = classes(norm)
    posterior = shifted(network, 1.0)
    if norm:
        buffers = {name: b.numpy().copy() for name, b in network.named_buffers() if b.is_floating_point()}
        posterior = pc.Posterior(posterior.parameters, {}, buffers)
    lines, judge = list[str](), Judge(network, data, Categorical())
    whole, small = (
        pc.decide(
            posterior, network, data, pc.DecisionSettings(c=1e-3, fine_tune_epochs=0, refine=on), say=lines.append
        )
        for on in (False, True)
    )
    rises = [float(found.made_by["validation"]["rise_points"]) for found in (whole, small)]  # type: ignore[index]
    assert rises[1] <= max(rises[0], 0.2)
    files = [pc.compress(network, found, (6,)) for found in (whole, small)]
    assert len(files[1]) < 0.9 * len(files[0])
    price = float(str(small.made_by["price_nats_per_bit"]))
    assert "price_nats_per_bit" not in whole.made_by
    assert f"λ = {price:.3g} nats per bit: {len(files[1]):,} bytes in place of {len(files[0]):,}" in lines
    # the next price would not do, and statistics are those under the moved weights
    complete = partial(with_batch_norm, copy.deepcopy(network), data=data)
    architecture = pc.models.trace(network, (6,))
    assert pc.compress(network, complete(refine(architecture, whole, price)), (6,)) == files[1]
    if price < PRICE_LADDER[0]:
        dearer = complete(refine(architecture, whole, price * 2**0.5))
        reference = judge.errors(nothing_pruned(posterior))
        assert judge.rise(dearer, reference)[0] > max(rises[0], 0.2)


def test_whole_numbers_are_no_targets_of_several_binary_ones() -> None:
    x, y, network = torch.randn(8, 3), torch.arange(16).reshape(8, 2) % 2, torch.nn.Linear(3, 2)
    file = pc.pack(network)
    with pytest.raises(DataError, match=r"zeros and ones too: give y\.float\(\)"):
        pc.evaluate(file, (x, y), likelihood="bernoulli", network=network)
    assert "error_after_percent" in pc.evaluate(file, (x, y.float()), likelihood="bernoulli", network=network)
