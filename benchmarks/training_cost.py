"""What Bayesian training costs against plain training: one table of ratios, each measured side by side in one run.

    python -m benchmarks.training_cost                         # all rows but the whole run, two threads
    python -m benchmarks.training_cost --parts steps sizes     # some of them; 'sizes' draws the figure
    python -m benchmarks.training_cost --parts shrinking       # fits of LeNet-300-100 from start to end
    python -m benchmarks.training_cost --parts whole --entry lenet-5/group-horseshoe

A plain step is that of the fastest way of plain training that `benchmarks.plain` knows, all of which take turns with
ours and are in the table.  Ours are steps of the method itself, compiled; compiling is not in the ratio and is printed.
'whole' runs an entry from start to written file and trains the plain network for as many epochs, before and after, on
the same data, by the way that is fastest on batches of that size.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.memory import images
from benchmarks.peers import peer_steps
from benchmarks.plain import Factory, candidates
from benchmarks.timing import CLOCKS, Step, Turns, row
from benchmarks.whole_runs import SHRINKING, shrinking_row, whole_row
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import lenet_5, lenet_300_100, mlp_500_500, vgg_16
from pyro_compress.models.precision import BFLOAT16, PRECISIONS, SINGLE
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.scale_mixture import ScaleMixture
from pyro_compress.models.residual import resnet_20

SIZE = 55_000
NETWORKS: dict[str, Factory] = {"LeNet-300-100": lenet_300_100, "LeNet-5": lenet_5}
# of the fastest plain step
STEP_GOALS = {"LeNet-300-100": "≤ 2.3", "LeNet-5": "≤ 2.2"}
# of the fastest peer's time with the same estimator
PEER_GOALS = {"LeNet-300-100": 2.0, "LeNet-5": 1.15}
# width of the hidden layers, examples per batch
SIZES = ((0.25, 128), (0.5, 128), (1.0, 128), (2.0, 128), (4.0, 128), (8.0, 128), (1.0, 32), (1.0, 512), (1.0, 1024))
PARTS = ("steps", "residual", "precision", "peers", "sizes", "shrinking", "whole")
ESTIMATORS = {"local": "local reparameterization", "flipout": "flipout", "shared": "one sample per batch"}


@dataclass(frozen=True)
class Pace:
    """How long a comparison takes, and by which clock."""

    seconds: float
    clock: str

    def turns(self, steps: Mapping[str, Step]) -> Turns:
        """Those steps in turns."""
        return Turns.of(steps, self.seconds, self.clock)


def plain_steps(factory: Factory, batch: tuple[Tensor, Tensor]) -> dict[str, Step]:
    """A step of every way of plain training, by what it is called in the table."""
    return {f"plain, {how}": partial(training.step, *batch) for how, training in candidates(factory)}


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


def step_rows(pace: Pace) -> Iterable[str]:
    """SVI and Bayes by Backprop against plain training, and the ways of plain training against the fastest of them."""
    for name, factory in NETWORKS.items():
        batch = images(128, 1, 28, 28)
        steps = {
            f"SVI, {type(prior).__name__}": ours(svi(128), factory(), prior, batch)
            for prior in (GroupHorseshoe(), LogUniform())
        }
        yield from rows_against_plain(name, factory, batch, steps, pace, STEP_GOALS[name])
    batch = images(100, 1, 28, 28)
    method = BayesByBackprop(epochs=10_000, batch_size=100, compile="always")
    steps = {"BBB": ours(method, mlp_500_500(), ScaleMixture(), batch)}
    yield from rows_against_plain("784-500-500-10", mlp_500_500, batch, steps, pace, "≤ 3")


def residual_rows(pace: Pace) -> Iterable[str]:
    """SVI on a residual network, with batch norms."""
    batch = images(128, 3, 32, 32)
    steps = {"SVI, LogUniform": ours(svi(128), resnet_20(), LogUniform(), batch)}
    yield from rows_against_plain("ResNet-20", resnet_20, batch, steps, pace, "≤ 2.5")


def precision_rows(pace: Pace) -> Iterable[str]:
    """Steps whose products and convolutions are in bfloat16, against the same in float32."""
    for name, factory in {"ResNet-20": resnet_20, "VGG-16": vgg_16}.items():
        batch = images(128, 3, 32, 32)
        for kind in (MAP, SVI):
            steps = {}
            for precision in PRECISIONS:
                method: Any = kind(epochs=10_000, batch_size=128, precision=precision)
                state = method.init(BayesianNetwork(factory(), LogUniform() if kind is SVI else {}), SIZE, 0)
                steps[precision] = partial(method.step, state, batch)
            found = pace.turns(steps).against(SINGLE)
            yield row(f"{name}: {kind.__name__} in {BFLOAT16}", found[BFLOAT16], f"{SINGLE} precision", "")


def rows_against_plain(
    name: str, factory: Factory, batch: tuple[Tensor, Tensor], steps: dict[str, Step], pace: Pace, goal: str
) -> Iterable[str]:
    """Every step, and every slower way of plain training, against the fastest way of plain training."""
    plain = plain_steps(factory, batch)
    turns = pace.turns(steps | plain)
    fastest = turns.fastest(plain)
    for what, found in turns.against(fastest).items():
        yield row(f"{name}: {what}", found, fastest, goal if what in steps else "")


def peer_rows(pace: Pace) -> Iterable[str]:
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
            found = pace.turns(steps).against("ours")
            if not found:
                print(f"{name}, {words}: no library to compare with", flush=True)
                continue
            peer, best = min(found.items(), key=lambda pair: pair[1].ratio)
            what = f"{name}: {peer} (fastest of {', '.join(found)}), {words}"
            yield row(what, best, "ours", f"≥ {PEER_GOALS[name]}")


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


def size_rows(pace: Pace, figure: Path) -> Iterable[str]:
    """Step times over widths and batches; draws the figure."""
    sizes = []
    for width, count in SIZES:
        batch, factory = images(count, 1, 28, 28), perceptron(width)
        steps = {
            name: ours(svi(count), factory(), prior, batch)
            for name, prior in (("log-uniform", LogUniform()), ("horseshoe", GroupHorseshoe()))
        }
        plain = plain_steps(factory, batch)
        turns = pace.turns(steps | plain)
        fastest = turns.fastest(plain)
        found = {name: each for name, each in turns.against(fastest).items() if name in steps}
        times = {name: each.milliseconds for name, each in found.items()}
        base = found["horseshoe"].base_milliseconds
        sizes.append(Size(width, count, base, times, {name: each.ratio for name, each in found.items()}))
        for name, each in found.items():
            yield row(f"width {width:g}, batch {count}: {name}", each, fastest, "")
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
        above.plot(x, [size.plain for size in chosen], "o-", label="fastest plain")
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
    panels[1, 0].set_ylabel("ratio to the fastest plain")
    panels[1, 0].set_ylim(0, 1.1 * max(ratio for size in sizes for ratio in size.ratios.values()))
    panels[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["steps", "peers", "sizes"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="per comparison")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of steps; fits and runs are wall time")
    parser.add_argument("--entry", default="lenet-5/group-horseshoe")
    parser.add_argument("--out", type=Path, default=Path("runs/training-cost"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "steps": lambda: step_rows(Pace(given.seconds, given.clock)),
        "residual": lambda: residual_rows(Pace(given.seconds, given.clock)),
        "precision": lambda: precision_rows(Pace(given.seconds, given.clock)),
        "peers": lambda: peer_rows(Pace(given.seconds, given.clock)),
        "sizes": lambda: size_rows(Pace(given.seconds / 4, given.clock), given.out / "training_cost.png"),
        "shrinking": lambda: map(shrinking_row, SHRINKING),
        "whole": lambda: whole_row(given.entry, given.out / "whole"),
    }
    chosen: Sequence[str] = given.parts
    table = ["| what | ms | against | ms | ratio | goal |", "| --- | ---: | --- | ---: | ---: | --- |"]
    where = (
        f"{date.today()}, {platform.machine()}, {given.threads} threads, {given.clock} time, torch {torch.__version__}"
    )
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
