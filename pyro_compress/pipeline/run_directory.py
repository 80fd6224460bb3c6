"""The files of one run.

settings.json  initial.safetensors  rewritten.safetensors  checkpoint.pt  posterior.safetensors
moments.safetensors  decision.safetensors  refined.safetensors  network.pyrc  results.json  timings.json  figures/
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyro_compress.files import write_atomically


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
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def timings(self) -> Path:
        return self.path / "timings.json"

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Notes the wall time of what is done within, also of what is interrupted."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.note_seconds(step, time.perf_counter() - started)

    def note_seconds(self, step: str, seconds: float) -> None:
        """Add to the wall time of a step; resumed steps add up."""
        found = self.seconds()
        found[step] = found.get(step, 0.0) + seconds
        write_atomically(self.timings, json.dumps(found) + "\n")

    def seconds(self) -> dict[str, float]:
        """Wall seconds per step so far."""
        return json.loads(self.timings.read_text()) if self.timings.exists() else {}
