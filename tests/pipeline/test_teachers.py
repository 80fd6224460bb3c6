"""Teachers of every kind, on the command line and from Python: what they hand over, once, and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.named import load
from pyro_compress.errors import DataError, NetworkError, RunError
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.teaching import Teaching
from pyro_compress.network.quantizers import Uniform
from pyro_compress.pipeline import cards, evaluation, starting, steps, teachers
from pyro_compress.pipeline.run_directory import RunDirectory
from pyro_compress.pipeline.settings import RunSettings, settings_from_entry
from tests.pipeline.conftest import Cli, cli
from tests.pipeline.test_resume import interrupt

SHORT = ("--threads", "1", "--set", "decision.refine=False", "--set", "decision.fine_tune_epochs=1",
         "--set", "decision.rate_weights=[0.5]", "--set", "method.learning_rate=5e-3")  # fmt: skip


def examples(count: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return as_data(examples(), validation=10, test=examples(12, 1))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))


def student(temperature: float | None = 4.0, **more: Any) -> pc.BayesianNetwork:
    torch.manual_seed(1)
    return pc.BayesianNetwork(nn.Sequential(nn.Linear(6, 3)), "normal", temperature=temperature, **more)


def handed_over(data: DataSet, teacher: Any, model: pc.BayesianNetwork | None = None) -> torch.Tensor:
    found = pc.with_teacher(data, teacher, model or student())
    assert found.train_teacher is not None
    assert found.train_teacher.dtype == torch.float32 and found.validation_y is data.validation_y
    return found.train_teacher


def test_a_module_hands_over_logits_or_means_without_its_dropout(data: DataSet, module: nn.Module) -> None:
    logits = module.eval()(data.train_x).detach()
    module.train()
    torch.testing.assert_close(handed_over(data, module), logits)
    torch.testing.assert_close(handed_over(data, module, student(None)), logits.softmax(1))
    assert module.training
    # probabilities are taken for what they are, and their logarithms are logits
    softmax = nn.Sequential(module, nn.Softmax(1))
    torch.testing.assert_close(handed_over(data, softmax, student(None)), logits.softmax(1))
    torch.testing.assert_close(handed_over(data, softmax), logits.log_softmax(1), atol=1e-5, rtol=1e-4)
    array = handed_over(data, logits.numpy())
    torch.testing.assert_close(array, logits)


def test_a_file_hands_over_what_it_computes(data: DataSet, tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    posterior = pc.fit(pc.BayesianNetwork(plain, {}), data, MAP(epochs=2))
    artifact = pc.compress(plain, pc.decide(posterior, plain, data, pc.DecisionSettings(fine_tune_epochs=0)), (6,))
    path = artifact.save(tmp_path / "teacher.pyrc")
    logits = artifact.to_torch()(data.train_x).detach()
    for teacher in (artifact, path, str(path)):
        torch.testing.assert_close(handed_over(data, teacher), logits)


def test_a_posterior_hands_over_its_predictive_mean(data: DataSet) -> None:
    model = pc.BayesianNetwork(nn.Linear(6, 3), "normal")
    posterior = pc.fit(model, data, SVI(epochs=3))
    mean = pc.inference.predictive_mean(model, posterior, data.train_x, draws=100, seed=0)
    torch.testing.assert_close(handed_over(data, (model, posterior), student(None)), mean)
    torch.testing.assert_close(handed_over(data, (model, posterior)), mean.log(), atol=1e-5, rtol=1e-4)
    # the mean over draws is less sure of itself than the mean network
    point = model.network.state_dict() | {k: torch.from_numpy(v.mean) for k, v in posterior.parameters.items()}
    sure = torch.func.functional_call(model.network, point, data.train_x).softmax(1)
    assert float(Categorical().entropy(mean).mean()) > float(Categorical().entropy(sure).mean())


def test_a_hidden_output_is_handed_over_by_the_name_of_its_module(data: DataSet, module: nn.Module) -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model = pc.BayesianNetwork(network, {}, temperature=math.inf, hint="0")

    def hidden(teacher: Any) -> torch.Tensor:
        found = pc.with_teacher(data, teacher, model, hidden="1").train_teacher
        assert found is not None
        return found

    torch.testing.assert_close(hidden(module), nn.Sequential(*module.children())[:2](data.train_x).detach())
    teacher = pc.BayesianNetwork(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), "log-uniform")
    posterior = pc.fit(teacher, data, SVI(epochs=2))
    weights = posterior.parameters["0.weight"]
    # the mean over 100 draws, not what the mean weights put out
    latent, bias = posterior.sample_latents(100, int(np.random.SeedSequence([0, 0]).generate_state(1)[0])), "0.bias"
    (drawn,) = [value for name, value in latent.items() if value.shape[1:] == weights.mean.shape]
    layers = torch.einsum("nd,skd->snk", data.train_x, torch.from_numpy(drawn).float())
    expected = (layers + torch.from_numpy(posterior.parameters[bias].mean)).tanh().mean(0)
    torch.testing.assert_close(hidden((teacher, posterior)), expected)
    with pytest.raises(DataError, match=r"shape \(3,\) per example, expected that of the output of the student's '0'"):
        pc.with_teacher(data, module, model, hidden="3")
    with pytest.raises(NetworkError, match="unknown module 'encoder': known are 0, 1, 2, 3"):
        pc.with_teacher(data, module, model, hidden="encoder")
    with pytest.raises(DataError, match="hidden='1' names a module of a teacher, and an array has none"):
        pc.with_teacher(data, np.zeros((30, 5)), model, hidden="1")


def test_held_out_examples_reach_no_teacher(data: DataSet) -> None:
    seen = []

    class Watching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.clone())
            return x[:, :3]

    handed_over(data, Watching())
    assert torch.equal(torch.cat(seen), data.train_x)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (nn.Linear(5, 3), r"the teacher does not take examples of shape \(6,\)"),
        (nn.Linear(6, 4), r"the shape \(4,\) per example, expected that of the student's outputs, \(3,\)"),
        (np.zeros((40, 3)), r"\(40, 3\), expected a row for each of the 30 training examples"),
        (torch.full((30, 3), 1 / 3), "are probabilities, and temperature=4.0 takes logits"),
        (torch.full((30, 3), math.nan), "teacher"),
        (3.0, "found a float"),
    ],
)
def test_teachers_that_do_not_go_with_the_student_are_refused(data: DataSet, teacher: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pc.with_teacher(data, teacher, student())


def test_a_model_without_its_posterior_is_no_teacher(data: DataSet) -> None:
    with pytest.raises(DataError, match=r"give the pair \(model, posterior\)"):
        pc.with_teacher(data, student(), student())


def test_a_path_that_leads_nowhere_is_refused(data: DataSet) -> None:
    with pytest.raises(RunError, match=r"--teacher takes a \.pyrc file, a run directory, .*; found 'nowhere'"):
        pc.with_teacher(data, "nowhere", student())


def test_fine_tuning_on_the_grid_counts_the_teacher_by_its_weight(data: DataSet) -> None:
    # only biases move, so the optimum is known: (1 − λ) (q − share of y) + λ T (softmax(v/T) − mean of the teacher) = 0
    weight, temperature = 0.6, 3.0
    logits = torch.tensor([[2.0, -1.0, 0.5]]).expand(len(data.train_x), 3)
    network = nn.Linear(6, 3)
    nn.init.zeros_(network.weight)
    site = GridSite(torch.zeros(3), torch.ones(3, dtype=torch.bool), Uniform(1e-4))
    found = fine_tune(
        network, {"bias": site}, data.taught(logits), Categorical(), epochs=400, rate_weight=0.0, learning_rate=0.02,
        teaching=Teaching(weight, temperature),
    )["bias"]  # fmt: skip
    shares = torch.bincount(data.train_y, minlength=3) / len(data.train_y)
    hard = found.softmax(0) - shares
    soft = temperature * ((found / temperature).softmax(0) - (logits[0] / temperature).softmax(0))
    torch.testing.assert_close((1 - weight) * hard + weight * soft, torch.zeros(3), atol=2e-3, rtol=0.0)


def test_decide_fine_tunes_a_taught_network_by_its_teacher(data: DataSet) -> None:
    model = student(teacher_weight=0.9)
    taught = pc.with_teacher(data, 5 * torch.randn(30, 3, generator=torch.Generator().manual_seed(2)), model)
    posterior = pc.fit(model, taught, SVI(epochs=2))
    settings = pc.DecisionSettings(fine_tune_epochs=3, rate_weights=(0.1,), refine=False, stage_tolerance_points=100)
    by_both, by_labels = (pc.decide(posterior, given, taught, settings) for given in (model, model.network))
    without = pc.decide(posterior, model, data, settings)
    name = "0.weight"
    assert not np.array_equal(by_both.sites[name].value, by_labels.sites[name].value)
    np.testing.assert_array_equal(without.sites[name].value, by_labels.sites[name].value)


# ---- on the command line


@pytest.fixture(scope="module")
def taught_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `distil/digits`; not to be written to."""
    directory = tmp_path_factory.mktemp("taught") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "save_all", lambda folder, drawn: None)
        found = cli("run", "distil/digits", "--epochs", "15", *SHORT, "--out", directory)
    assert found.code == 0, found.err
    return directory


