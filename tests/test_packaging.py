"""The package as a user installs it: a wheel built from the sdist, imported from another place."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
    for path in (ROOT / "pyro_compress").rglob("*.py")
)
SHIPPED = {
    path.relative_to(ROOT).as_posix()
    for ending in ("pyrc", "json")
    for path in (ROOT / "pyro_compress" / "shipped").glob(f"*/*.{ending}")
}
DATA_FILES = {"pyro_compress/py.typed", "pyro_compress/artifact/FORMAT.md"} | SHIPPED


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel made from that sdist, and `installed`, where the wheel's content is.

    It is built from a copy of the checkout, links kept, without what earlier builds left there: setuptools
    puts every file that an old egg-info lists into a new sdist.
    """
    folder = tmp_path_factory.mktemp("packaging")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs")
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=left_out)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "checkout", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index")
    run(*pip, "--no-deps", "--target", folder / "installed", wheel, cwd=folder)
    return folder


def test_the_links_are_part_of_the_checkout_that_is_built(built: Path) -> None:
    for name in ("models", "inference", "analysis"):
        assert (built / "checkout" / name).is_symlink()
        assert (built / "checkout" / name).resolve() == built / "checkout" / "pyro_compress" / name


def test_sdist_holds_every_module_once(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pyro_compress").rglob("*.py")}
    assert sources | DATA_FILES | {"LICENSE", "pyproject.toml"} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.split("/")[0] in {"models", "inference", "analysis"}]


def test_wheel_installs_the_package_and_nothing_generic(built: Path) -> None:
    installed = built / "installed"
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} <= {
        "pyro_compress",
        "bin",
    }
    for name in DATA_FILES:
        assert (installed / name).is_file()
    (licence,) = installed.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text(encoding="utf-8")


def test_every_module_imports_from_where_it_was_installed(built: Path) -> None:
    elsewhere = built / "elsewhere"
    elsewhere.mkdir()
    # -I leaves out the current folder and PYTHONPATH, and the installed copy goes before an editable install
    program = f"""
import importlib, sys
sys.path.insert(0, {str(built / "installed")!r})
for name in {MODULES!r}:
    print(importlib.import_module(name).__file__)
"""
    files = run(sys.executable, "-I", "-c", program, cwd=elsewhere).split()
    assert len(files) == len(MODULES)
    assert all(Path(file).is_relative_to(built / "installed") for file in files)
