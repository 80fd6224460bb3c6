"""Estimates of the evidence against the truth over the dimension, and as a choice of size: docs/evidence.md.

    python -m benchmarks.evidence --out docs/images/evidence.png      # and prints two tables, the second with --sizes

The first model is Bayesian linear regression, 40 examples and weights w ~ N(0, 1), of which log p(y) is known.  The
second is a network with one hidden layer of H tanh units.  It has 2^H H! copies of every mode, by signs and order of
its units.
"""

import argparse
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.analysis.diagnosis.evidence import Evidence
from pyro_compress.errors import PosteriorWarning
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.report.drawing import COLOURS, GREY, MARKERS, label, new_figure

METHODS = ("elbo", "laplace", "importance", "bridge", "annealed", "harmonic-mean")
OF_ONE_MODE = ("elbo", "laplace", "importance")
EXAMPLES, NOISE = 40, 0.5
# of the networks' data
HELD_OUT, LITTLE_NOISE, PRIOR = 500, 0.15, 1.5

Estimates = dict[str, dict[int, tuple[float, float]]]  # method -> width -> (estimate, its standard error)


def regression(x: Tensor, y: Tensor) -> None:
    """log p(y) = log N(y; 0, X Xᵀ + σ² I)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, NOISE), obs=y)


def of_regression(width: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Data drawn from the model, and log p(y)."""
    random = np.random.default_rng(width)
    x = random.normal(size=(EXAMPLES, width))
    covariance = x @ x.T + NOISE**2 * np.eye(EXAMPLES)
    y = np.linalg.cholesky(covariance) @ random.normal(size=EXAMPLES)
    data = (torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    return data, float(multivariate_normal(np.zeros(EXAMPLES), covariance).logpdf(y))


def over_dimension(widths: list[int], draws: int) -> Estimates:
    """Estimate − truth."""
    found: Estimates = {method: {} for method in METHODS}
    for width in widths:
        data, truth = of_regression(width)
        for method in METHODS:
            estimate = quietly(regression, data, method, draws)
            found[method][width] = (estimate.log_evidence - truth, estimate.standard_error)
    return found


def of_networks() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, y) to learn from and (x, y) held out: two steps of tanh under noise."""
    random = np.random.default_rng(5)
    x = random.uniform(-3, 3, (EXAMPLES + HELD_OUT, 1))
    y = np.tanh(3 * (x + 1)) - 0.8 * np.tanh(2 * (x - 1)) + LITTLE_NOISE * random.normal(size=x.shape)
    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in (x, y))
    return (inputs[:EXAMPLES], targets[:EXAMPLES]), (inputs[EXAMPLES:], targets[EXAMPLES:])


def over_sizes(sizes: list[int], draws: int) -> tuple[Estimates, dict[int, float]]:
    """log p(y) by number of hidden units, and the mean log predictive density of held-out examples."""
    train, (x, y) = of_networks()
    found: Estimates = {method: {} for method in (*OF_ONE_MODE, "annealed")}
    held: dict[int, float] = {}
    for size in sizes:
        torch.manual_seed(size)
        network = nn.Sequential(nn.Linear(1, size), nn.Tanh(), nn.Linear(size, 1))
        model = pc.BayesianNetwork(network, Normal(scale=PRIOR), Gaussian(noise=LITTLE_NOISE))
        for method, values in found.items():
            estimate = quietly(model, train, method, draws)
            copies = size * math.log(2) + math.lgamma(size + 1) if method in OF_ONE_MODE else 0.0
            values[size] = (estimate.log_evidence + copies, estimate.standard_error)
        held[size] = held_out(model, train, x, y, draws)
    return found, held


def held_out(model: pc.BayesianNetwork, train: tuple[Tensor, Tensor], x: Tensor, y: Tensor, draws: int) -> float:
    """Mean over examples of log 1/S Σ_s p(y | x, w_s), nats, by draws of NUTS."""
    method = pc.inference.NUTS(chains=4, warmup=300, draws=max(50, draws // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = pc.fit(model, train, method).draws
    assert drawn is not None
    density = []
    for _, values in drawn.rows():
        weights = {name: torch.tensor(np.array(value)) for name, value in values.items()}
        with torch.no_grad():
            density.append(dist.Normal(model.call_network(weights, x), LITTLE_NOISE).log_prob(y)[:, 0])
    return float((torch.logsumexp(torch.stack(density), 0) - math.log(len(density))).mean())


def quietly(model: Any, data: tuple[Tensor, Tensor], method: str, draws: int) -> Evidence:
    """The figure shows what warnings say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorWarning)
        return pc.evidence(model, data, method, draws)


def table(head: str, found: Estimates) -> Iterator[str]:
    """Markdown."""
    columns = list(next(iter(found.values())))
    yield f"| {head} | {' | '.join(map(str, columns))} |\n{'| --- ' * (len(columns) + 1)}|"
    for method, values in found.items():
        yield f"| {method} | " + " | ".join(_printed(*value) for value in values.values()) + " |"


def _printed(value: float, error: float) -> str:
    return f"{value:.2f}" if math.isnan(error) else f"{value:.2f} ± {error:.2f}"


def figure(errors: Estimates) -> Figure:
    """Errors over the dimension, with two standard errors."""
    drawn = new_figure(5.0, "Model evidence: estimates against the truth")
    axes = drawn.subplots()
    for place, (method, values) in enumerate(errors.items()):
        # side by side, where they would cover each other
        x = [width * (1 + 0.02 * (place - len(errors) / 2)) for width in values]
        y, error = np.array(list(values.values())).T
        look: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 5, "capsize": 3}
        axes.errorbar(x, y, 2 * np.nan_to_num(error), label=method, **look)
    widths = list(next(iter(errors.values())))
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.set_yscale("symlog", linthresh=1)
    label(axes, "Linear regression", "weights", "estimate − truth, nats (linear within ±1)")
    drawn.legend(frameon=False, loc="outside lower center", ncols=len(errors))
    return drawn


def main() -> None:
    """Measure, print the tables and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--sizes", nargs="*", type=int, default=[], help="hidden units of networks; none if not given")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = over_dimension(given.widths, given.draws)
    print("\n".join(table("weights", found)))
    if given.sizes:
        sizes, held = over_sizes(given.sizes, given.draws)
        print("\n".join(table("hidden units", sizes)))
        print("| held-out | " + " | ".join(f"{value:.3f}" for value in held.values()) + " |")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure(found).savefig(given.out)


if __name__ == "__main__":
    main()
