"""Do SVI and NUTS rank the weights of a small network alike?  Prints Spearman's ρ and draws the figure.

    python benchmarks/snr_ranking.py --out runs/snr_ranking.png

The network has two inputs, 20 tanh units and one output; the target is a smooth function of both inputs plus noise
of a known size.  NUTS draws are brought to the names that SVI's mean gives the hidden units, or no rank of a weight
would mean anything; the method by which that was done is printed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.moments import OneMode, one_mode
from pyro_compress.analysis.weight_draws import WeightDraws
from pyro_compress.inference.fit import fit
from pyro_compress.models.tracing import trace
from pyro_compress.posterior import ParameterPosterior, Posterior
from pyro_compress.report.drawing import DPI
from pyro_compress.report.snr_comparison import ranking, snr_comparison

HIDDEN, EXAMPLES, NOISE = 20, 200, 0.1


def problem(seed: int) -> tuple[nn.Module, pc.BayesianNetwork, tuple[torch.Tensor, torch.Tensor]]:
    """(network, model, examples)."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(EXAMPLES, 2, generator=generator) - 2
    y = torch.sin(2 * x[:, :1]) + 0.5 * x[:, 1:].square() - 0.5
    y = y + NOISE * torch.randn(y.shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
    model = pc.BayesianNetwork(network, pc.models.Normal(scale=1.0), pc.models.Gaussian(noise=NOISE))
    return network, model, (x, y)


def aligned_to(reference: Posterior, sampled: Posterior, network: nn.Module) -> OneMode:
    """Moments of draws, with the hidden units named as the reference names them."""
    assert sampled.draws is not None
    means = {name: site.mean.astype(np.float64) for name, site in reference.parameters.items()}
    weights = WeightDraws.of(sampled, sampled.draws)
    return one_mode(weights, trace(network, (2,)), reference=means)


def compare(first: Posterior, sampled: Posterior, network: nn.Module, out: Path) -> None:
    """Print what the ranks have in common, and write the figure."""
    found = aligned_to(first, sampled, network)
    parameters = {
        name: ParameterPosterior(found.mean[name], found.variance[name], site.prior)
        for name, site in sampled.parameters.items()
    }
    compared = ranking(first.parameters, parameters)
    print("NUTS moments:", ", ".join(f"{name} {value}" for name, value in found.method.items()))
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
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--chains", type=int, default=4)
    given = parser.parse_args()
    network, model, examples = problem(given.seed)
    svi = pc.inference.SVI(epochs=given.epochs, batch_size=EXAMPLES, learning_rate=0.01)
    nuts = pc.inference.NUTS(warmup=given.warmup, draws=given.draws, chains=given.chains)
    compare(fit(model, examples, svi, seed=given.seed), fit(model, examples, nuts, seed=given.seed), network, given.out)


if __name__ == "__main__":
    main()
