"""Teachers of inputs that are drawn anew in every batch: they are asked about each as the student sees it."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.likelihoods import Bernoulli, Categorical
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.quantizers import Uniform
from pyro_compress.pipeline import evaluation
from pyro_compress.pipeline.search import teacher_of
from tests.pipeline.conftest import Cli, cli
from tests.pipeline.test_resume import interrupt

MATCHED = Teaching(1.0, math.inf)


def images(count: int = 70) -> DataSet:
    """Images 3 × 3 that are dark but for the middle, of which outputs say what one weight of nine is."""
    x = torch.zeros(count, 1, 3, 3)
    x[:, 0, 1, 1] = torch.rand(count, generator=torch.Generator().manual_seed(0)) + 0.5
    y = torch.arange(count) % 3
    return as_data((x, y), validation=6, name="dots")


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 3))


def dense(network: nn.Sequential) -> nn.Linear:
    found = network[1]
    assert isinstance(found, nn.Linear)
    return found


def student(**options: Any) -> pc.BayesianNetwork:
    return pc.BayesianNetwork(linear(1), {}, **({"teacher_weight": 1.0, "temperature": math.inf} | options))


def test_a_teacher_is_asked_about_what_the_student_sees() -> None:
    teacher, data = linear(0), images().augmented(shift=1)
    taught = pc.with_teacher(data, teacher, student())
    assert taught.train_teacher is None
    for batches in (Feed.of(student(), taught).batches(24, 3, 1), Feed.of(student(), taught).batches(64, 3, 1)):
        for x, _, outputs in batches:
            torch.testing.assert_close(outputs, teacher(x).detach())
            assert bool((x[:, :, 1, 1] == 0).any()), "some have been shifted"


def test_a_fit_and_fine_tuning_learn_what_no_example_as_it_is_would_tell() -> None:
    teacher, data = linear(0), images().augmented(shift=1)
    taught = pc.with_teacher(data, teacher, student())
    posterior = pc.fit(student(), taught, MAP(epochs=300, batch_size=64, learning_rate=0.03))
    weight = dense(teacher).weight.detach()
    found = torch.from_numpy(posterior.parameters["1.weight"].mean)
    torch.testing.assert_close(found, weight, atol=0.02, rtol=0.0)
    # asked once about images as they are, a teacher says what the middle counts for and nothing of the rest
    once = pc.fit(student(), pc.with_teacher(images(), teacher, student()), MAP(epochs=300, learning_rate=0.03))
    apart = (torch.from_numpy(once.parameters["1.weight"].mean) - weight).abs().mean(0)
    assert float(apart[4]) < 0.02 < 0.1 < float(apart.mean())

    start = linear(1)
    value = dense(start).weight.detach().clone()
    sites = {"1.weight": GridSite(value, torch.ones_like(value).bool(), Uniform(1e-3))}
    dense(start).bias.data.copy_(dense(teacher).bias)
    tuned = fine_tune(
        start, sites, taught, Categorical(), epochs=300, rate_weight=0.0, batch_size=64, learning_rate=0.03,
        teaching=MATCHED,
    )["1.weight"]  # fmt: skip
    torch.testing.assert_close(tuned, weight, atol=0.02, rtol=0.0)


def test_a_posterior_hands_over_another_draw_in_every_batch() -> None:
    data = images().augmented(shift=1)
    model = pc.BayesianNetwork(linear(0), "normal")
    posterior = pc.fit(model, data, SVI(epochs=2, batch_size=16))
    taught = pc.with_teacher(data, (model, posterior), student(temperature=None), seed=4)
    assert taught.ask is not None
    x = data.train_x[:5]
    first, again, other = (taught.ask(x, *stream) for stream in ((0, 1), (0, 1), (1, 0)))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    drawn = torch.stack([taught.ask(x, 0, number) for number in range(400)])
    mean = pc.inference.predictive_mean(model, posterior, x, draws=2000)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert bool(((drawn.mean(0) - mean).abs() < 5 * error + 1e-3).all())
    more = pc.with_teacher(data, (model, posterior), student(temperature=None), draws=50)
    assert more.ask is not None
    assert float((more.ask(x, 0) - mean).abs().max()) < float((first - mean).abs().max())


def test_draws_of_the_posterior_itself_teach_fine_tuning_of_changed_images() -> None:
    data = images().augmented(shift=1)
    model = pc.BayesianNetwork(linear(0), "normal")
    posterior = pc.fit(model, data, SVI(epochs=2, batch_size=16))
    settings = pc.DecisionSettings(
        teacher_draws=3, fine_tune_epochs=2, rate_weights=(0.1,), refine=False, stage_tolerance_points=100
    )
    ask = teacher_of(posterior, model, data, settings, seed=7)
    assert ask is not None and not isinstance(ask, torch.Tensor)
    assert not torch.allclose(ask(data.train_x[:4], 0), ask(data.train_x[:4], 1))
    by_draws = pc.decide(posterior, model, data, settings).sites["1.weight"]
    again = pc.decide(posterior, model, data, settings).sites["1.weight"]
    by_labels = pc.decide(posterior, model, data, replace(settings, teacher_draws=0)).sites["1.weight"]
    assert (by_draws.value == again.value).all() and (by_draws.value != by_labels.value).any()


def test_images_that_are_binarised_in_every_batch_are_what_a_teacher_sees() -> None:
    x = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    data = as_data((x, torch.arange(30) % 2), validation=6).reconstructing("dynamic")
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 4))
    model = pc.BayesianNetwork(teacher, {}, Bernoulli(), teacher_weight=0.5, temperature=math.inf, hint="1")
    taught = pc.with_teacher(data, teacher, model, hidden="1")
    for drawn, targets, codes in Feed.of(model, taught).batches(10, 0, 0):
        assert bool(((drawn == 0) | (drawn == 1)).all()) and torch.equal(drawn.flatten(1), targets)
        torch.testing.assert_close(codes, teacher[:2](drawn).detach())


def test_outputs_of_images_as_they_are_are_refused() -> None:
    data = images()
    outputs = torch.zeros(len(data.train_x), 3)
    for given in (lambda: data.augmented(shift=1).taught(outputs), lambda: data.taught(outputs).augmented(shift=1)):
        with pytest.raises(DataError, match=r"are of the training inputs as they are, .* give data without a teacher"):
            given()
    with pytest.raises(DataError, match="are of the training inputs as they are"):
        pc.with_teacher(data.augmented(shift=1), outputs, student())
    with pytest.raises(DataError, match="means are of the training images as they are"):
        fine_tune(
            linear(1), {}, data.augmented(shift=1), Categorical(), epochs=1, rate_weight=0.0, teacher=outputs.softmax(1)
        )
    with pytest.raises(DataError, match=r"the shape \(4,\) per example, expected that of the student's outputs"):
        pc.with_teacher(data.augmented(shift=1), nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), student())
    taught = pc.with_teacher(data.augmented(shift=1), linear(0), student())
    four = pc.BayesianNetwork(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), {}, temperature=4.0)
    with pytest.raises(
        DataError, match=r"the shape \(3,\) per example, expected that of the student's outputs, \(4,\)"
    ):
        pc.fit(four, taught, MAP(epochs=1))


# ---- on the command line

STUDENT = ("--network", "digits-tanh", "--prior", "log-uniform", "--data", "digits", "--epochs", "6", "--threads", "1",
           "--set", "augmentation.shift=1", "--set", "decision.refine=False", "--set", "decision.fine_tune_epochs=1",
           "--set", "decision.rate_weights=[0.5]", "--teacher-weight", "0.9", "--temperature", "2")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` is a finished run, and `taught` one of its student; not to be written to."""
    made = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "save_all", lambda folder, drawn: None)
        plain = ("--network", "digits-tanh", "--prior", "none", "--data", "digits", "--epochs", "10", *STUDENT[8:16])
        assert cli("run", *plain, "--inference", "map", "--out", made / "teacher").code == 0
        found = cli("run", *STUDENT, "--teacher", made / "teacher" / "network.pyrc", "--out", made / "taught")
    assert found.code == 0, found.err
    return made


