"""The lazy public names: what type checkers are told is what a program gets."""

import ast
import importlib
import operator
import types
from pathlib import Path

import pytest

import pyro_compress

PACKAGE = Path(pyro_compress.__file__).parent
LAZY = [
    ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    for path in sorted(PACKAGE.rglob("__init__.py"))
    if "lazy_names(" in path.read_text(encoding="utf-8")
]


def imports_for_type_checkers(package: str) -> dict[str, str]:
    """Name -> where it comes from, of the imports under `if TYPE_CHECKING:` in a package's `__init__`."""
    source = Path(str(importlib.import_module(package).__file__)).read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    assert [ast.unparse(block.test) for block in blocks] == ["TYPE_CHECKING"]
    found = {}
    for node in blocks[0].body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            found[alias.name] = f"{package}.{alias.name}" if node.module == package else node.module
    return found


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_those_that_type_checkers_see(package: str) -> None:
    module = importlib.import_module(package)
    assert imports_for_type_checkers(package) == module._NAMES
    assert {name for name in module.__all__ if not name.startswith("__")} == set(module._NAMES)


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_resolves_and_is_listed(package: str) -> None:
    module = importlib.import_module(package)
    for name, home in module._NAMES.items():
        value = getattr(module, name)
        is_module = home == f"{package}.{name}"
        assert value is (importlib.import_module(home) if is_module else getattr(importlib.import_module(home), name))
        assert name in dir(module)
        assert isinstance(value, types.ModuleType) == is_module


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pyro_compress' has no attribute 'nonsense'"):
        operator.attrgetter("nonsense")(pyro_compress)
