"""Compressed networks that come with the package, each with its model card as data.

`NETWORK/PRIOR.pyrc` beside `NETWORK/PRIOR.json`, by the names of zoo entries.  They are read from the disk: nothing is
ever downloaded.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pyro_compress.errors import ArtifactError, unknown_name

FOLDER = Path(__file__).parent
FILE, CARD = ".pyrc", ".json"


@cache
def names() -> tuple[str, ...]:
    """Of all shipped networks, in order."""
    return tuple(sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob(f"*/*{FILE}")))


def path_of(given: str | Path) -> Path:
    """The file of that name on the disk, else the shipped one of that name.

    A file or folder of the user's has precedence, so that what worked goes on working when more is shipped.

    Raises:
        ArtifactError: there is neither; lists what is shipped and the nearest where it looks like such a name.
    """
    path = Path(given)
    if path.exists() or path.suffix == FILE:
        return path
    if str(given) in names():
        return FOLDER / f"{given}{FILE}"
    raise ArtifactError(f"no file of that name, and {unknown_name('shipped network', str(given), names())}")


def is_shipped(given: str | Path) -> bool:
    """Whether the name stands for a shipped network, and for nothing on the disk."""
    return str(given) in names() and not Path(given).exists()


def card(name: str) -> dict[str, Any]:
    """What is known of a shipped network: see `pipeline.cards.card_of`.

    Raises:
        ArtifactError: nothing of that name is shipped.
    """
    if name not in names():
        raise ArtifactError(unknown_name("shipped network", name, names()))
    found: dict[str, Any] = json.loads((FOLDER / f"{name}{CARD}").read_text(encoding="utf-8"))
    return found
