"""`module:factory` on the command line: a function of the user's own that makes a data set or a network."""

import importlib
import sys
from pathlib import Path
from typing import Any

from pyro_compress.errors import PyroCompressError


def call_factory(spec: str, option: str, error: type[PyroCompressError]) -> Any:
    """Import `module` and return what its `factory()` returns.

    `spec` is `module:factory`; the module may be dotted and may lie in the current folder.  `option` names
    the command-line option in the sentences (`--data`).  Raises `error` when the spec has another form, the
    module or the factory is not found, or the user's own code fails (its exception is kept as the cause).
    """
    module_name, separator, factory_name = spec.partition(":")
    if not (module_name and separator and factory_name.isidentifier()):
        raise error(f"{option} takes module:factory, for example mypackage.mymodule:make; found '{spec}'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file of the user's can't hide an installed package
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as failure:
        if isinstance(failure, ModuleNotFoundError) and _is_within(failure.name, module_name):
            what = f"no module '{failure.name}' is installed or lies in {here}"
        else:
            what = f"importing '{module_name}' failed with {type(failure).__name__}: {failure}"
        raise error(f"{option} {spec}: {what}") from failure
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise error(f"{option} {spec}: module '{module_name}' has no function '{factory_name}'")
    try:
        return factory()
    except (Exception, SystemExit) as failure:
        said = " ".join(str(failure).split())
        raise error(f"{option} {spec}: {factory_name}() failed with {type(failure).__name__}: {said}") from failure


def _is_within(missing: str | None, wanted: str) -> bool:
    """Whether the missing module is the wanted one or one of its parents, rather than something it imports."""
    return missing is not None and (wanted == missing or wanted.startswith(missing + "."))
