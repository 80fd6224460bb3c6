"""A prior, a method and a network of another package, installed beside this one, go the whole road by their names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_compress.errors import PriorError
from pyro_compress.models.priors.registry import PRIORS

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


def install(folder: Path, entry_points: str = ENTRY_POINTS) -> None:
    """As pip leaves a package: its module, and what it says of itself."""
    (folder / "third_party.py").write_text(MODULE)
    said = folder / "third_party-1.0.dist-info"
    said.mkdir()
    (said / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (said / "entry_points.txt").write_text(entry_points)


def test_a_package_brings_prior_method_and_network(tmp_path: Path) -> None:
    install(tmp_path)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [
        *("run", "--network", "third_party:network", "--prior", "laplace", "--inference", "averaged"),
        *("--data", "digits", "--epochs", "2", "--threads", "1", "--out", str(tmp_path / "run"), "--json"),
        *("--set", "prior.scale=0.3", "--set", "method.averaging=0.25", "--set", "decision.fine_tune_epochs=1"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pyro_compress", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["prior"], results["method"]) == ("laplace", "averaged")
    assert results["file_bytes"] == (tmp_path / "run" / "network.pyrc").stat().st_size
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["prior_options"] == {"scale": 0.3} and settings["method_options"]["averaging"] == 0.25


def test_names_that_are_taken_and_entries_that_lead_nowhere_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    PRIORS.__dict__.pop("installed", None)
    try:
        assert "laplace" in PRIORS and PRIORS.build("laplace", {"scale": 0.5})
        with pytest.raises(PriorError, match="prior 'broken' of an installed package cannot be loaded"):
            PRIORS.build("broken")
        taken = "[pyro_compress.priors]\nnormal = third_party:Laplace\n"
        (tmp_path / "third_party-1.0.dist-info" / "entry_points.txt").write_text(taken)
        PRIORS.__dict__.pop("installed", None)
        with pytest.raises(PriorError, match="third_party:Laplace wants to be prior 'normal', which there is already"):
            PRIORS.build("laplace")
        assert PRIORS.build("normal")
    finally:
        PRIORS.__dict__.pop("installed", None)
        sys.modules.pop("third_party", None)
