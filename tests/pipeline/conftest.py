"""The command line called in this process, and the digits runs that several tests look at."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from pyro_compress.cli.app import app
from pyro_compress.pipeline import evaluation, running

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
        return x.maximum(self.inner(x))


def with_hardshrink():
    return nn.Sequential(nn.Linear(6, 8), nn.Hardshrink(), nn.Linear(8, 3))


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


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """A run sets torch's threads and flushes subnormal numbers: other tests are not to feel it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="module")
def _torch_settings() -> Iterator[None]:
    with torch_as_it_was():
        yield


def draw_nothing(folder: Path, drawn: object) -> None:
    """In place of `save_all`."""


@contextlib.contextmanager
def started_here() -> Iterator[None]:
    """Runs of sweeps and tables, one at a time, are calls in this process without figures: to start takes seconds.

    Processes that are started are in test_sweeping.py's stand-ins, and whole runs in them in test_run.py.
    """

    def call(command: Sequence[str], *, stdout: IO[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        assert [*command[:3]] == [sys.executable, "-m", "pyro_compress"]
        called = cli(*command[3:])
        stdout.write(called.out + called.err)
        return subprocess.CompletedProcess([*command], called.code)

    module = SimpleNamespace(run=call, STDOUT=subprocess.STDOUT)
    with mock.patch.object(running, "subprocess", module), mock.patch.object(evaluation, "save_all", draw_nothing):
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as all the rest of a small run."""
    monkeypatch.setattr(evaluation, "save_all", draw_nothing)


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
