"""Public names that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pyro_compress.extras import missing


def lazy_names(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public `names` stand in the modules they map to.

    A name that maps to itself within the package (`"models": "pyro_compress.models"`) is that subpackage.
    One whose module needs a package that is not installed raises `MissingPackageError`.
    """

    def get_attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        try:
            module = importlib.import_module(names[name])
        except ImportError as error:
            raise missing(f"{package}.{name}", error) or error from error
        value = module if names[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get_attribute, list_names
