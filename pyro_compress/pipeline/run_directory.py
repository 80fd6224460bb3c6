"""The files of one run.

settings.json  teacher/  teacher.safetensors  initial.safetensors  rewritten.safetensors  checkpoint.pt
posterior.safetensors  posterior.draws/  moments.safetensors  decision.safetensors  refined.safetensors  network.pyrc
results.json  diagnosis.json  uncertainty.json  timings.json  figures/
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compress.errors import RunError, warn
from pyro_compress.files import write_atomically

# steps that end in a posterior, by their names in timings.json; the others decide by it
FITTING = ("pretrain", "fit")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher.safetensors"

    @property
    def teacher_run(self) -> "RunDirectory":
        """Of a teacher that is a zoo entry and is fitted first."""
        return RunDirectory(self.path / "teacher")

    @property
    def initial(self) -> Path:
        return self.path / "initial.safetensors"

    @property
    def rewritten(self) -> Path:
        return self.path / "rewritten.safetensors"

    @property
    def posterior(self) -> Path:
        return self.path / "posterior.safetensors"

    @property
    def moments(self) -> Path:
        return self.path / "moments.safetensors"

    @property
    def decision(self) -> Path:
        return self.path / "decision.safetensors"

    @property
    def refined(self) -> Path:
        return self.path / "refined.safetensors"

    @property
    def stored_decision(self) -> Path:
        """The decision that the file holds: refined to a target, or as it was made."""
        return self.refined if self.refined.exists() else self.decision

    @property
    def file(self) -> Path:
        return self.path / "network.pyrc"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def diagnosis(self) -> Path:
        return self.path / "diagnosis.json"

    @property
    def uncertainty(self) -> Path:
        return self.path / "uncertainty.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def timings(self) -> Path:
        return self.path / "timings.json"

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Notes the wall and the processor time of what is done within, also of what is interrupted."""
        wall, processor = time.perf_counter(), _processor_seconds()
        try:
            yield
        finally:
            self.note_seconds(step, time.perf_counter() - wall, _processor_seconds() - processor)

    def note_seconds(self, step: str, wall: float, processor: float) -> None:
        """Add to the times of a step; resumed steps add up."""
        found = self.seconds()
        for clock, seconds in (("wall", wall), ("processor", processor)):
            found[clock][step] = found[clock].get(step, 0.0) + seconds
        self.write_seconds(found)

    def write_seconds(self, found: Mapping[str, Mapping[str, float]]) -> None:
        """Instead of what was noted so far."""
        write_atomically(self.timings, json.dumps(found) + "\n")

    def seconds(self) -> dict[str, dict[str, float]]:
        """Seconds per step so far, by clock: 'wall' and 'processor', the latter of all threads of this process."""
        nothing: dict[str, dict[str, float]] = {"wall": {}, "processor": {}}
        if not self.timings.exists():
            return nothing
        try:
            found = json.loads(self.timings.read_text())
            return {clock: {str(step): float(s) for step, s in found[clock].items()} for clock in nothing}
        except (ValueError, TypeError, KeyError, AttributeError):
            # no reason to lose what took the time
            warn(f"{self.timings} is damaged: the seconds that it held are lost, and counting starts anew")
            return nothing


def results_in(path: Path) -> dict[str, Any]:
    """What `evaluate` wrote.

    Raises:
        RunError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if not {"file_bytes", "seed"} <= found.keys():
            raise ValueError("no results of a run")
    except (ValueError, AttributeError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}): measure again with `pyro-compress evaluate {path.parent}`"
        ) from error
    return found


def _processor_seconds() -> float:
    """Of this process, its threads, and processes that it started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
