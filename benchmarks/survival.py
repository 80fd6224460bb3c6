"""Concordance of Cox regression on a survival data set's test part: linear, deep, Bayesian, and from a run's file.

    python benchmarks/survival.py rossi runs/survival-rossi

The partial likelihood sees all training examples at every step; the run is one of `pyro-compress run survival/rossi`.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.named import load
from pyro_compress.inference.contract import Method
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.hazards import survival
from pyro_compress.models.likelihoods import Cox, PiecewiseExponential
from pyro_compress.models.likelihoods.cox import breslow
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from pyro_compress.report.survival import survival_scores

Curve = Callable[[torch.Tensor], torch.Tensor]
DRAWS = 100


def main(name: str, run: Path) -> None:
    """Print a row per model."""
    torch.set_num_threads(1)
    data = load(name)
    print("| model | concordance (95 %) | integrated Brier | calibration | −ln PL per example |\n" + "| --- " * 5 + "|")
    whole: dict[str, Any] = {"batch_size": len(data.train_x)}
    torch.manual_seed(0)
    linear, deep = nn.Sequential(nn.Linear(7, 1, bias=False)), survival().log_hazard_ratio
    assert isinstance(deep, nn.Module)
    fits: list[tuple[str, nn.Module, Any, Method]] = [
        ("linear Cox", linear, {}, MAP(epochs=800, learning_rate=1e-2, **whole)),
        ("deep Cox, 150 steps", deep, {}, MAP(epochs=150, learning_rate=1e-3, **whole)),
        ("Bayesian deep Cox, normal prior", deep, Normal(scale=0.3), SVI(epochs=800, learning_rate=1e-2, **whole)),
        ("Bayesian deep Cox, log-uniform prior", deep, LogUniform(), SVI(epochs=800, learning_rate=1e-2, **whole)),
    ]
    for label, network, prior, method in fits:
        model = pc.BayesianNetwork(network, prior, Cox())
        posterior = pc.fit(model, data, method, seed=0)
        curves = [_curves(eta, data) for eta in _log_ratios(model, posterior, data)]
        risk = torch.stack([test for _, _, test in curves]).exp().mean(0)
        row(label, risk, partial(_mean_at, [one for one, _, _ in curves]), data)
    settings = RunSettings.load(run / "settings.json")
    likelihood = settings.build_likelihood()
    assert isinstance(likelihood, PiecewiseExponential)
    network = load_artifact(run / "network.pyrc").to_torch()
    with torch.no_grad():
        output = network(data.test_x)
    size = (run / "network.pyrc").stat().st_size
    row(f"the file, {size} bytes", likelihood.risk(output), partial(likelihood.survival, output), data)


def row(label: str, risk: torch.Tensor, curve: Curve, data: DataSet) -> None:
    """One line of the table."""
    found = survival_scores(risk, curve, data.test_y, resamples=200)
    low, high = found["concordance_interval_95"]
    partial_likelihood = -float(Cox().log_prob(risk.log(), data.test_y).mean())
    print(
        f"| {label} | {found['concordance']:.3f} ({low:.3f}-{high:.3f}) | {found['integrated_brier_score']:.4f} | "
        f"{found['calibration_error']:.3f} | {partial_likelihood:.3f} |",
        flush=True,
    )


def _log_ratios(model: pc.BayesianNetwork, posterior: Posterior, data: DataSet) -> list[tuple[torch.Tensor, ...]]:
    """η of training and test examples at every draw; at the one point of a point estimate."""
    sites, generator = posterior.parameters, torch.Generator().manual_seed(0)
    found = []
    for _ in range(1 if posterior.kind == "point" else DRAWS):
        drawn = {name: _draw(site, generator) for name, site in sites.items()}
        with torch.no_grad():
            outputs = (torch.func.functional_call(model.network, drawn, (x,)) for x in (data.train_x, data.test_x))
            found.append(tuple(output[:, 0].double() for output in outputs))
    return found


def _mean_at(curves: list[Curve], times: torch.Tensor) -> torch.Tensor:
    return torch.stack([curve(times) for curve in curves]).mean(0)


def _draw(site: ParameterPosterior, generator: torch.Generator) -> torch.Tensor:
    mean = torch.as_tensor(site.mean)
    noise = torch.randn(mean.shape, generator=generator)
    return mean if site.is_point else mean + torch.as_tensor(site.variance).sqrt() * noise


def _curves(eta: tuple[torch.Tensor, ...], data: DataSet) -> tuple[Curve, torch.Tensor, torch.Tensor]:
    """S(t | x) of test examples by Breslow's baseline of the training part, and η of both."""
    train, test = eta
    jumps, cumulative = breslow(train, data.train_y)
    padded = torch.cat([torch.zeros(1, dtype=cumulative.dtype), cumulative])

    def curve(times: torch.Tensor) -> torch.Tensor:
        return (-padded[torch.searchsorted(jumps, times.double(), right=True)] * test.exp()[:, None]).exp()

    return curve, train, test


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
