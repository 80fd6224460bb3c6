"""The road of a network that cannot be traced: a fit, a decision, a file of weights, measured in its own module."""

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.artifact.runtimes.state_dicts import load_into
from pyro_compress.errors import ArtifactError, DecisionError, UnstorableError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.quantizers import Uniform
from tests.pipeline.conftest import Called, cli

# the LSTM's weights
pytestmark = pytest.mark.filterwarnings("ignore::pyro_compress.errors.SharedDrawsWarning")

MODULE = """
import torch
from torch import nn

from pyro_compress.data import as_data


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)
        self.register_buffer("steps", torch.arange(3))

    def forward(self, x):
        hidden, _ = self.lstm(torch.relu(self.embed(x.cumsum(1))))
        return self.out(self.norm(hidden[:, -1]))


def net():
    return Reader()


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(10, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def _part(count, seed):
    x = torch.randn(count, 5, 2, generator=torch.Generator().manual_seed(seed))
    total = x[:, :, 0].sum(1)
    return x, (total > 1).long() + (total > -1).long()


def data():
    return as_data(_part(300, 0), validation=_part(100, 1), test=_part(200, 2), name="sums", classes=3)
"""
OPTIONS = (
    *("--data", "seqs:data", "--prior", "log-uniform", "--epochs", "6", "--threads", "1"),
    *("--set", "method.learning_rate=0.02", "--set", "decision.fine_tune_epochs=1"),
    *("--set", "decision.rate_weights=[1.0]"),
)


@dataclass(frozen=True)
class Road:
    """A finished run, what it printed, and the user's module."""

    path: Path
    called: Called

    @property
    def results(self) -> dict[str, object]:
        return dict(json.loads((self.path / "results.json").read_text()))


@pytest.fixture(scope="module", name="seqs")
def _seqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("seqs")
    (folder / "seqs.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        patch.setattr("pyro_compress.pipeline.evaluation.save_all", lambda folder, drawn: None)
        yield folder
    sys.modules.pop("seqs", None)


@pytest.fixture(scope="module", name="road")
def _road(seqs: Path) -> Road:
    called = cli("run", "--network", "seqs:net", *OPTIONS, "--out", "run")
    assert called.code == 0, called.err
    return Road(seqs / "run", called)


def fresh(factory: str = "net") -> nn.Module:
    import seqs  # type: ignore[import-not-found]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = getattr(seqs, factory)()
    return network.eval()


def test_what_file_it_ends_in_and_why_is_said_before_the_fit(road: Road) -> None:
    lines = (road.called.out + road.called.err).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("epoch "))
    said = next(line for line in lines[:first] if line.startswith("the file will hold weights"))
    with pytest.raises(UnstorableError, match=r"'cumsum'.* is not supported") as refusal:
        trace(fresh(), (5, 2))
    assert f"because {refusal.value}; weights are" in said and "no unit is removed" in said
    # every matrix has a prior, which is nothing to speak of
    assert not [line for line in lines if line.startswith("priors cover")]
    assert "UnstorableWarning" not in road.called.err


def test_the_file_holds_what_was_decided_and_all_else_of_the_module(road: Road) -> None:
    decision, artifact = Decision.load(road.path / "decision.safetensors"), pc.load(road.path / "network.pyrc")
    assert decision.made_by["kind"] == "weights" and artifact.kind == "weights"
    numbers, state = artifact.numbers(), fresh().state_dict()
    assert list(numbers) == list(state)
    for name, site in decision.sites.items():
        np.testing.assert_array_equal(numbers[name], site.stored(), strict=True)
    for name in ("norm.running_mean", "norm.running_var"):
        np.testing.assert_array_equal(numbers[name], decision.buffers[name])
    assert numbers["steps"].tolist() == [0, 1, 2] and numbers["norm.num_batches_tracked"] == 0
    assert 0 < np.count_nonzero(numbers["embed.weight"]) <= 16
    # integers of a few bits where float32 has 32
    assert 4 * 643 / len(artifact) > 2.5


