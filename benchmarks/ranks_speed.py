"""Throughput of two ranks against one on the same batches, each rank with one core; a ratio within one run.

    python benchmarks/ranks_speed.py
    python benchmarks/ranks_speed.py lenet-5 --batch-sizes 128 512 --profile

Two processes are started.  In turn the first fits alone while the other sleeps, and both fit together, each on its half
of every batch; the ratio is that of the seconds of neighbouring turns, and the table holds its median and range.
Beside it stands the same ratio of processor time, what a rank does in place of what one process does: on cores that
others use too it says more, but knows of no waiting.
"""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from pyro_compress import models
from pyro_compress.inference.loop.processes import Ranks, joined
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.registry import PRIORS

NETWORKS = {"lenet-5": ("lenet_5", (1, 28, 28)), "lenet-300-100": ("lenet_300_100", (1, 28, 28))}
USUAL = (("lenet-5", 128), ("lenet-5", 512), ("lenet-300-100", 128), ("lenet-300-100", 1024))
# a batch shape is replayed from a graph after so many steps
WARM_UP = 310


class Side:
    """A fit of its own, alone or as one of the ranks; a turn is some steps on batches of random pixels."""

    def __init__(self, network: str, prior: str, batch: int, ranks: Ranks) -> None:
        name, shape = NETWORKS[network]
        torch.manual_seed(0)
        model = BayesianNetwork(getattr(models, name)(), PRIORS.build(prior), Categorical())
        self.method, self.ranks = SVI(epochs=1000, batch_size=batch), ranks
        self.state = self.method.init(model, 55_000, 0)
        self.state.join(ranks)
        self.x, self.y = torch.rand(batch, *shape), torch.randint(10, (batch,))

    def turn(self, steps: int) -> tuple[float, float]:
        """Wall seconds of that many steps, and the processor's."""
        started, spent = time.perf_counter(), time.process_time()
        for _ in range(steps):
            rows = self.ranks.share_of(torch.arange(len(self.x)))
            self.method.step(self.state, (self.x[rows], self.y[rows]))
        return time.perf_counter() - started, time.process_time() - spent


class Spent:
    """Seconds that one call has taken so far."""

    def __init__(self, call: Callable[..., object]) -> None:
        self.call, self.seconds = call, 0.0

    def __call__(self, *arguments: object) -> object:
        started = time.perf_counter()
        try:
            return self.call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started


def ratios(ranks: Ranks, network: str, prior: str, batch: int, turns: int, seconds: float) -> Iterator[str]:
    """Rows of the table, on the first rank."""
    alone = Side(network, prior, batch, Ranks()) if ranks.first else None
    shared = Side(network, prior, batch, ranks)
    if alone is not None:
        alone.turn(WARM_UP)
    shared.turn(WARM_UP)
    steps = max(5, ranks.from_first(lambda: round(seconds * 5 / alone.turn(5)[0]) if alone else 0))
    whole, message = Spent(ranks.average), Spent(ranks._sum)
    ranks.average, ranks._sum = whole, message  # type: ignore[method-assign, assignment]
    found, work = [], []
    for _ in range(turns):
        ranks.wait()
        one, one_spent = alone.turn(steps) if alone is not None else (0.0, 0.0)
        ranks.wait()
        two, two_spent = shared.turn(steps)
        work.append(one_spent / max(ranks.of_all(two_spent)))
        found.append(one / two)
    if ranks.first:
        count = sum(one.numel() for one in shared.state.trained())
        yield (
            f"| {network} | {prior} | {batch} | {1e3 * one / steps:.1f} | {1e3 * two / steps:.1f} | "
            f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f}) | "
            f"{statistics.median(work):.2f} | {4 * count / 2**20:.1f} | "
            f"{1e3 * whole.seconds / (turns * steps):.2f} | {1e3 * message.seconds / (turns * steps):.2f} |"
        )


def work(rank: int, port: int, given: argparse.Namespace) -> None:
    """One of the two processes, on a core of its own."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    own = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()})
    rows = [(name, size) for name, size in USUAL if not given.networks or name in given.networks]
    if given.batch_sizes:
        rows = [(name, size) for name in given.networks or NETWORKS for size in given.batch_sizes]
    with joined() as ranks:
        for network, batch in rows:
            for line in ratios(Ranks(ranks.rank, ranks.count), network, given.prior, batch, given.turns, given.seconds):
                print(line, flush=True)
            dist.barrier()


def main() -> None:
    """Start both processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS])
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--prior", default="group-horseshoe")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn of one rank")
    given = parser.parse_args()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {len(os.sched_getaffinity(0))} cores")
    heads = ("network", "prior", "batch", "ms alone", "ms on two ranks", "throughput", "of work", "MiB sent")
    print(f"| {' | '.join(heads)} | ms averaging | of it in all-reduce |\n" + "| --- " * 10 + "|", flush=True)
    spawn(work, (port, given), nprocs=2)


if __name__ == "__main__":
    main()
