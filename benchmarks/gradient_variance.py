"""Variance of SVI's gradients per estimator and batch size: one table and one figure.

    python benchmarks/gradient_variance.py --out runs/gradient-variance       # about two minutes on one core

The network is fitted to the digits for a few epochs first, and all estimators are compared there.  What varies is the
sampled weights: batches are fixed, and variances are means over several of them.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from pyro_compress.data.named import load
from pyro_compress.inference.variational.gradient_variance import gradient_variance
from pyro_compress.inference.variational.score_function import Baseline, ScoreTerms
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal
from pyro_compress.report.drawing import COLOURS, GREY, MARKERS, label, new_figure

# name in the table -> settings of SVI
ESTIMATORS: dict[str, dict[str, object]] = {
    "score, no baseline": {"estimator": "score", "baseline": False},
    "score": {"estimator": "score"},
    "shared": {"estimator": "shared"},
    "flipout": {"estimator": "flipout"},
    "local": {"estimator": "local"},
}
KINDS = {"loc": "means", "log_variance": "log-variances"}
Results = dict[str, dict[str, dict[str, float]]]  # kind -> estimator -> batch size -> variance


def fitted(hidden: tuple[int, int], epochs: int) -> tuple[VariationalState, torch.Tensor, torch.Tensor]:
    """A 64-…-10 network on the digits, its guide where SVI has brought it, and the training examples."""
    data = load("digits")
    x, y = data.train_x.flatten(1), data.train_y
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(), nn.Linear(hidden[1], 10)
    )
    model = BayesianNetwork(network, Normal(scale=0.3))
    method = SVI(epochs=epochs, batch_size=32, learning_rate=3e-3)
    state = method.init(model, len(x), 0)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(32):
            method.step(state, (x[part], y[part]))
    return state, x, y


def warmed(method: SVI, state: VariationalState, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> Baseline:
    """The baseline after 50 steps that go nowhere."""
    baseline = Baseline()
    for _ in range(50):
        part = torch.randperm(len(x))[:batch_size]
        terms = method.terms(state, (x[part], y[part]))
        assert isinstance(terms, ScoreTerms)
        baseline = baseline.after(terms)
    return baseline


def measure(
    state: VariationalState, x: torch.Tensor, y: torch.Tensor, batch_sizes: list[int], batches: int, draws: int
) -> Results:
    """Mean over `batches` batches of the summed variance of the gradient."""
    found: Results = {kind: {name: {} for name in ESTIMATORS} for kind in KINDS}
    for batch_size in batch_sizes:
        torch.manual_seed(1)
        parts = [torch.randperm(len(x))[:batch_size] for _ in range(batches)]
        for name, settings in ESTIMATORS.items():
            method = SVI(**settings)  # type: ignore[arg-type]
            state.baseline = Baseline()
            if name == "score":
                state.baseline = warmed(method, state, x, y, batch_size)
            rows = [gradient_variance(method, state, (x[part], y[part]), draws) for part in parts]
            for kind in KINDS:
                found[kind][name][str(batch_size)] = sum(row[kind] for row in rows) / batches
    return found


def table(found: Results) -> Iterable[str]:
    """Markdown rows, one per estimator and kind of parameter."""
    sizes = list(next(iter(found["loc"].values())))
    yield f"| gradient of | estimator | {' | '.join(f'batch {size}' for size in sizes)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in sizes)} |"
    for kind, by_estimator in found.items():
        for name, by_size in by_estimator.items():
            yield f"| {KINDS[kind]} | {name} | {' | '.join(f'{by_size[size]:.3g}' for size in sizes)} |"


def figure(found: Results) -> Figure:
    """Both axes logarithmic: a slope of −1 is noise that averages out over the batch, 0 is noise that does not."""
    drawn = new_figure(4.8, "Gradient variance of SVI's estimators")
    panels = drawn.subplots(1, 2)
    for axes, (kind, by_estimator) in zip(panels, found.items(), strict=True):
        for (name, by_size), colour, marker in zip(by_estimator.items(), COLOURS, MARKERS, strict=False):
            sizes = [int(size) for size in by_size]
            axes.loglog(sizes, list(by_size.values()), color=colour, marker=marker, markersize=6, label=name)
        # the slope, well below the curves of the score function and above the others
        fall = [100 * max(by_estimator["shared"].values()) * sizes[0] / size for size in sizes]
        axes.loglog(sizes, fall, color=GREY, linestyle=":", label="∝ 1 / batch size")
        label(axes, f"Gradients of the {KINDS[kind]}", "examples per batch", "summed variance, (nats per example)²")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    return drawn


def main() -> None:
    """Parse the command line, measure, print the table and save it with the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", nargs=2, type=int, default=[300, 100], help="units of the two hidden layers")
    parser.add_argument("--epochs", type=int, default=10, help="of the fit before")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--draws", type=int, default=100, help="gradients per batch")
    parser.add_argument("--out", type=Path, default=Path("runs/gradient-variance"))
    given = parser.parse_args()
    state, x, y = fitted(tuple(given.hidden), given.epochs)
    found = measure(state, x, y, given.batch_sizes, given.batches, given.draws)
    given.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(found))
    (given.out / "table.md").write_text(text + "\n")
    (given.out / "variance.json").write_text(json.dumps(found, indent=2) + "\n")
    figure(found).savefig(given.out / "variance.png")
    print(text)


if __name__ == "__main__":
    main()
