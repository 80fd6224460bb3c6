"""Dotted names of parameters and sites as attributes of a module, one to one."""

from collections.abc import Iterable
from urllib.parse import unquote

from pyro.nn import PyroModule

from pyro_compress.errors import NetworkError

_JOIN = "__"
# an attribute by such a name is the module's own
_TAKEN = frozenset(dir(PyroModule("any")))


def attribute_name(dotted: str) -> str:
    """A dotted name as an attribute: 'fc1.weight' is 'fc1__weight'.

    Components in which an underscore could be taken for such a join, and names that modules have themselves, have
    their characters written as %XX, so that two names never become one.
    """
    parts = [_escaped(part) if _is_ambiguous(part) else part for part in dotted.split(".")]
    joined = _JOIN.join(parts)
    return f"%{ord(joined[0]):02X}{joined[1:]}" if joined in _TAKEN else joined


def dotted_name(attribute: str) -> str:
    """The inverse of `attribute_name`."""
    return ".".join(unquote(part) for part in attribute.split(_JOIN))


def refuse_names(names: Iterable[str], taken: Iterable[str]) -> None:
    """Refuse a network's names that are those of other sites of the model.

    Raises:
        NetworkError: names the first.
    """
    reserved = set(taken)
    for name in names:
        if name in reserved:
            raise NetworkError(
                f"the network's parameter '{name}' has the name of another site of the model: rename it (taken are "
                f"{', '.join(sorted(reserved))})"
            )


def _is_ambiguous(part: str) -> bool:
    return _JOIN in part or part.startswith("_") or part.endswith("_") or "%" in part


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("_", "%5F")
