"""Fixtures that more than one test file needs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_compress.data.files import ENVIRONMENT_VARIABLE, MNIST_FILES

NIGHTLY = Path(__file__).with_name("nightly.txt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run tests that are too long for every run, and no others")
    parser.addoption("--programs-alone", action="store_true", help="record and compile nothing: what speed is held to")


@pytest.fixture(autouse=True)
def _programs_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--programs-alone"):
        yield
        return
    # not above: some tests run where there is no torch
    from pyro_compress.inference.speed.recording import programs_alone

    with programs_alone():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `nightly` or stands in nightly.txt, which others beside it nearly cover; or the rest."""
    listed = set(NIGHTLY.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in listed:
            item.add_marker("nightly")
    if not any("::" in argument for argument in config.args):
        files, found = ({node(item.nodeid) for item in items} for node in (lambda name: name.split("::")[0], str))
        if gone := sorted(name for name in listed - found if name.split("::")[0] in files):
            raise pytest.UsageError(f"{NIGHTLY} names tests that are not there: {', '.join(gone)}")
    nightly = bool(config.getoption("--nightly"))
    left_out = [item for item in items if ("nightly" in item.keywords) != nightly]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if ("nightly" in item.keywords) == nightly]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The data folder that holds MNIST; without it the test is skipped, or fails where MNIST is required."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        raw = Path(named) / "MNIST" / "raw"
        if all((raw / name).is_file() or (raw / f"{name}.gz").is_file() for name in MNIST_FILES):
            return Path(named)
        reason = f"the four MNIST files are not in {raw}"
    else:
        reason = f"{ENVIRONMENT_VARIABLE} doesn't name a folder that holds MNIST/raw"
    if os.environ.get("PYRO_COMPRESS_REQUIRE_MNIST"):
        pytest.fail(reason)
    pytest.skip(reason)
