"""A prior, a method and a network of another package, installed beside this one, go the whole road by their names."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_compress.errors import PriorError
from pyro_compress.inference.registry import METHODS
from pyro_compress.models.priors.registry import PRIORS
from pyro_compress.pipeline import evaluation
from tests.pipeline.conftest import cli, draw_nothing, torch_as_it_was

MODULE = """
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
from torch import nn

from pyro_compress.inference import SVI
from pyro_compress.models.priors.base import LatentSite, Prior


@dataclass(frozen=True)
class Laplace(Prior):
    scale: float = 0.2
    covers_biases: ClassVar[bool] = True

    def sample(self, parameter):
        prior = dist.Laplace(0.0, self.scale).expand(parameter.shape)
        return pyro.sample(parameter.name, prior.to_event(len(parameter.shape)))

    def latents(self, parameter, value):
        return (LatentSite(parameter.name, "normal", parameter.shape, value, -9.0, "weight"),)

    def weight_moments(self, parameter, sites):
        return sites[parameter.name].mean, sites[parameter.name].variance


@dataclass(frozen=True)
class Averaged(SVI):
    averaging: float = 0.5


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
"""
ENTRY_POINTS = """[pyro_compress.priors]
laplace = third_party:Laplace
broken = third_party:Missing
[pyro_compress.methods]
averaged = third_party:Averaged
"""


def look_again() -> None:
    """Forget which packages are installed."""
    for registry in (PRIORS, METHODS):
        registry.__dict__.pop("installed", None)


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    look_again()
    yield
    look_again()
    sys.modules.pop("third_party", None)


def install(folder: Path) -> None:
    """As pip leaves a package: its module, and what it says of itself."""
    (folder / "third_party.py").write_text(MODULE)
    said = folder / "third_party-1.0.dist-info"
    said.mkdir()
    (said / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (said / "entry_points.txt").write_text(ENTRY_POINTS)


def test_a_package_brings_prior_method_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "save_all", draw_nothing)
    words = [
        *("run", "--network", "third_party:network", "--prior", "laplace", "--inference", "averaged"),
        *("--data", "digits", "--epochs", "2", "--threads", "1", "--out", str(tmp_path / "run"), "--json"),
        *("--set", "prior.scale=0.3", "--set", "method.averaging=0.25", "--set", "decision.fine_tune_epochs=0"),
    ]
    with torch_as_it_was():
        done = cli(*words)
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert (results["prior"], results["method"]) == ("laplace", "averaged")
    assert results["file_bytes"] == (tmp_path / "run" / "network.pyrc").stat().st_size
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["prior_options"] == {"scale": 0.3} and settings["method_options"]["averaging"] == 0.25


def test_names_that_are_taken_and_entries_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    assert "laplace" in PRIORS and PRIORS.build("laplace", {"scale": 0.5})
    with pytest.raises(PriorError, match="prior 'broken' of an installed package cannot be loaded"):
        PRIORS.build("broken")
    taken = "[pyro_compress.priors]\nnormal = third_party:Laplace\n"
    (tmp_path / "third_party-1.0.dist-info" / "entry_points.txt").write_text(taken)
    look_again()
    with pytest.raises(PriorError, match="third_party:Laplace wants to be prior 'normal', which there is already"):
        PRIORS.build("laplace")
    assert PRIORS.build("normal")
