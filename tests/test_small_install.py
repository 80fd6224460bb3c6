"""`pip install pyro-compress` without extras: what the package declares to need is enough to read and run files."""

import os
import re
import subprocess
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from pyro_compress import extras, shipped
from pyro_compress.artifact.writing.artifact import load

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distribution_name(requirement: str) -> str:
    """`typer>=0.16` is `typer`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found.group()


def needed(names: list[str]) -> set[str]:
    """Distributions and all that they need themselves, by what is installed here."""
    found: set[str] = set()
    while names:
        name = names.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for other systems or versions of Python
            continue
        if distribution.name not in found:
            found.add(distribution.name)
            names += [distribution_name(each) for each in distribution.requires or [] if "extra ==" not in each]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with this package and what it needs without extras, as links; no network."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in needed([distribution_name(each) for each in PROJECT["dependencies"]]):
        for top in {file.parts[0] for file in metadata.files(name) or [] if ".." not in file.parts}:
            if not (site / top).exists() and (installed / top).exists():
                os.symlink(installed / top, site / top)
    os.symlink(ROOT / "pyro_compress", site / "pyro_compress")
    return python


def run(python: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([python, *words], cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_nothing_of_an_extra_is_there(bare: Path, tmp_path: Path) -> None:
    program = f"import importlib.util as u; print([n for n in {sorted(extras.EXTRAS)!r} if u.find_spec(n)])"
    assert run(bare, "-c", program, cwd=tmp_path).stdout == "[]\n"


def test_a_file_is_decoded_and_runs(bare: Path, tmp_path: Path) -> None:
    program = """
import numpy as np, pyro_compress as pc
artifact = pc.load("lenet-5/log-uniform")
x = np.random.default_rng(0).normal(size=(3, 1, 28, 28)).astype(np.float32)
np.save("outputs.npy", artifact.to_numpy()(x))
print(len(artifact), pc.load(artifact.data).sections() == artifact.sections())
"""
    done = run(bare, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(load("lenet-5/log-uniform"))), "True"]
    import torch

    x = np.random.default_rng(0).normal(size=(3, 1, 28, 28)).astype(np.float32)
    with torch.no_grad():
        expected = load("lenet-5/log-uniform").to_torch()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), expected, rtol=1e-5, atol=1e-4)


def test_commands_that_read_and_write_files_work(bare: Path, tmp_path: Path) -> None:
    name = "digits-cnn/group-horseshoe" if "digits-cnn/group-horseshoe" in shipped.names() else "lenet-5/log-uniform"
    for words in (
        ["zoo"],
        ["card", name],
        ["inspect", name],
        ["export", name, "--to", "safetensors", "out.safetensors"],
        ["unpack", name, "--out", "tensors.safetensors"],
        ["pack", "tensors.safetensors", "--out", "again.pyrc"],
        ["inspect", "again.pyrc", "--json"],
    ):
        done = run(bare, "-m", "pyro_compress", *words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "digits-cnn/none"], "pyro-compress run needs the package torch: pip install 'pyro-compress[train]'"),
        (["evaluate", "lenet-5/log-uniform"], "pyro-compress evaluate needs the package torch: pip install"),
        (["score", "lenet-5/log-uniform"], "pyro-compress score needs the package torch: pip install"),
        (
            ["export", "lenet-5/log-uniform", "--to", "onnx", "x.onnx"],
            "export to onnx needs the package onnx: pip install",
        ),
    ],
)
def test_what_needs_an_extra_names_it(words: list[str], sentence: str, bare: Path, tmp_path: Path) -> None:
    done = run(bare, "-m", "pyro_compress", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sentence}") and done.stderr.count("\n") == 1


def test_public_names_that_need_an_extra_say_so(bare: Path, tmp_path: Path) -> None:
    program = """
import pyro_compress as pc
from pyro_compress.errors import MissingPackageError
for name in ("fit", "BayesianNetwork", "evaluate"):
    try:
        getattr(pc, name)
    except MissingPackageError as error:
        print(error)
try:
    from pyro_compress.models import BayesianNetwork
except ImportError as error:
    print(error)
"""
    *lines, last = run(bare, "-c", program, cwd=tmp_path).stdout.splitlines()
    way = r"needs the package (torch|pyro-ppl): pip install 'pyro-compress\[train\]'"
    for name, line in zip(("fit", "BayesianNetwork", "evaluate"), lines, strict=True):
        assert re.fullmatch(rf"pyro_compress\.{name} {way}", line)
    assert re.fullmatch(rf"pyro_compress\.models\.BayesianNetwork {way}", last)


def test_another_failure_of_an_import_stays_what_it_is() -> None:
    assert extras.missing("this", ImportError("libfoo.so is broken", name="torch")) is None
    assert extras.missing("this", ModuleNotFoundError("no", name="my_module")) is None
    found = extras.missing("this", ModuleNotFoundError("no", name="scipy.special"))
    assert str(found) == "this needs the package scipy: pip install 'pyro-compress[train]'"


def test_extras_are_those_of_the_project_file() -> None:
    declared = {
        distribution_name(each): extra
        for extra in ("train", "onnx", "graphs", "ray", "survival")
        for each in PROJECT["optional-dependencies"][extra]
    }
    assert dict(extras.EXTRAS.values()) == declared
