"""Standard output and error that cannot hold β or × get a question mark for it, and the command its usual status."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor


def called(encoding: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "pyro_compress", *words]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def test_help_and_tables(tmp_path: Path) -> None:
    file = tmp_path / "a.pyrc"
    weight = StoredTensor(np.array([[3, -1], [0, 2]], np.int32), power_of_two(-2))
    layers = (Linear("fc", 2, 2, bias=False), Activation("relu"))
    Artifact.of(StoredNetwork(Architecture((2,), layers), {"fc.weight": weight})).save(file)
    text = called("cp1252", "run", "--help")
    assert text.returncode == 0 and b"?, weight of the KL term" in text.stdout
    shown = called("ascii", "inspect", str(file))
    assert shown.returncode == 0 and b"fc.weight" in shown.stdout, shown.stderr


def test_sentences_of_errors() -> None:
    done = called("ascii", "run", "digits-softmax/normal-β")
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: unknown zoo entry 'digits-softmax/normal-")


def test_what_a_user_asked_for_is_kept() -> None:
    assert b"\\u03b2, weight of the KL term" in called("ascii:backslashreplace", "fit", "--help").stdout
