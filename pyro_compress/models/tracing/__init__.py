"""Modules read as plain architectures: one rule per operation, put in order of execution."""

from typing import TYPE_CHECKING

from pyro_compress._lazy import lazy_names

if TYPE_CHECKING:
    from pyro_compress.models.tracing.tracer import trace

_NAMES = {"trace": "pyro_compress.models.tracing.tracer"}
__all__ = ["trace"]
__getattr__, __dir__ = lazy_names(__name__, _NAMES)
