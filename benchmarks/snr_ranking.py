"""Do SVI and NUTS rank the weights of a small network alike?  Prints Spearman's ρ and draws the figure.

    python benchmarks/snr_ranking.py --out runs/snr_ranking.png          # about two minutes on one core

The network has two inputs, 20 tanh units and one output; the target is a smooth function of both inputs plus noise
of a known size.  Every NUTS draw is brought to the names that SVI's mean gives the hidden units, or no rank of a weight
would mean anything.  Chains are judged after that: R-hat of every weight and bias, and R-hat of the predictions, which
no name changes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.diagnosis.arviz_versions import arviz
from pyro_compress.analysis.modes.alignment import match, rename_all
from pyro_compress.analysis.modes.moments import OneMode, one_mode
from pyro_compress.analysis.modes.symmetries import hidden_spaces
from pyro_compress.analysis.modes.weight_draws import WeightDraws
from pyro_compress.inference.fit import fit
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from pyro_compress.report.drawing import DPI
from pyro_compress.report.snr_comparison import ranking, snr_comparison

HIDDEN, EXAMPLES, NOISE = 20, 100, 0.3
# sd of the output weights a priori: 20 of them with sd 1 would make trajectories several times as long
OUTPUT_SCALE = 0.3
Examples = tuple[torch.Tensor, torch.Tensor]
Arrays = dict[str, np.ndarray]


def problem(seed: int) -> tuple[nn.Module, pc.BayesianNetwork, Examples]:
    """(network, model, examples)."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(EXAMPLES, 2, generator=generator) - 2
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:].square() - 0.5
    y = y + NOISE * torch.randn(y.shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
    prior = {"0.*": pc.models.Normal(scale=1.0), "2.*": pc.models.Normal(scale=OUTPUT_SCALE)}
    return network, pc.BayesianNetwork(network, prior, pc.models.Gaussian(noise=NOISE)), (x, y)


def aligned(weights: WeightDraws, network: nn.Module, reference: Arrays) -> tuple[OneMode, Arrays]:
    """Moments of draws with the hidden units of each named as in the reference, and those draws, (chain, draw, …)."""
    architecture = trace(network, (2,))
    spaces = hidden_spaces(architecture)
    chains, count = weights.draws.chains, weights.draws.count
    rows = [[weights.row(chain, draw) for draw in range(count)] for chain in range(chains)]
    renamed = [[rename_all(spaces, match(spaces, reference, row), row) for row in chain] for chain in rows]
    draws = {name: np.array([[row[name] for row in chain] for chain in renamed]) for name in reference}
    return one_mode(weights, architecture, align_by="draw", reference=reference), draws


def predictions(draws: Arrays, x: np.ndarray) -> np.ndarray:
    """Outputs (chain, draw, example) of every draw."""
    hidden = np.tanh(np.einsum("cduf,nf->cdnu", draws["0.weight"], x) + draws["0.bias"][:, :, None])
    return np.einsum("cdnu,cdou->cdn", hidden, draws["2.weight"]) + draws["2.bias"]


def r_hat(values: np.ndarray) -> np.ndarray:
    """Rank-normalised, of every number of (chain, draw, …)."""
    flat = values.reshape(*values.shape[:2], -1)
    return np.asarray(arviz().rhat(xr.Dataset({"x": (("chain", "draw", "number"), flat)}))["x"])


def report_chains(sampled: Posterior, draws: Arrays, x: np.ndarray) -> None:
    """Print what says whether the chains are to be believed."""
    assert sampled.draws is not None
    noted = sampled.draws.statistics
    print(
        f"NUTS: {noted['n_steps'].mean():.0f} steps per draw, {noted['diverging'].sum():.0f} divergences, "
        f"{100 * (noted['tree_depth'] >= pc.inference.NUTS().max_tree_depth).mean():.0f} % of the trees at the limit"
    )
    of_weights = np.concatenate([r_hat(values) for values in draws.values()])
    worst = ", ".join(
        f"{name} {values.max():.3f}"
        for name, values in (
            ("weights and biases after alignment", of_weights),
            ("predictions", r_hat(predictions(draws, x))),
            ("log joint", r_hat(noted["lp"])),
        )
    )
    print(f"largest R-hat: {worst}; {100 * (of_weights > 1.01).mean():.0f} % of the weights above 1.01")


def compare(first: Posterior, sampled: Posterior, network: nn.Module, x: np.ndarray, out: Path) -> None:
    """Print what the ranks have in common, and write the figure."""
    assert sampled.draws is not None
    means = {name: site.mean.astype(np.float64) for name, site in first.parameters.items()}
    found, draws = aligned(WeightDraws.of(sampled, sampled.draws), network, means)
    report_chains(sampled, draws, x)
    print("NUTS moments:", ", ".join(f"{name} {value}" for name, value in found.method.items()))
    parameters = {
        name: ParameterPosterior(found.mean[name], found.variance[name], site.prior)
        for name, site in sampled.parameters.items()
    }
    compared = ranking(first.parameters, parameters)
    print(f"Spearman's ρ over {sum(a.size for a in compared.first.values())} weights: {compared.correlation():.3f}")
    for kept in (0.25, 0.5, 0.75):
        print(f"the {100 * kept:.0f} % of highest ratio agree in {100 * compared.agreement(kept):.0f} %")
    out.parent.mkdir(parents=True, exist_ok=True)
    snr_comparison(compared, "SVI", "NUTS").savefig(out, dpi=DPI)
    print(f"figure: {out}")


def main() -> None:
    """Parse the command line, fit both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/snr_ranking.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3000, help="of SVI, a step each")
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=250)
    parser.add_argument("--chains", type=int, default=4)
    given = parser.parse_args()
    network, model, examples = problem(given.seed)
    svi = pc.inference.SVI(epochs=given.epochs, batch_size=EXAMPLES, learning_rate=0.01)
    nuts = pc.inference.NUTS(warmup=given.warmup, draws=given.draws, chains=given.chains, compile="always")
    fitted, sampled = (fit(model, examples, method, seed=given.seed) for method in (svi, nuts))
    print(f"ELBO of SVI: {fitted.statistics['elbo_nats']:.1f} nats")
    compare(fitted, sampled, network, examples[0].numpy(), given.out)


if __name__ == "__main__":
    main()
