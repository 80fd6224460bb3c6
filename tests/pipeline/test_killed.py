"""A sampler's run that was killed (SIGKILL) in the middle of a round goes on bit for bit, draws on disk included."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_compress.posterior.posterior import Posterior
from tests.pipeline.conftest import Cli

# dies while it writes a draw that no checkpoint knows of
KILLED = """
import os, signal, sys
from pyro_compress.inference.results.draw_store import DrawStore

add = DrawStore.add
def dying(self, *arguments):
    add(self, *arguments)
    if self.filled == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
DrawStore.add = dying
from pyro_compress.cli.app import app
app(sys.argv[2:])
"""
METHODS = {
    "nuts": ("--chains", "2", "--draws", "60", "--set", "method.warmup=70", "--set", "method.max_tree_depth=3"),
    "sgld": ("--chains", "2", "--draws", "60", "--epochs", "12", "--set", "method.batch_size=16"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_bit_for_bit(cli: Cli, user: Path, method: str) -> None:
    # one byte may lie in memory, so all draws lie on disk
    words = (
        "fit", "--network", "mine:net", "--prior", "normal", "--data", "mine:data", "--inference", method,
        *METHODS[method], "--set", "method.memory_limit_bytes=1", "--threads", "1",
    )  # fmt: skip
    arguments = [sys.executable, "-c", KILLED, "47", *words, "--out", "killed"]
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(user), *filter(None, sys.path)])}
    killed = subprocess.run(arguments, env=environment, cwd=user, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (user / "killed" / "checkpoint.pt").exists() and not (user / "killed" / "posterior.safetensors").exists()
    on_disk = np.load(user / "killed" / "checkpoint.pt.draws" / "draws.npy", mmap_mode="r")
    assert on_disk.shape == (2, 60, 83) and on_disk[:, 46].any() and not on_disk[:, 47].any()
    resumed = cli("fit", "--resume", "killed")
    assert resumed.code == 0, resumed.err
    assert cli(*words, "--out", "whole").code == 0
    found, expected = (Posterior.load(user / name / "posterior.safetensors").draws for name in ("killed", "whole"))
    assert found is not None and expected is not None and isinstance(found.flat, np.memmap)
    np.testing.assert_array_equal(found.flat, expected.flat)
    assert set(found.statistics) == set(expected.statistics)
    for name, values in expected.statistics.items():
        np.testing.assert_array_equal(found.statistics[name], values)
