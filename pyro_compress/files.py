"""Files that are whole or not there: what is written lies beside the old one, reaches the disk, and takes its name."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the name `target` at the end; where anything fails, the old one stays.

    Raises:
        OSError: it cannot be written; names the folder where that is missing.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=target.name + ".", suffix=".partial", dir=target.parent)
    except OSError as error:
        # nobody has heard of the partial file
        where = target if target.parent.is_dir() else target.parent
        raise OSError(error.errno, error.strerror, str(where)) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(target: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, as `replacing` does."""
    with replacing(target) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
