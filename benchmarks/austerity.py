"""Bias, variance and risk of Metropolis–Hastings that decides on part of the data (Korattikara, Chen & Welling 2014).

    python benchmarks/austerity.py --out runs/austerity          # about ten minutes; writes austerity.png, .json

Logistic regression.  Two things are estimated of every weight: its posterior mean, in posterior standard deviations,
and its posterior variance, as a multiple of the true one; a long run of NUTS knows both.  Wrong decisions disturb the
variance first.  Many independent chains of every ε start from the posterior and spend the same computation, counted
in passes over the data, so a larger ε buys more transitions.  Over chains

    risk = bias² + variance,

each averaged over the weights.  While computation is short the risk is variance, and the best ε is not 0.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

from pyro_compress.inference.fit import fit
from pyro_compress.inference.mcmc.approximate_metropolis import ApproximateMetropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.program import Program
from pyro_compress.report.drawing import BLUE, DPI, GREEN, VERMILION, label, new_figure

ERRORS = (0.0, 0.0003, 0.003, 0.01, 0.03, 0.1)
FEATURES = 5


@dataclass(frozen=True)
class Found:
    """What one ε came to in one estimate.

    Attributes:
        error: ε.
        share: mean share of the data per decision.
        acceptance: mean.
        bias_squared, variance, risk: (budget,), averaged over weights.
    """

    error: float
    share: float
    acceptance: float
    bias_squared: np.ndarray
    variance: np.ndarray
    risk: np.ndarray


def problem(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(examples, FEATURES, generator=random)
    weight = torch.linspace(-1.5, 1.5, FEATURES)
    y = torch.bernoulli(torch.sigmoid(x @ weight), generator=random)
    return x, y


def model(x: torch.Tensor, y: torch.Tensor) -> None:
    """w ~ N(0, I), y ~ Bernoulli(σ(x · w))."""
    w = pyro.sample("w", dist.Normal(torch.zeros(FEATURES), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def run(
    error: float, data: tuple[torch.Tensor, torch.Tensor], starts: torch.Tensor, step_size: float, passes: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """(positions (chain, draw, D), passes spent so far (chain, draw), acceptance) until every chain has spent them."""
    method = ApproximateMetropolis(
        chains=len(starts), warmup=0, draws=1, step_size=step_size, target_acceptance=0.0, error=error
    )
    torch.manual_seed(round(1e4 * error) + 1)
    state = method.init(Program(model, data), len(data[0]), seed=round(1e4 * error))
    state.position = starts.clone()
    spent = np.zeros(len(starts))
    positions, costs, acceptance = [], [], []
    while spent.min() < passes:
        info = method.step(state, data)
        spent = spent + state.shares
        positions.append(state.position.numpy().copy())
        costs.append(spent)
        acceptance.append(info.extra["acceptance_rate"])
    return np.stack(positions, 1), np.stack(costs, 1), float(np.mean(acceptance))


def risks(
    values: np.ndarray, truth: float, costs: np.ndarray, budgets: Iterable[float]
) -> list[tuple[float, float, float]]:
    """(bias², variance, risk) of the mean of values (chain, draw, weight) at each budget, averaged over weights."""
    found = []
    for budget in budgets:
        # at least one transition, even if it costs more than the budget
        counts = np.maximum(1, (costs <= budget).sum(1))
        estimates = np.stack([rows[:count].mean(0) for rows, count in zip(values, counts, strict=True)])
        variance = estimates.var(0, ddof=1)
        risk = np.square(estimates - truth).mean(0)
        # the mean over finitely many chains has a variance of its own
        bias = np.square(estimates.mean(0) - truth) - variance / len(estimates)
        found.append((float(bias.mean()), float(variance.mean()), float(risk.mean())))
    return found


def figure(found: dict[str, list[Found]], budgets: np.ndarray, shown: tuple[int, ...]) -> Figure:
    """Bias², variance and risk over ε: a row per estimate, a column per budget."""
    drawing = new_figure(7.0, "Metropolis–Hastings on part of the data: what a tolerated error buys")
    grid = drawing.subplots(len(found), len(shown), sharey="row", squeeze=False)
    for row, (name, each) in enumerate(found.items()):
        places = np.arange(len(each))
        for column, index in enumerate(shown):
            axes = grid[row, column]
            for values, colour, marker, part in (
                # what is below is Monte Carlo error of 0
                ([max(one.bias_squared[index], 1e-3) for one in each], BLUE, "s", "bias²"),
                ([one.variance[index] for one in each], GREEN, "^", "variance"),
                ([one.risk[index] for one in each], VERMILION, "o", "risk"),
            ):
                axes.plot(places, values, color=colour, marker=marker, label=part)
            axes.axvline(int(np.argmin([one.risk[index] for one in each])), color="0.6", linestyle=":", zorder=0)
            axes.set_yscale("log")
            axes.set_xticks(places, [f"{one.error:g}" for one in each])
            title = f"{name}, {budgets[index]:.0f} passes"
            label(axes, title, "ε" if row else "", "" if column else "squared error")
            if not row and not column:
                axes.legend(frameon=False)
    return drawing


def main() -> None:
    """Run every ε, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/austerity"))
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--passes", type=float, default=200.0)
    given = parser.parse_args()
    x, y = problem(given.examples)
    exact = fit(model, (x, y), NUTS(chains=4, warmup=500, draws=2500, compile="never"), seed=0).draws
    assert exact is not None
    weights = exact.site("w").reshape(-1, FEATURES)
    mean, sd = weights.mean(0, dtype=np.float64), weights.std(0, dtype=np.float64)
    step_size = 2.4 / FEATURES**0.5 * float(sd.mean())
    starts = torch.from_numpy(weights[:: len(weights) // given.chains][: given.chains].copy())
    budgets = np.geomspace(5, given.passes, 8)
    found: dict[str, list[Found]] = {"posterior mean": [], "posterior variance": []}
    print(f"N = {given.examples}, {given.chains} chains; risk after so many passes over the data")
    print("| estimate | ε | data per decision | acceptance | " + " | ".join(f"{one:.0f}" for one in budgets) + " |")
    print("| --- | --- | --- | --- |" + " --- |" * len(budgets))
    for error in ERRORS:
        positions, costs, acceptance = run(error, (x, y), starts, step_size, given.passes)
        white = (positions.astype(np.float64) - mean) / sd
        share = float(costs[:, -1].sum() / costs.size)
        for name, values, truth in (("posterior mean", white, 0.0), ("posterior variance", np.square(white), 1.0)):
            bias, variance, risk = np.array(risks(values, truth, costs, budgets)).T
            found[name].append(Found(error, share, acceptance, bias, variance, risk))
            numbers = " | ".join(f"{one:.3f}" for one in risk)
            print(f"| {name} | {error:g} | {100 * share:.0f} % | {acceptance:.2f} | {numbers} |", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    figure(found, budgets, (1, 4, 7)).savefig(given.out / "austerity.png", dpi=DPI)
    saved = {
        name: [
            {"error": one.error, "share": one.share, "bias_squared": [*one.bias_squared], "variance": [*one.variance]}
            for one in each
        ]
        for name, each in found.items()
    }
    (given.out / "austerity.json").write_text(json.dumps({"passes": [*budgets], **saved}, indent=1) + "\n")


if __name__ == "__main__":
    main()
