"""What a model reaches and torch does not record: attributes, counters, lists, random numbers of Python and numpy.

A recorded step repeats the operations on tensors that were seen once.  Where anything else that the model reads is
another one the next time, a recording would go on with what it was.  So what can be reached from the model is looked
at before and after it ran, and what is not seen that way, such as a clock, is seen where a recording and the program
are held against each other, which is done at the first calls and ever more seldom (`recording`).
"""

import functools
import operator
import random
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# packages whose own objects are no state of the user's
_LIBRARIES = {"torch", "pyro", "numpy", "pyro_compress", "builtins", "scipy", "functorch", "torchvision"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, np.generic)
# of containers and tensors so many entries are looked at, and of a model so many objects
_ENTRIES, _OBJECTS = 1000, 20_000
_RANDOM = {"random": "Python's random numbers", "numpy.random": "numpy's random numbers"}


def reachable(*roots: tuple[str, Any]) -> dict[str, Any]:
    """Marks of all that can be reached from objects, each with the name that people know it by."""
    found: dict[str, Any] = {"random": hash(random.getstate()), "numpy.random": _numpy_state()}
    seen: set[int] = set()
    queue = deque(roots)
    while queue and len(seen) < _OBJECTS:
        path, value = queue.popleft()
        if isinstance(value, _PLAIN):
            # as text, so that NaN is what it was
            found[path] = f"{type(value).__name__} {value!r}"
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        mark = _mark(value)
        if mark is not None:
            found[path] = mark
        queue.extend(_parts(path, value))
    return found


def moved(before: Mapping[str, Any], after: Mapping[str, Any], *, generators: bool = True) -> str | None:
    """What is not as it was, as a clause; None where all is.

    Args:
        before, after: what `reachable` gave.
        generators: whether the global generators of Python and numpy count.
    """
    for path in [*before, *(path for path in after if path not in before)]:
        if path in _RANDOM and not generators:
            continue
        if before.get(path) != after.get(path):
            return f"{_RANDOM[path]} are drawn while it runs" if path in _RANDOM else f"'{path}' changes while it runs"
    return None


def _numpy_state() -> Any:
    state: Any = np.random.get_state(legacy=True)
    return state[0], state[1].tobytes(), *state[2:]


def _mark(value: Any) -> Any:
    """What an object that is no container is known by."""
    if isinstance(value, Tensor):
        return _tensor_mark(value)
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.reshape(-1)[:: max(1, value.size // _ENTRIES)].tobytes()
    if isinstance(value, torch.Generator):
        return hash(value.get_state().numpy().tobytes())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState | random.Random):
        return repr(value.get_state() if isinstance(value, np.random.RandomState) else value.getstate())
    if isinstance(value, list | tuple | set | frozenset | dict | deque):
        return type(value).__name__, len(value)
    if isinstance(value, types.GeneratorType):
        return "generator", value.gi_frame.f_lasti if value.gi_frame is not None else None
    if hasattr(type(value), "__next__"):
        return repr(value) if type(value).__module__ == "itertools" else operator.length_hint(value, -1)
    return None


def _tensor_mark(value: Tensor) -> Any:
    if type(value.data) is not Tensor or value.layout != torch.strided or value.is_meta:
        return id(value), type(value).__name__
    try:
        numbers = value.detach().reshape(-1)[:: max(1, value.numel() // _ENTRIES)]
        return tuple(value.shape), str(value.dtype), numbers.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError):
        # one that a transformation left behind
        return id(value), "unreadable"


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", part) for key, part in list(value.items())[:_ENTRIES])
    elif isinstance(value, list | tuple | deque | set | frozenset):
        entries = list(value)
        chosen = (
            range(len(entries)) if len(entries) <= _ENTRIES else [*range(500), *range(len(entries) - 500, len(entries))]
        )
        yield from ((f"{path}[{index}]", entries[index]) for index in chosen)
    elif isinstance(value, nn.Module):
        yield from _module_parts(path, value)
    elif isinstance(value, types.MethodType):
        yield path, value.__self__
        yield path, value.__func__
    elif isinstance(value, functools.partial):
        yield from ((path, part) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, types.FunctionType):
        yield from _function_parts(path, value)
    elif isinstance(value, types.GeneratorType):
        yield from (
            (f"{path}.{name}", part) for name, part in (value.gi_frame.f_locals if value.gi_frame else {}).items()
        )
    elif isinstance(value, type):
        if not _is_of_library(value):
            own = {name: part for name, part in vars(value).items() if not name.startswith("__")}
            yield from ((f"{value.__name__}.{name}", part) for name, part in own.items())
    elif not isinstance(value, types.ModuleType | Tensor | np.ndarray) and not _is_of_library(type(value)):
        yield from ((f"{path}.{name}", part) for name, part in getattr(value, "__dict__", {}).items())
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        yield from ((f"{path}.{name}", getattr(value, name)) for name in slots if hasattr(value, name))
        yield from ((kind.__name__, kind) for kind in type(value).__mro__)


def _module_parts(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in module.__dict__.items():
        # parameters are what is inferred; the rest says how torch and Pyro call the module
        if name in ("_buffers", "_modules"):
            yield from ((f"{path}.{key}", inner) for key, inner in part.items())
        elif name != "_parameters" and "_hooks" not in name and not name.startswith("_pyro"):
            yield f"{path}.{name}", part
    yield from ((kind.__name__, kind) for kind in type(module).__mro__)


def _function_parts(path: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    if _is_of_library(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{name}", cell.cell_contents
        except ValueError:
            # not filled yet
            continue
    yield f"{path}.defaults", (function.__defaults__, function.__kwdefaults__)
    yield from ((f"{path}.{name}", part) for name, part in vars(function).items())
    names = _names(function.__code__)
    for name in names & function.__globals__.keys():
        part = function.__globals__[name]
        yield name, part
        if isinstance(part, types.ModuleType) and _is_own(part):
            yield from ((f"{name}.{inner}", vars(part)[inner]) for inner in names & vars(part).keys())


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def _is_of_library(value: Any) -> bool:
    top = (getattr(value, "__module__", None) or "builtins").partition(".")[0]
    return top in _LIBRARIES or top in sys.stdlib_module_names


def _is_own(module: types.ModuleType) -> bool:
    """Whether a module is the user's, and not installed."""
    name, file = module.__name__.partition(".")[0], str(getattr(module, "__file__", ""))
    return name not in _LIBRARIES and name not in sys.stdlib_module_names and "site-packages" not in file