def test_it_is_measured_in_the_users_module(road: Road) -> None:
    import seqs

    data, artifact = seqs.data(), pc.load(road.path / "network.pyrc")
    network = artifact.load_into(fresh())
    with torch.no_grad():
        wrong = (network(data.test_x).argmax(1) != data.test_y).double()
    results = road.results
    assert results["error_after_percent"] == pytest.approx(100 * float(wrong.mean()))
    assert 100 * float(wrong.mean()) < 45  # two of three by chance
    assert results["kind"] == "weights" and results["file_bytes"] == len(artifact)
    assert results["rates"] is None and results["architecture_left"] is None
    left = sum(np.count_nonzero(v) for n, v in artifact.numbers().items() if v.ndim > 1)
    assert results["weights_left_percent"] == pytest.approx(100 * left / (16 + 256 + 256 + 24))
    found = pc.evaluate(artifact, data, network=fresh())
    assert found["error_after_percent"] == results["error_after_percent"] and "architecture_left" not in found
    with pytest.raises(ArtifactError, match="holds weights and no layers"):
        pc.evaluate(artifact, data)
    measured = cli("uncertainty", road.path, "--draws", "4", "--json")
    assert measured.code == 0, measured.err


def test_a_target_of_bytes(road: Road) -> None:
    import shutil

    shutil.copytree(road.path, road.path.with_name("small"))
    size = road.results["file_bytes"]
    assert isinstance(size, int)
    called = cli("compress", road.path.with_name("small"), "--target-bytes", size - 4)
    assert called.code == 0, called.err
    assert (road.path.with_name("small") / "network.pyrc").stat().st_size <= size - 4
    deviations = cli("compress", road.path.with_name("small"), "--keep-deviations")
    assert (deviations.code, deviations.err.count("\n")) == (1, 1)
    assert "a file of weights keeps no deviations" in deviations.err


def test_a_kind_that_there_cannot_be_is_refused_at_once(seqs: Path) -> None:
    calls = [
        (cli("run", "--network", "seqs:net", *OPTIONS, "--out", "none", "--kind", "layers"), "unknown kind of file"),
        (cli("run", "--network", "seqs:net", *OPTIONS, "--out", "none", "--kind", "runnable"), "no runnable file can"),
        (cli("fit", "--network", "seqs:net", *OPTIONS, "--out", "none", "--kind", "runnable"), "no runnable file can"),
    ]
    for called, sentence in calls:
        assert called.code == 1 and sentence in called.err and called.err.count("\n") == 1, called.err
        assert not (seqs / "none").exists()


def test_weights_of_a_network_that_could_be_runnable(seqs: Path) -> None:
    import seqs as mine

    data, network = mine.data(), fresh("plain")
    model = pc.BayesianNetwork(copy.deepcopy(network), "log-uniform")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=2), seed=0)
    settings = pc.DecisionSettings(fine_tune_epochs=0, kind="weights")
    decision = pc.decide(posterior, model, data, settings, say=lambda line: None)
    artifact = pc.compress(model, decision, data=data)
    assert artifact.kind == "weights"
    for name, site in decision.sites.items():
        np.testing.assert_array_equal(artifact.numbers()[name], site.stored(), strict=True)
    runnable = pc.compress(model, decision, data=data, kind="runnable")
    assert runnable.kind == "runnable"
    x = data.test_x[:50]
    with torch.no_grad():
        # scales and shifts of the norm are rounded in the runnable file
        expected = runnable.to_torch()(x)
        torch.testing.assert_close(
            artifact.load_into(network)(x), expected, rtol=0, atol=0.03 * float(expected.abs().max())
        )
    with pytest.raises(DecisionError, match="no unit can be removed from a file of weights"):
        narrow = pc.DecisionSettings(fine_tune_epochs=0, kind="weights", multiply_adds=0.5)
        pc.decide(posterior, model, data, narrow, say=lambda line: None)


def test_python_takes_the_road_too(seqs: Path) -> None:
    import seqs as mine

    data, network = mine.data(), fresh()
    model = pc.BayesianNetwork(network, {"lstm.weight*": "log-uniform", "out.weight": "log-uniform"})
    assert model.coverage.covered == 512 + 24
    with pytest.warns(pc.errors.UnstorableWarning, match="a file will hold its weights alone"):
        posterior = pc.fit(model, data, pc.inference.SVI(epochs=1), seed=0)
    assert (posterior.parameters["lstm.weight_hh_l0"].variance > 0).all()
    cut = pc.analysis.prune(posterior, log_alpha=-1.0)
    artifact = pc.compress(model, cut, data=data)
    assert artifact.kind == "weights"
    recurrent = artifact.numbers()["lstm.weight_hh_l0"]
    np.testing.assert_array_equal(recurrent, cut.sites["lstm.weight_hh_l0"].stored())
    assert 0 < np.count_nonzero(recurrent) < recurrent.size
    with pytest.raises(UnstorableError, match=r"no runnable file can hold the network: .*take the kind 'weights'"):
        pc.compress(model, cut, data=data, kind="runnable")