@pytest.mark.usefixtures("no_figures")
def test_a_run_goes_on_with_its_teacher(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = load_file(folder / "taught" / "teacher.safetensors")["outputs"]
    assert said.shape == (16, 10), "what it is known by"
    run = tmp_path / "run"
    shutil.copytree(folder / "taught", run)
    for made in ("posterior.safetensors", "decision.safetensors", "network.pyrc", "results.json"):
        (run / made).unlink()
    with monkeypatch.context() as patched:
        interrupt(patched, "epoch", 3)
        assert cli("run", "--resume", run).code == 130
    assert cli("run", "--resume", run).code == 0
    assert (run / "network.pyrc").read_bytes() == (folder / "taught" / "network.pyrc").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_a_run_whose_teacher_is_another_or_gone_says_so(cli: Cli, folder: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pyrc"
    shutil.copy(folder / "teacher" / "network.pyrc", teacher)
    assert cli("fit", *STUDENT, "--teacher", teacher, "--out", tmp_path / "run").code == 0
    assert cli("analyse", tmp_path / "run").code == 0
    shutil.copy(folder / "taught" / "network.pyrc", teacher)
    found = cli("analyse", tmp_path / "run")
    assert found.code == 1
    assert "says something else of the first 16 training examples" in " ".join(found.err.split())
    teacher.unlink()
    found = cli("analyse", tmp_path / "run")
    assert found.code == 1 and "cannot read" in " ".join(found.err.split())
