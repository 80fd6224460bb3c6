"""Code blocks of the documentation that say ```python run are run, in order and in one namespace per page."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]
MARKED = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


def test_pages_that_show_how_to_extend_are_run() -> None:
    assert {"adding-a-prior.md", "adding-a-method.md"} <= {page.name for page in MARKED}


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_marked_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    # a real module, since dataclasses look theirs up
    module = types.ModuleType(f"docs_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start(1))
            # blank lines put tracebacks at the page's own line numbers
            exec(compile("\n" * line + block.group(1), str(page), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_named_in_the_text_exist(page: Path) -> None:
    """Paths in backticks that lead to a Python file, from the root, the package or a folder of it."""
    package = ROOT / "pyro_compress"
    folders = [ROOT, package, *(folder for folder in package.rglob("*") if folder.is_dir())]
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+\.py)`", page.read_text(encoding="utf-8")))
    missing = {name for name in named if not any((folder / name).exists() for folder in folders)}
    assert not missing
