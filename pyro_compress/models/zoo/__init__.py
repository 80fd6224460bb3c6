"""The zoo: one file per entry, each with a module-level ENTRY."""

import importlib
import pkgutil
from functools import cache

from pyro_compress.errors import RunError, unknown_name
from pyro_compress.models.zoo.entry import Entry


@cache
def entries() -> dict[str, Entry]:
    """All entries by name."""
    found: dict[str, Entry] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        if module != "entry":
            entry = importlib.import_module(f"{__name__}.{module}").ENTRY
            found[entry.name] = entry
    return found


def entry(name: str) -> Entry:
    """One entry.

    Raises:
        RunError: unknown name; lists the known ones and the nearest match.
    """
    if name not in entries():
        raise RunError(unknown_name("zoo entry", name, entries()))
    return entries()[name]
