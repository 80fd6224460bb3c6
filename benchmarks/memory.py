"""Peak resident memory of training, each case in a process of its own.

    python -m benchmarks.memory                # LeNet-5 plain and by SVI, and a step of VGG-16
    python -m benchmarks.memory --cases vgg-16

Cases: 'plain' and 'svi' train LeNet-5 for a number of steps on images of MNIST's shape, batch 128, held in memory as a
data set of 55,000; 'vgg-16' takes two steps of SVI under the group horseshoe at batch 128.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import lenet_5, vgg_16
from pyro_compress.models.priors.horseshoe import GroupHorseshoe

SIZE, BATCH = 55_000, 128


def images(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Random ones."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, *shape, generator=generator), torch.randint(0, 10, (count,), generator=generator)


def plain(steps: int) -> None:
    """Fused Adam on LeNet-5."""
    (x, y), network = images(SIZE, 1, 28, 28), lenet_5()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for step in range(steps):
        chosen = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        F.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()


def svi(steps: int) -> None:
    """The same under the group horseshoe; recorded, and compiled, as in a run."""
    x, y = images(SIZE, 1, 28, 28)
    method = SVI(epochs=14, batch_size=BATCH)
    state = method.init(BayesianNetwork(lenet_5(), GroupHorseshoe()), SIZE, 0)
    for step in range(steps):
        chosen = slice(step * BATCH, (step + 1) * BATCH)
        method.step(state, (x[chosen], y[chosen]))


def vgg(steps: int) -> None:
    """Two steps, whatever is asked for."""
    batch = images(BATCH, 3, 32, 32)
    method = SVI(epochs=100, batch_size=BATCH)
    state = method.init(BayesianNetwork(vgg_16(), GroupHorseshoe()), 45_000, 0)
    state.model.network.train()
    for _ in range(2):
        method.step(state, batch)


CASES: dict[str, Callable[[int], None]] = {"plain": plain, "svi": svi, "vgg-16": vgg}


def main() -> None:
    """Run every case in a process, and print what each held at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--here", choices=list(CASES), help="run one in this process, and print its figure alone")
    given = parser.parse_args()
    if given.here:
        CASES[given.here](given.steps)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    found = {}
    for case in given.cases:
        command = [sys.executable, "-m", "benchmarks.memory", "--here", case, "--steps", str(given.steps)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[case] = int(said.split()[-1]) / 2**20
        print(f"| {case} | {found[case]:,.0f} MiB |", flush=True)
    if {"plain", "svi"} <= set(found):
        print(f"SVI holds {found['svi'] / found['plain']:.2f} times what plain training does (goal: 1.5)")


if __name__ == "__main__":
    main()