def test_an_entrys_teacher_is_fitted_first_to_the_same_examples(taught_run: Path) -> None:
    run, teacher = RunDirectory(taught_run), RunDirectory(taught_run).teacher_run
    settings, own = RunSettings.load(run.settings), RunSettings.load(teacher.settings)
    assert (settings.teacher, settings.teacher_weight, settings.temperature) == ("digits-cnn/none", 0.9, 4.0)
    assert (own.entry, own.teacher, own.threads) == ("digits-cnn/none", None, 1)
    data = steps.load_data(settings, None)
    outputs = load_file(run.teacher)["outputs"]
    assert outputs.shape == (len(data.train_x), 10)
    # what it hands over is what it says, and it learned its task
    fitted = teachers._of_run(teacher, data)
    mean = pc.inference.predictive_mean(*fitted, data.train_x)
    torch.testing.assert_close(outputs.softmax(1), mean, atol=1e-5, rtol=1e-4)
    assert float((outputs.argmax(1) != data.train_y).float().mean()) < 0.03
    results: dict[str, Any] = json.loads(run.results.read_text())
    assert results["teacher"] == {"name": "digits-cnn/none", "weight": 0.9, "temperature": 4.0}
    assert results["processor_seconds_per_step"]["teacher"] == round(teacher.seconds()["processor"]["fit"], 1) > 0
    assert "- teacher: digits-cnn/none, which counts 0.9 at temperature 4" in cards.markdown(cards.card_of(run))


