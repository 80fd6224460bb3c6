"""A process that dies while it writes leaves the whole old file; one that ends has the new one on the disk."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_compress.files import write_atomically

# Writes NEW over the file given first, and dies in the call given second, before that does anything.
DIES = """
import os, sys
from pathlib import Path
from pyro_compress.files import write_atomically
def die(*arguments, **keywords):
    os._exit(7)
setattr({"replace": Path}.get(sys.argv[2], os), sys.argv[2], die)
write_atomically(Path(sys.argv[1]), b"NEW" * 1000)
"""


@pytest.mark.parametrize("call", ["fdopen", "fsync", "replace"])
def test_a_crash_leaves_the_old_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "net.pyrc"
    path.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", DIES, path, call], check=False).returncode == 7
    assert path.read_bytes() == b"old"


def test_file_and_folder_reach_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content before the name, and the name before the call returns."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> Path:
        assert source.read_bytes() == b"new"
        calls.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "net.pyrc", b"new")
    assert calls == ["file", "rename", "folder"]
    assert (tmp_path / "net.pyrc").read_bytes() == b"new"


def test_what_cannot_be_written_is_named_and_no_partial_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for missing in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(OSError, match="directory") as failure:
            write_atomically(missing / "net.pyrc", b"new")
        assert failure.value.filename == str(missing)
    with pytest.raises(OSError, match="too long") as failure:
        write_atomically(tmp_path / ("a" * 300), b"new")
    assert failure.value.filename == str(tmp_path / ("a" * 300))
