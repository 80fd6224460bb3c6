"""The files of one run.

settings.json  teacher/  teacher.safetensors  initial.safetensors  rewritten.safetensors  checkpoint.pt
posterior.safetensors  posterior.draws/  moments.safetensors  decision.safetensors  refined.safetensors  network.pyrc
results.json  diagnosis.json  uncertainty.json  timings.json  figures/
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.errors import ArtifactError, RunError, warn
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

    def artifact(self) -> Artifact:
        """The run's file, read and checked.

        Raises:
            RunError: it is damaged, and can be written again.
            ArtifactError: there is none, or it cannot be read.
        """
        try:
            return load(self.file)
        except ArtifactError as error:
            if not self.file.exists() or not self.decision.exists():
                raise
            # behind a semicolon stands what helps with files that were fetched from somewhere
            reason = str(error).removeprefix(f"{self.file}: ").partition(";")[0]
            raise RunError(
                f"{self.file} is damaged ({reason}): write it again with `pyro-compress compress {self.path}`"
            ) from error

    @contextmanager
    def timed(self, step: str, *, again: bool = False) -> Iterator[Callable[[], None]]:
        """Notes the wall and the processor time of what is done within, also of what is interrupted.

        Args:
            step: by whose name.
            again: the step was finished before: once it is done anew, its time takes the place of the former.

        Yields:
            What notes the time so far, for whoever may be killed.
        """
        before = _seconds_so_far()

        def note() -> None:
            nonlocal before
            present = _seconds_so_far()
            self.note_seconds(step, *(after - start for after, start in zip(present, before, strict=True)))
            before = present

        try:
            yield note
        except BaseException:
            if not again:
                note()
            raise
        if again:
            self.forget_seconds(step)
        note()

    def note_seconds(self, step: str, wall: float, processor: float) -> None:
        """Add to the times of a step; resumed steps add up."""
        found = self.seconds()
        for clock, seconds in (("wall", wall), ("processor", processor)):
            found[clock][step] = found[clock].get(step, 0.0) + seconds
        self.write_seconds(found)

    def forget_seconds(self, step: str) -> None:
        """Drop the times of a step whose outcome is gone."""
        self.write_seconds(
            {clock: {n: s for n, s in held.items() if n != step} for clock, held in self.seconds().items()}
        )

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


def _seconds_so_far() -> tuple[float, float]:
    """By clock: wall, and processor of this process, its threads, and processes that it started and that have ended."""
    spent = os.times()
    return time.perf_counter(), spent.user + spent.system + spent.children_user + spent.children_system
