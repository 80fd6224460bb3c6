"""What Bayesian training costs against plain training: one table of ratios, each measured side by side in one run.

    python -m benchmarks.training_cost                         # all rows but the whole run, two threads
    python -m benchmarks.training_cost --parts steps sizes     # some of them; 'sizes' draws the figure
    python -m benchmarks.training_cost --parts whole --entry lenet-5/group-horseshoe

A plain step is the torch module as it is, `F.cross_entropy`, `backward`, and fused Adam over its parameters.  Ours are
steps of the method itself, compiled; compiling is not in the ratio and is printed.  'whole' runs an entry from start to
written file and trains the plain network for as many epochs, before and after, on the same data.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import peer_steps
from benchmarks.timing import Step, paired
from pyro_compress.inference.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.svi import SVI
from pyro_compress.inference.variational import VariationalMethod
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import lenet_5, lenet_300_100, mlp_500_500
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.scale_mixture import ScaleMixture

Factory = Callable[[], nn.Module]
SIZE = 55_000
NETWORKS: dict[str, Factory] = {"LeNet-300-100": lenet_300_100, "LeNet-5": lenet_5}
# of the fastest peer's time with the same estimator
PEER_GOALS = {"LeNet-300-100": 2.0, "LeNet-5": 1.15}
ESTIMATORS = {"local": "local reparameterization", "flipout": "flipout", "shared": "one sample per batch"}


def images(count: int) -> tuple[Tensor, Tensor]:
    """A batch of the shape of MNIST's."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 28, 28, generator=generator), torch.randint(0, 10, (count,), generator=generator)


