"""The command line's process keeps memory that tensors have left."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from pyro_compress.cli.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return sum(float(each.sum()) for each in [torch.ones(4 * 2**20) for _ in range(6)])  # 16 MiB each
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_a_tensor_takes_the_pages_of_the_one_before() -> None:
    found = {"kept": [], "given back": []}  # type: dict[str, list[int]]
    for how, faults in 2 * list(found.items()):
        run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True)
        faults.append(int(run.stdout))
    # ten steps of 96 MiB are 245,760 pages of 4 KiB; where addresses fall decides on some of them
    assert 2 * min(found["kept"]) < max(found["given back"])