def test_a_taught_student_is_nearer_to_its_teacher_than_one_that_learned_alone(taught_run: Path) -> None:
    settings = RunSettings.load(taught_run / "settings.json")
    data = steps.load_data(settings, None)
    outputs = load_file(RunDirectory(taught_run).teacher)["outputs"]
    alone = settings_from_entry("distil/digits", teacher="none", method_options={**settings.method_options})
    assert (alone.teacher, alone.teacher_weight, alone.temperature) == (None, 0.5, None)
    softened, apart = (outputs / 4).softmax(1), []
    for how, given in ((settings, data.taught(outputs)), (alone, data)):
        model = how.build_model(starting.build_network(how, data))
        posterior = pc.fit(model, given, how.build_method())
        logits = pc.inference.predictive_mean(model, posterior, data.train_x).log()
        apart.append(float((softened * (softened.log() - (logits / 4).log_softmax(1))).sum(1).mean()))
    # KL(teacher ‖ student) at the temperature that it was taught at
    assert apart[0] < 0.5 * apart[1]


def test_a_run_that_was_stopped_goes_on_with_what_its_teacher_said(
    taught_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(taught_run, run)
    for made in ("posterior.safetensors", "decision.safetensors", "network.pyrc", "results.json"):
        (run / made).unlink()
    # a teacher is asked once
    shutil.rmtree(run / "teacher")
    monkeypatch.setattr(teachers, "with_teacher", lambda *given, **more: pytest.fail("it was asked again"))
    monkeypatch.setattr(evaluation, "save_all", lambda folder, drawn: None)
    with monkeypatch.context() as patched:
        interrupt(patched, "epoch", 4)
        assert cli("run", "--resume", run).code == 130
    assert cli("run", "--resume", run).code == 0
    assert (run / "network.pyrc").read_bytes() == (taught_run / "network.pyrc").read_bytes()


@pytest.mark.usefixtures("user", "no_figures")
def test_a_bayesian_student_of_any_teacher_becomes_a_file(cli: Cli, taught_run: Path) -> None:
    common = ("--network", "digits-tanh", "--prior", "group-horseshoe", "--epochs", "2", "--kl-weight", "0.1", *SHORT)
    torch.manual_seed(0)
    save_file({f"1.{k}": v for k, v in nn.Linear(64, 10).state_dict().items()}, "weights.safetensors")
    Path("mine.py").write_text(
        "from torch import nn\n\n\ndef softmax():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    said = {}
    given = {"file": taught_run / "network.pyrc", "run": taught_run, "module": "mine:softmax+weights.safetensors"}
    for name, teacher in given.items():
        found = cli(
            "run", *common, "--teacher", teacher, "--teacher-weight", "0.8", "--temperature", "3", "--out", name
        )  # fmt: skip
        assert found.code == 0, found.err
        settings = RunSettings.load(Path(name) / "settings.json")
        assert (settings.teacher_weight, settings.temperature) == (0.8, 3.0)
        assert settings.teacher is not None and Path(settings.teacher.rpartition("+")[2]).is_absolute()
        said[name] = load_file(Path(name) / "teacher.safetensors")["outputs"]
        results = json.loads((Path(name) / "results.json").read_text())
        assert (Path(name) / "network.pyrc").stat().st_size == results["file_bytes"]
    x = load("digits").train_x
    torch.testing.assert_close(said["file"], pc.load(taught_run / "network.pyrc").to_torch()(x).detach())
    weights = load_file("weights.safetensors")
    torch.testing.assert_close(said["module"], x.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
    assert float((said["run"].argmax(1) == said["file"].argmax(1)).float().mean()) > 0.9


@pytest.mark.usefixtures("user")
def test_fit_alone_takes_a_teacher(cli: Cli, taught_run: Path) -> None:
    teacher = taught_run / "network.pyrc"
    found = cli(
        "fit", "--network", "digits-tanh", "--prior", "normal", "--epochs", "1", "--threads", "1", "--out", "fitted",
        "--teacher", teacher, "--teacher-weight", "0.7", "--temperature", "2",
    )  # fmt: skip
    assert found.code == 0, found.err
    settings = RunSettings.load(Path("fitted") / "settings.json")
    assert (settings.teacher, settings.teacher_weight, settings.temperature) == (str(teacher), 0.7, 2.0)
    said = load_file(RunDirectory(Path("fitted")).teacher)["outputs"]
    torch.testing.assert_close(said, pc.load(teacher).to_torch()(load("digits").train_x).detach())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--teacher", "nowhere"), "--teacher takes a .pyrc file, a run directory, module:factory"),
        (("--teacher", "nowhere.pyrc"), "cannot read nowhere.pyrc"),
        (("--teacher", "mine:broken"), "--teacher mine:broken: broken() failed with ValueError: no such table"),
        (("--teacher", "mine:data"), "--teacher mine:data returned a DataSet, expected a torch.nn.Module"),
        (("--temperature", "4"), "are of a teacher, and there is none: give --teacher"),
        (("--teacher", "mine:net", "--temperature", "0"), "is above 0, or inf to match them"),
        (("--teacher", "mine:net", "--likelihood", "gaussian", "--temperature", "4"), "are no logits"),
        (("--teacher", "digits-cnn/none"), "does not accept"),
        (("--teacher", "."), "is not a run directory"),
    ],
)
@pytest.mark.usefixtures("user")
def test_what_cannot_teach_is_refused_with_a_sentence(cli: Cli, words: tuple[str, ...], message: str) -> None:
    found = cli("fit", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--epochs", "1", *words)
    assert found.code != 0
    assert message in " ".join((found.out + found.err).split())