def plain(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Step:
    """Fused Adam on the module."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def ours(method: VariationalMethod, network: nn.Module, prior: Prior, batch: tuple[Tensor, Tensor]) -> Step:
    """A step of the method, compiled."""
    state = method.init(BayesianNetwork(network, prior), SIZE, 0)
    started = time.perf_counter()
    method.step(state, batch)
    print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
    return lambda: method.step(state, batch)


def svi(count: int, **options: object) -> SVI:
    """Compiled, not shrinking."""
    return SVI(epochs=10_000, batch_size=count, compile="always", shrink=False, **options)  # type: ignore[arg-type]


def row(what: str, ratio: float, milliseconds: float, base: float, against: str, goal: str) -> str:
    """Of the table."""
    return f"| {what} | {milliseconds:.2f} | {against} | {base:.2f} | {ratio:.2f} | {goal} |"


def step_rows(seconds: float) -> Iterable[str]:
    """SVI and Bayes by Backprop against plain training."""
    for name, factory in NETWORKS.items():
        batch, goal = images(128), "≤ 2.5" if name == "LeNet-300-100" else "≤ 2.0"
        steps = {"plain": plain(factory(), batch)}
        for prior in (GroupHorseshoe(), LogUniform()):
            steps[f"SVI, {type(prior).__name__}"] = ours(svi(128), factory(), prior, batch)
        if name == "LeNet-5":
            steps["plain, channels last"] = plain(factory().to(memory_format=torch.channels_last), batch)
        for what, found in paired(steps, "plain", seconds).items():
            limit = goal if what.startswith("SVI") else ""
            yield row(f"{name}: {what}", found.ratio, found.milliseconds, found.base_milliseconds, "plain", limit)
    batch = images(100)
    method = BayesByBackprop(epochs=10_000, batch_size=100, compile="always")
    steps = {"plain": plain(mlp_500_500(), batch), "BBB": ours(method, mlp_500_500(), ScaleMixture(), batch)}
    found = paired(steps, "plain", seconds)["BBB"]
    yield row("784-500-500-10: BBB", found.ratio, found.milliseconds, found.base_milliseconds, "plain", "≤ 3")


def peer_rows(seconds: float) -> Iterable[str]:
    """Mean-field SVI against the fastest library with the same estimator; a ratio above 1 says that ours is faster."""
    for name, factory in NETWORKS.items():
        for estimator, words in ESTIMATORS.items():
            batch = images(128)
            steps: dict[str, Step] = {"ours": ours(svi(128, estimator=estimator), factory(), Normal(), batch)}
            for peer, step in peer_steps(factory, batch, estimator):
                if isinstance(step, str):
                    print(f"{peer} does not run: {step}", flush=True)
                else:
                    steps[peer] = step
            found = paired(steps, "ours", seconds)
            if not found:
                print(f"{name}, {words}: no library to compare with", flush=True)
                continue
            peer, best = min(found.items(), key=lambda pair: pair[1].ratio)
            what = f"{name}: {peer} (fastest of {', '.join(found)}), {words}"
            yield row(what, best.ratio, best.milliseconds, best.base_milliseconds, "ours", f"≥ {PEER_GOALS[name]}")


def perceptron(width: float) -> Factory:
    """LeNet-300-100 with hidden layers that many times as wide."""
    first, second = int(300 * width), int(100 * width)
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)
    )


def size_rows(seconds: float, figure: Path) -> Iterable[str]:
    """Step times over widths and batches; draws the figure."""
    from matplotlib.figure import Figure

    widths, batches = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (32, 128, 512, 1024)
    cases = {"width of the hidden layers / LeNet-300-100's": [(w, 128) for w in widths]}
    cases["examples per batch"] = [(1.0, count) for count in batches]
    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    axes = drawn.subplots(1, 2)
    for axis, (label, sizes) in zip(axes, cases.items(), strict=True):
        lines: dict[str, list[float]] = {"plain": [], "log-uniform": [], "horseshoe": []}
        for width, count in sizes:
            batch, factory = images(count), perceptron(width)
            steps = {"plain": plain(factory(), batch)}
            steps["log-uniform"] = ours(svi(count), factory(), LogUniform(), batch)
            steps["horseshoe"] = ours(svi(count), factory(), GroupHorseshoe(), batch)
            found = paired(steps, "plain", seconds)
            lines["plain"].append(found["horseshoe"].base_milliseconds)
            for name, each in found.items():
                lines[name].append(each.milliseconds)
                yield row(f"width {width:g}, batch {count}: {name}", each.ratio, each.milliseconds,
                          each.base_milliseconds, "plain", "")  # fmt: skip
        x = [width if "width" in label else count for width, count in sizes]
        for (name, times), marker in zip(lines.items(), "os^", strict=True):
            axis.loglog(x, times, marker=marker, label=name)
        axis.set_xticks(x, [f"{one:g}" for one in x])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds per step")
    axes[0].legend()
    figure.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(figure, dpi=150)


def whole_row(entry: str, out: Path) -> Iterable[str]:
    """An entry from start to file, and plain training for as many epochs on the same data."""
    import json
    import subprocess
    import sys

    from pyro_compress import data as data_module
    from pyro_compress.models.networks import NETWORKS as registered
    from pyro_compress.pipeline.settings import settings_from_entry

    settings = settings_from_entry(entry, threads=torch.get_num_threads())
    method, decision = settings.build_method(), settings.build_decision()
    stages = decision.fine_tune_epochs * len(decision.rate_weights) if decision.fine_tune_epochs else 0
    epochs = settings.pretrain_epochs + method.rounds + stages
    data, network = data_module.load(settings.data), registered[settings.network]()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def epoch_seconds(epoch: int) -> float:
        started = time.perf_counter()
        for x, y in data_module.batches(data.train_x, data.train_y, 128, 0, epoch):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        return time.perf_counter() - started

    before = [epoch_seconds(epoch) for epoch in range(2)]
    command = [sys.executable, "-m", "pyro_compress", "run", entry, "--out", str(out)]
    subprocess.run([*command, "--threads", str(torch.get_num_threads())], check=True)
    after = [epoch_seconds(epoch) for epoch in range(2, 4)]
    results = json.loads((out / "results.json").read_text())
    one = sum(before + after) / 4
    seconds = results["wall_seconds"]
    what = (
        f"{entry}, whole run of {epochs} epochs at most: {results['error_after_percent']:.2f} %, "
        f"{results['file_bytes']:,} bytes"
    )
    yield row(what, seconds / (one * epochs), 1e3 * seconds, 1e3 * one * epochs, "plain, as many epochs", "≤ 1.0")


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("steps", "peers", "sizes", "whole"),
                        default=["steps", "peers", "sizes"])  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="per comparison")
    parser.add_argument("--entry", default="lenet-5/group-horseshoe")
    parser.add_argument("--out", type=Path, default=Path("runs/training-cost"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "steps": lambda: step_rows(given.seconds),
        "peers": lambda: peer_rows(given.seconds),
        "sizes": lambda: size_rows(given.seconds / 4, given.out / "training_cost.png"),
        "whole": lambda: whole_row(given.entry, given.out / "whole"),
    }
    chosen: Sequence[str] = given.parts
    table = ["| what | ms | against | ms | ratio | goal |", "| --- | ---: | --- | ---: | ---: | --- |"]
    for part in chosen:
        for line in parts[part]():
            print(line, flush=True)
            table.append(line)
    where = f"{date.today()}, {platform.machine()}, {given.threads} threads, torch {torch.__version__}"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "table.md").write_text("\n".join([*table, "", where]) + "\n")
    print("\n".join(["", *table, "", where]))


if __name__ == "__main__":
    main()