class Tied(nn.Module):
    """Two layers of one weight, and a batch norm at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.again = self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.again(self.second(self.norm(self.first(x)).cumsum(1)))
        return found


@pytest.mark.parametrize("bits", [4, 32])
def test_what_has_several_names_in_a_module_is_what_was_decided_under_all_of_them(bits: int) -> None:
    """A decision knows it by the first name, and a state dict by all."""
    torch.manual_seed(0)
    given, fitted = Tied(), Tied()
    grid = Uniform(0.25) if bits == 4 else None

    def site(value: torch.Tensor) -> SiteDecision:
        numbers = (value.detach() * 4).round().numpy() / 4
        return SiteDecision(numbers, np.zeros_like(numbers), np.full(numbers.shape, bits, np.uint8), grid)

    fitted(torch.randn(9, 6))
    sites = {name: site(value) for name, value in fitted.named_parameters()}
    buffers = {name: value.numpy() for name, value in fitted.named_buffers() if value.is_floating_point()}
    artifact = pc.compress(given, Decision(sites, buffers), (6,), kind="weights")
    decoded = artifact.load_into(Tied())
    state = decoded.state_dict()
    for name, other in (("first", "second"), ("norm", "again")):
        np.testing.assert_array_equal(state[f"{other}.weight"].numpy(), sites[f"{name}.weight"].value)
    for kind in ("running_mean", "running_var"):
        np.testing.assert_array_equal(state[f"again.{kind}"].numpy(), buffers[f"norm.{kind}"])


BESIDE = """
import torch
from torch import nn

from pyro_compress.data import as_data


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 2)
        self.register_buffer("drawn", torch.randn(6, 8) / 2, persistent=False)
        self.register_buffer("order", torch.randperm(6), persistent=False)
        self.register_buffer("centre", torch.zeros(6), persistent=False)
        self.register_buffer("table", torch.arange(500.0).sin(), persistent=False)
        self.register_buffer("places", torch.arange(500), persistent=False)
        self.register_buffer("short", torch.zeros(3, dtype=torch.uint16), persistent=False)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(x.mean(0), 0.1)
        return self.out(((x - self.centre)[:, self.order] @ self.drawn).cumsum(1)) + self.table[0]


def net():
    return Projected()


def _part(count, seed):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + 2
    return x, (x[:, 0] + x[:, 1] > x[:, 2] + 2).long()


def data():
    return as_data(_part(400, 0), validation=_part(100, 1), test=_part(200, 2), name="planes", classes=2)
"""


def test_buffers_that_no_state_dict_lists_are_in_the_file_unless_they_come_back(seqs: Path) -> None:
    (seqs / "beside.py").write_text(BESIDE)
    options = [option.replace("seqs:", "beside:") for option in OPTIONS]
    pretrained = ("--pretrain-epochs", "1")
    called = cli("run", "--network", "beside:net", *options, *pretrained, "--out", "beside")
    assert called.code == 0, called.err
    import beside  # type: ignore[import-not-found]

    results, artifact = json.loads((seqs / "beside" / "results.json").read_text()), pc.load(seqs / "beside")
    # a table of sines is the same however often it is made, and costs nothing
    assert set(artifact.numbers()) == {"out.weight", "out.bias", "drawn", "order", "centre"}
    np.testing.assert_allclose(artifact.numbers()["centre"], 2, atol=0.3)
    found = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        network, data = artifact.load_into(beside.net()).eval(), beside.data()
        with torch.no_grad():
            found.append(100 * float((network(data.test_x).argmax(1) != data.test_y).double().mean()))
    assert found == [pytest.approx(results["error_after_percent"])] * 2
    assert found[0] < 20
    # nobody can say what a module that is given would be, made again
    decision = Decision.load(seqs / "beside" / "decision.safetensors")
    kept = {"out.weight", "out.bias", "drawn", "centre", "table"}
    assert set(pc.compress(beside.net(), decision, (6,)).numbers()) == kept
    older = {name: value for name, value in artifact.state_dict().items() if name in beside.net().state_dict()}
    load_into(beside.net(), older)
    sys.modules.pop("beside", None)
