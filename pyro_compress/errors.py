"""The exceptions and warnings that a user of this package can meet, each carrying one clear sentence.

Every message says what was wrong, where, what was expected, what was found and what to do.  The command
line prints that sentence and leaves with status 1; nobody sees a traceback for a mistake of their own.
"""

import difflib
import sys
import warnings
from collections.abc import Iterable, Sequence

# where a warning is raised says nothing to who called
_BETWEEN = ("pyro_compress", "pyro", "torch", "contextlib", "functools")


class PyroCompressError(Exception):
    """Base of all errors that this package raises on purpose.

    Attributes:
        said_elsewhere: whether another process, the first of several ranks, says it already.
    """

    said_elsewhere: bool = False


class DataError(PyroCompressError):
    """A data set is missing, truncated, corrupt or of the wrong shape."""


class NetworkError(PyroCompressError):
    """A network holds something that this package cannot treat."""


class UnstorableError(NetworkError):
    """A network that can be fitted, and whose layers no file can describe: one holds its weights alone."""


class PriorError(PyroCompressError):
    """A prior rule matches nothing, two match one parameter, or an improper prior was asked to be proper."""


class InferenceError(PyroCompressError):
    """An inference run cannot go on: non-finite loss, mismatched state, a method asked for what it cannot do."""


class DecisionError(PyroCompressError):
    """Two decisions do not fit together, or a decision does not fit its network."""


class ArtifactError(PyroCompressError):
    """Bytes that are not a valid compressed network, or a network that the format cannot hold."""


class RunError(PyroCompressError):
    """A run directory or a command's options are not what the command needs."""


class MissingPackageError(PyroCompressError, ImportError):
    """Something needs a package that was not installed; the message names the extra that brings it."""


class UnstorableWarning(UserWarning):
    """A network is fitted of which a file holds the weights alone; the message says what cannot be described."""


class SharedDrawsWarning(UserWarning):
    """Weights are drawn once per step where the estimator draws outputs per example; the message says which."""


class PosteriorWarning(UserWarning):
    """A posterior that was returned and should not be believed as it stands; the message says why and what to do."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning at the line outside this package, and what it stands on, that called it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def printable(name: str) -> str:
    """A name that comes from a file as it may stand in a sentence: on one line, whatever its characters are."""
    return name if name.isprintable() else repr(name)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence: 'a, b, c and 4 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not registered: lists the known ones and the nearest match."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"unknown {kind} '{name}': known are {', '.join(names)}.{hint}"
