"""Speed of stochastic-gradient samplers, as ratios in one run.

    python benchmarks/sgld_speed.py                    # the whole table, two threads
    python benchmarks/sgld_speed.py --seconds 5 lenet  # quicker, networks only

A step of SGLD on a batch of 128 is held against a step of plain SGD: the torch module, `F.cross_entropy`, `backward`,
`torch.optim.SGD`.  16 chains are held against one.  What is compared takes turns, step by step, so that a change of the
machine's pace meets both; times are lower quartiles over steps, best of several rounds.
"""

import argparse
import time
from collections.abc import Callable, Iterable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import lenet_5, lenet_300_100
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program

Step = Callable[[], object]
SIZE, BATCH, CHAINS = 55_000, 128, 16


def times(steps: dict[str, Step], seconds: float, rounds: int = 5) -> dict[str, float]:
    """Milliseconds of each step: the lowest over rounds of the lower quartile within a round."""
    for step in steps.values():
        for _ in range(5):
            step()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        found: dict[str, list[float]] = {name: [] for name in steps}
        end = time.perf_counter() + seconds / rounds
        while time.perf_counter() < end:
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                found[name].append(1e3 * (time.perf_counter() - start))
        for name, each in found.items():
            best[name] = min(best[name], sorted(each)[len(each) // 4])
    return best


def images() -> tuple[Tensor, Tensor]:
    """A batch of the shape of MNIST's."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 1, 28, 28, generator=generator), torch.randint(0, 10, (BATCH,), generator=generator)


def network_steps(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Step]:
    """SGD, SGLD, and what SGLD's noise alone costs by torch and by this package."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    method = SGLD(epochs=10_000, batch_size=BATCH, warmup=0.9)
    state = method.init(BayesianNetwork(network, Normal()), SIZE, 0)
    x, y = batch

    def sgd() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    numbers = torch.empty(state.position.shape)
    return {
        "sgd": sgd,
        "sgld": lambda: method.step(state, batch),
        "torch's normal numbers": lambda: numbers.normal_(),
        "our normal numbers": state.fresh_noise,
    }


def logistic(x: Tensor, y: Tensor) -> None:
    """Logistic regression, d = 50."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([50]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def schools(y: Tensor, sd: Tensor) -> None:
    """Eight schools, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    with pyro.plate("data", 8):
        pyro.sample("y", dist.Normal(mu + tau * z, sd), obs=y)


def chain_steps(model: Callable[..., None], batch: tuple[Tensor, ...], size: int) -> dict[str, Step]:
    """A step of one chain and of 16."""
    found: dict[str, Step] = {}
    for chains in (1, CHAINS):
        method = SGLD(epochs=1_000_000, batch_size=BATCH, chains=chains, warmup=0.9, a=1e-3)
        state = method.init(Program(model, batch), size, 0, size)
        found[f"{chains} chains"] = lambda method=method, state=state: method.step(state, batch)  # type: ignore[misc]
    return found


def small_targets() -> dict[str, tuple[Callable[..., None], tuple[Tensor, ...], int]]:
    """Model, batch, N."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1000, 50, generator=generator)
    y = (torch.rand(1000, generator=generator) < 0.5).float()
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return {
        "logistic regression, all 1,000 examples": (logistic, (x, y), 1000),
        "logistic regression, batch of 128": (logistic, (x[:128], y[:128]), 1000),
        "eight schools": (schools, (effects, errors), 8),
    }


def rows(seconds: float, parts: Iterable[str]) -> Iterable[str]:
    """Of the table, in Markdown."""
    yield "| what | ms | against | ms | ratio | goal |"
    yield "| --- | --- | --- | --- | --- | --- |"
    if "lenet" in parts:
        for name, factory, goal in (("LeNet-300-100", lenet_300_100, 1.6), ("LeNet-5", lenet_5, 1.1)):
            torch.manual_seed(0)
            found = times(network_steps(factory(), images()), seconds)
            base = found.pop("sgd")
            for what, cost in found.items():
                limit = f"≤ {goal}" if what == "sgld" else ""
                yield f"| {name}: {what} | {cost:.3f} | plain SGD step | {base:.3f} | {cost / base:.2f} | {limit} |"
    if "chains" in parts:
        for name, (model, batch, size) in small_targets().items():
            torch.manual_seed(0)
            one, many = times(chain_steps(model, batch, size), seconds).values()
            yield f"| {name}: {CHAINS} chains | {many:.3f} | one chain | {one:.3f} | {many / one:.2f} | ≤ 3 |"


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="'lenet', 'chains'; both if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="per row")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for row in rows(given.seconds, given.parts or ("lenet", "chains")):
        print(row, flush=True)


if __name__ == "__main__":
    main()
