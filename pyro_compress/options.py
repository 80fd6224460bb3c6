"""Keyword options of priors, methods and decisions, as the command line and settings files give them."""

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyro_compress.errors import PyroCompressError, unknown_name

T = TypeVar("T")


def build(kind: type[T], what: str, options: Mapping[str, Any], error: type[PyroCompressError]) -> T:
    """The dataclass `kind` with `options` as its fields; lists become tuples where a field is one.

    Raises:
        PyroCompressError: as `error`, for a field that does not exist or a value of another type; the sentence calls
            the dataclass `what`.
    """
    dataclass: Any = kind
    hints = get_type_hints(dataclass)
    known = [field.name for field in fields(dataclass)]
    given = dict(options)
    for name, value in options.items():
        if name not in known:
            raise error(unknown_name(f"option of {what}:", name, known))
        if not _fits(value, hints[name]):
            raise error(f"option '{name}' of {what} must be {_in_words(hints[name])}, found {value!r}")
        if isinstance(value, list):
            given[name] = tuple(value)
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inside)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(part, inside[0]) for part in value)
    if isinstance(value, bool) and hint in (int, float):
        return False
    if hint is float:
        return isinstance(value, int | float)
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _in_words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(option) for option in inside)
    if origin is tuple:
        return f"a list, each {_in_words(inside[0])}"
    names = {float: "a number", int: "a whole number", str: "a word", bool: "True or False", type(None): "None"}
    kind = origin or hint
    return names.get(kind, "a mapping" if kind is Mapping else getattr(kind, "__name__", str(kind)).lower())
