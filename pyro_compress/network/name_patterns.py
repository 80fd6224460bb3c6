"""Options that are one number for everything, or one for each pattern of names.

Patterns are those of a shell: `fc*.weight` is the weight of every layer whose name begins with fc.
"""

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from pyro_compress.errors import PyroCompressError

Value = TypeVar("Value")
Number = TypeVar("Number", bound=float)


def by_name(
    option: str,
    given: Number | Mapping[str, Number],
    names: Collection[str],
    kind: str,
    error: type[PyroCompressError],
) -> dict[str, Number]:
    """The number of every name, from one for all or from patterns; a name that no pattern matches has none.

    Args:
        option, kind: what is given, and what the names are of, for the sentences.
        given: the number, or numbers by pattern.
        names: all there are.
        error: what is raised.

    Raises:
        PyroCompressError: there is no pattern, one matches no name, or two match one; of the class `error`.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    if not given:
        raise error(f"{option}: no {kind} has a value: give one for all, or for some of {', '.join(names)}")
    return by_pattern(option, given, names, kind, error)


def by_pattern(
    option: str, given: Mapping[str, Value], names: Collection[str], kind: str, error: type[PyroCompressError]
) -> dict[str, Value]:
    """The value of every name that a pattern matches, in the order of the patterns; see `by_name`.

    Raises:
        PyroCompressError: a pattern matches no name, or two match one; of the class `error`.
    """
    found: dict[str, Value] = {}
    first: dict[str, str] = {}
    for pattern, matched in matches(option, given, names, kind, error).items():
        for name in matched:
            if name in found:
                raise error(
                    f"{option}: '{first[name]}' and '{pattern}' both match {kind} {name}: make the patterns disjoint"
                )
            found[name], first[name] = given[pattern], pattern
    return found


def matches(
    option: str, patterns: Iterable[str], names: Collection[str], kind: str, error: type[PyroCompressError]
) -> dict[str, list[str]]:
    """The names that each pattern matches, or that it is itself.

    Raises:
        PyroCompressError: a pattern matches none; of the class `error`.
    """
    found = {}
    for pattern in patterns:
        found[pattern] = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not found[pattern]:
            raise error(f"{option}: '{pattern}' matches no {kind}: there are {', '.join(names)}")
    return found
