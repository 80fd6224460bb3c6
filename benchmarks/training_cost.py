"""What Bayesian training costs against plain training: one table of ratios, each measured side by side in one run.

    python -m benchmarks.training_cost                         # all rows but the whole run, two threads
    python -m benchmarks.training_cost --parts steps sizes     # some of them; 'sizes' draws the figure
    python -m benchmarks.training_cost --parts shrinking       # fits of LeNet-300-100 from start to end
    python -m benchmarks.training_cost --parts whole --entry lenet-5/group-horseshoe

A plain step is the torch module as it is, `F.cross_entropy`, `backward`, and fused Adam over its parameters.  Ours are
steps of the method itself, compiled; compiling is not in the ratio and is printed.  'whole' runs an entry from start to
written file and trains the plain network for as many epochs, before and after, on the same data.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.memory import images
from benchmarks.peers import peer_steps
from benchmarks.timing import Step, paired, row
from benchmarks.whole_runs import SHRINKING, shrinking_row, whole_row
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
# width of the hidden layers, examples per batch
SIZES = ((0.25, 128), (0.5, 128), (1.0, 128), (2.0, 128), (4.0, 128), (8.0, 128), (1.0, 32), (1.0, 512), (1.0, 1024))
ESTIMATORS = {"local": "local reparameterization", "flipout": "flipout", "shared": "one sample per batch"}


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


def step_rows(seconds: float) -> Iterable[str]:
    """SVI and Bayes by Backprop against plain training."""
    for name, factory in NETWORKS.items():
        batch, goal = images(128, 1, 28, 28), "≤ 2.5" if name == "LeNet-300-100" else "≤ 2.0"
        steps = {"plain": plain(factory(), batch)}
        for prior in (GroupHorseshoe(), LogUniform()):
            steps[f"SVI, {type(prior).__name__}"] = ours(svi(128), factory(), prior, batch)
        if name == "LeNet-5":
            steps["plain, channels last"] = plain(factory().to(memory_format=torch.channels_last), batch)
        for what, found in paired(steps, "plain", seconds).items():
            limit = goal if what.startswith("SVI") else ""
            yield row(f"{name}: {what}", found.ratio, found.milliseconds, found.base_milliseconds, "plain", limit)
    batch = images(100, 1, 28, 28)
    method = BayesByBackprop(epochs=10_000, batch_size=100, compile="always")
    steps = {"plain": plain(mlp_500_500(), batch), "BBB": ours(method, mlp_500_500(), ScaleMixture(), batch)}
    found = paired(steps, "plain", seconds)["BBB"]
    yield row("784-500-500-10: BBB", found.ratio, found.milliseconds, found.base_milliseconds, "plain", "≤ 3")


def peer_rows(seconds: float) -> Iterable[str]:
    """Mean-field SVI against the fastest library with the same estimator; a ratio above 1 says that ours is faster."""
    for name, factory in NETWORKS.items():
        for estimator, words in ESTIMATORS.items():
            batch = images(128, 1, 28, 28)
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


@dataclass(frozen=True)
class Size:
    """Milliseconds of a plain step and of ours, and ratios of neighbours, by prior, for one width and batch."""

    width: float
    batch: int
    plain: float
    milliseconds: Mapping[str, float]
    ratios: Mapping[str, float]


def size_rows(seconds: float, figure: Path) -> Iterable[str]:
    """Step times over widths and batches; draws the figure."""
    sizes = []
    for width, count in SIZES:
        batch, factory = images(count, 1, 28, 28), perceptron(width)
        steps = {"plain": plain(factory(), batch)}
        for name, prior in (("log-uniform", LogUniform()), ("horseshoe", GroupHorseshoe())):
            steps[name] = ours(svi(count), factory(), prior, batch)
        found = paired(steps, "plain", seconds)
        base = found["horseshoe"].base_milliseconds
        times = {name: each.milliseconds for name, each in found.items()}
        sizes.append(Size(width, count, base, times, {name: each.ratio for name, each in found.items()}))
        for name, each in found.items():
            yield row(f"width {width:g}, batch {count}: {name}", each.ratio, each.milliseconds, base, "plain", "")
    draw_sizes(sizes, figure)


def draw_sizes(sizes: Sequence[Size], path: Path) -> None:
    """Step times above, ratios to plain training below; over widths on the left and over batches on the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    cases = (
        ("width of the hidden layers / LeNet-300-100's", [size for size in sizes if size.batch == 128]),
        ("examples per batch", sorted((size for size in sizes if size.width == 1), key=lambda size: size.batch)),
    )
    for (above, below), (label, chosen) in zip(panels.T, cases, strict=True):
        x = [size.batch if label.startswith("examples") else size.width for size in chosen]
        above.plot(x, [size.plain for size in chosen], "o-", label="plain, fused Adam")
        for name, style in (("log-uniform", "s-"), ("horseshoe", "^-")):
            above.plot(x, [size.milliseconds[name] for size in chosen], style, label=f"SVI, {name}")
            below.plot(x, [size.ratios[name] for size in chosen], style, color=above.lines[-1].get_color())
        below.axhline(1, color="0.6", linewidth=1)
        below.set(xscale="log", xlabel=label)
        above.set(yscale="log", yticks=[2, 5, 10, 20, 50])
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axis in (above, below):
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        below.set_xticks(x, [f"{one:g}" for one in x])
    panels[0, 0].set_ylabel("milliseconds per step")
    panels[1, 0].set_ylabel("ratio to plain")
    panels[1, 0].set_ylim(0, 1.1 * max(ratio for size in sizes for ratio in size.ratios.values()))
    panels[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("steps", "peers", "sizes", "shrinking", "whole"),
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
        "shrinking": lambda: map(shrinking_row, SHRINKING),
        "whole": lambda: whole_row(given.entry, given.out / "whole"),
    }
    chosen: Sequence[str] = given.parts
    table = ["| what | ms | against | ms | ratio | goal |", "| --- | ---: | --- | ---: | ---: | --- |"]
    where = f"{date.today()}, {platform.machine()}, {given.threads} threads, torch {torch.__version__}"
    given.out.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        for line in parts[part]():
            print(line, flush=True)
            table.append(line)
            # after every row, so that nothing is lost where a later one fails
            (given.out / "table.md").write_text("\n".join([*table, "", where]) + "\n")
    print("\n".join(["", *table, "", where]))


if __name__ == "__main__":
    main()
