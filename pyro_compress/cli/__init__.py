"""The command line: options, printing and nothing that a call from Python could not do."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.cli.app import main

_NAMES = {"main": "pyro_compress.cli.app"}
__all__ = ["main"]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
