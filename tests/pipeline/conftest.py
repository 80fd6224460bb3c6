"""The command line called in this process, and the digits runs that several tests look at."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pyro_compress.cli.app import app
from pyro_compress.pipeline import evaluation

USER_MODULE = """
import torch
from torch import nn

from pyro_compress.data import as_data


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x * self.inner(x)


def with_layer_norm():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def narrow():
    return nn.Sequential(nn.Linear(6, 2))


def _part(count, seed):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def data():
    return as_data(_part(200, 0), validation=_part(60, 1), test=_part(50, 2), name="thirds", classes=3)


def regression():
    parts = [(x, x @ torch.linspace(-1, 1, 18).reshape(6, 3)) for x, _ in (_part(200, 0), _part(60, 1), _part(50, 2))]
    return as_data(parts[0], validation=parts[1], test=parts[2], name="line")


def broken():
    raise ValueError("no such table")
"""


@dataclass(frozen=True)
class Called:
    """What one call of the command line left behind."""

    code: int
    out: str
    err: str


def cli(*arguments: object) -> Called:
    """Call `pyro-compress` with these arguments; an exception that it lets through is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="pyro-compress")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Called(result.exit_code, result.stdout, result.stderr)


Cli = Callable[..., Called]


@pytest.fixture(name="cli")
def _cli() -> Cli:
    return cli


@pytest.fixture(autouse=True, scope="module")
def _torch_settings() -> Iterator[None]:
    """A run sets torch's threads and flushes subnormal numbers: other tests are not to feel it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as all the rest of a small run."""
    monkeypatch.setattr(evaluation, "save_all", lambda folder, drawn: None)


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, with a user's own module `mine.py`."""
    (tmp_path / "mine.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


SETTINGS = (
    "digits-cnn/group-horseshoe", "--epochs", "3", "--pretrain-epochs", "1", "--kl-weight", "0.1", "--seed", "3",
    "--threads", "1", "--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=[0.5, 1.0]",
)  # fmt: skip
"""What every run of the digits that is compared with another one is called with."""


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory; not to be written to."""
    directory = tmp_path_factory.mktemp("digits") / "run"
    found = cli("run", *SETTINGS, "--out", directory)
    assert found.code == 0, found.err
    return directory
