"""EM against amortised inference on probabilistic PCA of the digits: a figure of docs/evidence.md.

    python -m benchmarks.amortised --out docs/images/amortised.png      # a minute on one core

    z ~ N(0, I_K),   x | z ~ N(W z + b, σ² I)

σ is that of the maximum (Tipping & Bishop 1999), b the mean of x at the start.  EM has the exact posterior of every
example at every step.  The VAE has one linear map to its mean, and a variance per number of the code, for all of them.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.inference.fit import EpochRecord
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.report.drawing import BLUE, GREEN, VERMILION, label, new_figure

Curve = list[float]


def maximum(x: Tensor, codes: int) -> tuple[float, float]:
    """σ and the log-likelihood per example at the maximum (Tipping & Bishop 1999, equations 7 and 8)."""
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))[::-1]
    variance = float(values[codes:].mean())
    log_determinant = np.log(values[:codes]).sum() + (len(values) - codes) * math.log(variance)
    return math.sqrt(variance), float(-0.5 * (len(values) * (math.log(2 * math.pi) + 1) + log_determinant))


def likelihood(x: Tensor, weight: Tensor, bias: Tensor, sigma: float) -> float:
    """log N(x; b, W Wᵀ + σ² I), nats per example."""
    covariance = weight @ weight.T + sigma**2 * torch.eye(len(weight), dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(bias, covariance).log_prob(x).mean())


def by_em(x: Tensor, weight: Tensor, sigma: float, passes: int) -> Curve:
    """Log-likelihood after every pass (Tipping & Bishop 1999, appendix B)."""
    bias, found = x.mean(0), []
    centred = x - bias
    for _ in range(passes):
        found.append(likelihood(x, weight, bias, sigma))
        covariance = torch.linalg.inv(weight.T @ weight + sigma**2 * torch.eye(weight.shape[1], dtype=torch.float64))
        mean = centred @ weight @ covariance
        weight = centred.T @ mean @ torch.linalg.inv(len(x) * sigma**2 * covariance + mean.T @ mean)
    return [*found, likelihood(x, weight, bias, sigma)]


def by_vae(x: Tensor, weight: Tensor, sigma: float, epochs: int) -> tuple[Curve, Curve]:
    """Log-likelihood and ELBO after every pass, from the same W and b."""
    width, codes = weight.shape
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(width, 2 * codes), nn.Linear(codes, width)
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(x.mean(0))
    network = pc.models.EncoderDecoder(encoder, nn.Sequential(decoder), pc.models.GaussianCodes(codes))
    model = pc.VAE(network, {}, Gaussian(noise=sigma))
    curves: tuple[Curve, Curve] = ([], [])

    def note(values: Any) -> None:
        with torch.no_grad():
            encode, shift, decode, bias = (
                values[name].double()
                for name in ("encoder.weight", "encoder.bias", "decoder.0.weight", "decoder.0.bias")
            )
            curves[0].append(likelihood(x, decode, bias, sigma))
            mean, log_variance = (x @ encode.T + shift).chunk(2, 1)
            variance = log_variance.exp()
            square = (x - mean @ decode.T - bias).square().sum(1) + (variance * decode.square().sum(0)).sum(1)
            fit = -0.5 * square / sigma**2 - width * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
            curves[1].append(float((fit - 0.5 * (variance + mean.square() - 1 - log_variance).sum(1)).mean()))

    def after(record: EpochRecord, state: Any) -> None:
        note(state.model.free_values())

    note(dict(model.network.named_parameters()))
    method = pc.inference.SVI(
        epochs=epochs, batch_size=100, learning_rate=3e-3, schedule="linear", kl_warmup=0.0, compile="never"
    )
    pc.fit(model, x.float(), method, callbacks=[after])
    return curves


def figure(em: Curve, exact: Curve, bound: Curve, best: float) -> Figure:
    """Nats that are missing to the maximum, over passes over the data."""
    drawn = new_figure(4.6, "Probabilistic PCA: EM against amortised inference")
    axes = drawn.subplots()
    for values, colour, style, name in (
        (em, BLUE, "-", "EM: log-likelihood"),
        (exact, VERMILION, "-", "VAE: log-likelihood of its decoder"),
        (bound, GREEN, "--", "VAE: ELBO"),
    ):
        axes.plot(np.arange(len(values)) + 1, best - np.array(values), color=colour, linestyle=style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # EM goes on to the last bits of a double, which would leave the rest a tenth of the height
    axes.set_ylim(bottom=1e-3)
    label(axes, "", "passes over the data + 1", "nats per example below the maximum")
    axes.legend(frameon=False)
    return drawn


def main() -> None:
    """Fit both, print where they end and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=8)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/amortised.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    # pixels of the digits lie in [0, 1]
    x = pc.data.load("digits").train_x.flatten(1).double()
    sigma, best = maximum(x, given.codes)
    start = 0.1 * torch.randn(x.shape[1], given.codes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    em = by_em(x, start, sigma, given.passes)
    exact, bound = by_vae(x, start, sigma, given.passes)
    print(f"| passes | {' | '.join(str(count) for count in (0, 1, 10, 50, given.passes))} |\n{'| --- ' * 6}|")
    for name, values in (("EM", em), ("VAE, log-likelihood", exact), ("VAE, ELBO", bound)):
        cells = (f"{best - values[count]:.3f}" for count in (0, 1, 10, 50, given.passes))
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"maximum {best:.3f} nats per example, σ = {sigma:.4f}, {len(x):,} examples")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure(em, exact, bound, best).savefig(given.out)


if __name__ == "__main__":
    main()
