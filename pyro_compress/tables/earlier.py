"""What tables of before have measured, from the JSON beside their pages: run directories may be gone by then.

A value counts for the same entry, arguments, decision and seed, and as long as the entry has the settings that it had
then, of which a table notes a fingerprint.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pyro_compress.errors import RunError
from pyro_compress.models import zoo
from pyro_compress.tables.spec import Fit

# what of an entry is about its figures, and changes no run
_ABOUT = ("published", "chosen_on")
_Cell = tuple[str, tuple[str, ...], str, str, str]


@cache
def settings_id(entry: str) -> str:
    """Fingerprint of what a run of the zoo entry is asked for; '' for one that the zoo does not have."""
    if entry not in zoo.entries():
        return ""
    asked = {name: value for name, value in asdict(zoo.entry(entry)).items() if name not in _ABOUT}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Earlier:
    """Measured values and seconds.

    Attributes:
        values: by (entry, arguments, decision, key of results.json, seed).
        seconds: by (entry, arguments, seed).
        outdated: entries that have been given other settings since, whose values are left out.
    """

    values: Mapping[_Cell, Any] = field(default_factory=dict)
    seconds: Mapping[tuple[str, tuple[str, ...], str], float] = field(default_factory=dict)
    outdated: tuple[str, ...] = ()

    @staticmethod
    def read(paths: Iterable[Path]) -> "Earlier":
        """All that the files hold; of the same cell what the last of them has.

        Raises:
            RunError: there is no such file, or it is none that a table has written.
        """
        values: dict[_Cell, Any] = {}
        seconds: dict[tuple[str, tuple[str, ...], str], float] = {}
        outdated: dict[str, None] = {}
        for path in paths:
            for record in _records(path):
                entry = record["entry"]
                if entry is None or record["quick"]:
                    continue
                if record["settings_id"] != settings_id(entry):
                    outdated[entry] = None
                    continue
                arguments = tuple(record["arguments"])
                for seed, value in record["values"].items():
                    values[entry, arguments, _text(record["decision"]), record["key"], seed] = value
                for seed, value in record["seconds"].items():
                    seconds[entry, arguments, seed] = value
        return Earlier(values, seconds, tuple(outdated))

    def value(self, fit: Fit, decision: Mapping[str, Any] | None, key: str, seed: int) -> Any:
        """Of a cell and seed, None where it was not measured."""
        return self.values.get((fit.entry, fit.arguments, _text(decision), key, str(seed)))

    def holds(self, fit: Fit, decisions: Iterable[Mapping[str, Any] | None], seed: int) -> bool:
        """Whether anything was measured of each of those decisions."""
        asked = (fit.entry, fit.arguments, str(seed))
        found = {decision for entry, arguments, decision, _, of in self.values if (entry, arguments, of) == asked}
        return {_text(decision) for decision in decisions} <= found

    def seconds_of(self, fit: Fit, seed: int) -> float | None:
        """Of a fit and all that was decided from it."""
        return self.seconds.get((fit.entry, fit.arguments, str(seed)))


def _text(decision: Mapping[str, Any] | None) -> str:
    return json.dumps(decision, sort_keys=True)


def _records(path: Path) -> list[dict[str, Any]]:
    needed = {"entry", "arguments", "decision", "key", "values", "seconds", "quick", "settings_id"}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise RunError(f"--earlier {path} cannot be read: {failure.strerror}") from failure
    except ValueError as failure:
        raise RunError(f"--earlier {path} is no JSON: {failure}") from failure
    if not (isinstance(found, list) and all(isinstance(one, dict) and needed <= one.keys() for one in found)):
        raise RunError(
            f"--earlier {path} is none of the files NAME.json that `pyro-compress table NAME` writes, or of a version "
            "whose tables did not note the settings: give another, or run the table again"
        )
    return found
