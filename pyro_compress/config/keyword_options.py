"""Options of priors, likelihoods, methods and decisions: fields of a dataclass, checked wherever they come from.

A whole number is one: True, 2.0 and '3' are none, since what asked for them may have meant something else.  Numbers of
numpy count as Python's and become these.  NaN is no value of any option.
"""

import functools
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from pyro_compress.errors import PyroCompressError, unknown_name

T = TypeVar("T")


def build(kind: type[T], what: str, options: Mapping[str, Any], error: type[PyroCompressError]) -> T:
    """The dataclass `kind` with `options` as its fields; lists become tuples where a field is one.

    Raises:
        PyroCompressError: as `error`, for a field that does not exist or a value of another type; the sentence calls
            the dataclass `what`.
    """
    dataclass: Any = kind
    known = [field.name for field in fields(dataclass)]
    given = {}
    for name, value in options.items():
        if name not in known:
            raise error(unknown_name(f"option of {what}:", name, known))
        given[name] = _checked(value, _hints(dataclass).get(name, Any), name, what, error)
    return kind(**given)


def check_options(instance: Any, error: type[PyroCompressError]) -> None:
    """For the `__post_init__` of a frozen dataclass: refuse fields whose values have another type than they declare.

    Raises:
        PyroCompressError: as `error`; names the field, what it must be and what was found.
    """
    kind: Any = type(instance)
    for name, hint in _hints(kind).items():
        value = getattr(instance, name)
        checked = _checked(value, hint, name, kind.__name__, error)
        if checked is not value:
            object.__setattr__(instance, name, checked)


def whole_number(value: Any, what: str, error: type[PyroCompressError], least: int | None = None) -> int:
    """An argument that counts something, as Python's int.

    Raises:
        PyroCompressError: as `error`, for anything else, or less than `least`; the sentence calls it `what`.
    """
    plain = _plain(value)
    if not _fits(plain, int) or (least is not None and plain < least):
        bound = "" if least is None else f" of at least {least}"
        raise error(f"{what} must be a whole number{bound}, found {value!r}")
    return int(plain)


def _checked(value: Any, hint: Any, name: str, what: str, error: type[PyroCompressError]) -> Any:
    value = _plain(value)
    if not _fits(value, hint):
        raise error(f"option '{name}' of {what} must be {_in_words(hint)}, found {value!r}")
    return tuple(_plain(part) for part in value) if isinstance(value, list) else value


@functools.lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields; of a class whose annotations cannot be looked up, none."""
    if not is_dataclass(kind):
        return {}
    try:
        hints = get_type_hints(kind)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(kind)}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.integer | np.floating | np.bool_) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    value = _plain(value)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(part, inside[0]) for part in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_fits(k, inside[0]) and _fits(v, inside[1]) for k, v in pairs)
    if isinstance(value, bool) and hint in (int, float):
        return False
    if hint is float:
        return isinstance(value, int | float) and not math.isnan(value)
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _in_words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(option) for option in inside)
    if origin is tuple:
        return f"a list, each {_in_words(inside[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping" if inside[1] is Any else f"a mapping, each value {_in_words(inside[1])}"
    names = {float: "a number", int: "a whole number", str: "a word", bool: "True or False", type(None): "None"}
    kind = origin or hint
    return names.get(kind, "a mapping" if kind is Mapping else getattr(kind, "__name__", str(kind)).lower())
