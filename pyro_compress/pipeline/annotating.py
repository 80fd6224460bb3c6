"""`pyro-compress annotate`: what a compressed file says of itself, changed entry by entry."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_compress import shipped
from pyro_compress.artifact.writing.artifact import load
from pyro_compress.errors import RunError


def annotate_file(path: Path, entries: Sequence[str]) -> tuple[int, int]:
    """Change the metadata of a file in its place; gives its length before and after.

    Args:
        path: of a .pyrc file.
        entries: NAME=VALUE each; VALUE is JSON, or else a text; an empty one removes the entry.

    Raises:
        ArtifactError: the file is missing or damaged, or the metadata are too long.
        RunError: an entry is no NAME=VALUE, removes what is not there, or the file is one that is shipped.
    """
    artifact = load(path)
    if path.resolve().is_relative_to(shipped.FOLDER.resolve()):
        raise RunError(f"{path} comes with the package: copy it, and annotate the copy")
    said: dict[str, Any] = dict(artifact.metadata)
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise RunError(f"metadata are given as NAME=VALUE, '{entry}' is not: write licence=MIT or classes='[1, 2]'")
        if value:
            said[name] = _read(value)
        elif name in said:
            del said[name]
        else:
            there = ", ".join(said) or "no metadata"
            raise RunError(f"{path} says nothing of '{name}' that could be removed: it has {there}")
    made = artifact.with_metadata(said)
    made.save(path)
    return len(artifact), len(made)


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
