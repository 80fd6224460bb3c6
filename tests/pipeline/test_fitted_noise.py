"""A noise that was inferred counts wherever one network stands for the posterior."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import NetworkError
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.likelihoods.fitted import fitted
from tests.pipeline.conftest import cli

GENERATOR = torch.Generator().manual_seed(0)
SIGMA = 0.1


@pytest.fixture(scope="module")
def line() -> pc.DataSet:
    x = torch.randn(600, 1, generator=GENERATOR)
    y = 2 * x + SIGMA * torch.randn(600, 1, generator=GENERATOR)
    return pc.data.as_data((x[:400], y[:400]), validation=100, test=(x[400:], y[400:]), name="line")


@pytest.mark.parametrize("method", ["svi", "nuts", "map"])
def test_the_noise_is_what_the_posterior_says(line: pc.DataSet, method: str) -> None:
    torch.manual_seed(0)
    model = pc.BayesianNetwork(nn.Linear(1, 1), pc.models.Normal(), pc.models.Gaussian())
    how = {
        "svi": pc.inference.SVI(epochs=150, batch_size=100, learning_rate=0.03),
        "nuts": NUTS(chains=1, warmup=150, draws=100),
        "map": pc.inference.MAP(epochs=150, batch_size=100, learning_rate=0.03),
    }
    found = fitted(model.likelihood, pc.fit(model, line, how[method], seed=0))
    assert isinstance(found, pc.models.Gaussian) and found.noise == pytest.approx(SIGMA, rel=0.15)
    known = pc.models.Gaussian(noise=0.3)
    assert fitted(known, pc.fit(model, line, pc.inference.MAP(epochs=1), seed=0)) is known


def test_bounds_of_a_vae_take_it() -> None:
    weight = torch.randn(5, 2, generator=GENERATOR)
    x = torch.randn(500, 2, generator=GENERATOR) @ weight.T + SIGMA * torch.randn(500, 5, generator=GENERATOR)
    data = pc.data.as_data((x[:400], x[:400]), validation=100, test=(x[400:], x[400:]))
    torch.manual_seed(0)
    network = pc.models.EncoderDecoder(nn.Linear(5, 4), nn.Linear(2, 5), pc.models.GaussianCodes(2))
    model = pc.VAE(network, {}, pc.models.Gaussian())
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=300, batch_size=100, learning_rate=0.02), seed=0)
    values = model.values_at(posterior)
    decoder, bias, sigma = values["decoder.weight"], values["decoder.bias"], values["noise"]
    covariance = decoder @ decoder.T + sigma**2 * torch.eye(5)
    exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(data.test_x)
    found = pc.models.log_likelihood(model, values, data.test_x, samples=500)
    torch.testing.assert_close(found.mean(), exact.mean(), atol=0.05, rtol=0)
    assert pc.models.elbo(model, values, data.test_x, samples=20).mean() < exact.mean() + 0.05
    history: Any = posterior.provenance["history"]
    assert history[-1]["validation_error"] == pytest.approx(-float(exact.mean()), abs=1.0)
    assert posterior.statistics["codes_far_percent"] < 20
    without = {name: value for name, value in values.items() if name != "noise"}
    with pytest.raises(NetworkError, match="needs a value of 'noise'"):
        pc.models.elbo(model, without, data.test_x)


def test_training_on_the_grid_weighs_the_data_by_it() -> None:
    # one weight in ten is large; the others are worth a hundred nats each at the true noise, and nothing at σ = 1
    weight = torch.tensor([1.0] + [0.03] * 9)[:, None]
    x = torch.randn(1500, 10, generator=GENERATOR)
    y = x @ weight + 0.03 * torch.randn(1500, 1, generator=GENERATOR)
    data = pc.data.as_data((x[:1000], y[:1000]), validation=300, test=(x[1000:], y[1000:]))
    torch.manual_seed(0)
    model = pc.BayesianNetwork(nn.Sequential(nn.Linear(10, 1)), pc.models.Normal(), pc.models.Gaussian())
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=150, batch_size=250, learning_rate=0.02), seed=0)
    how = pc.DecisionSettings(
        fine_tune_epochs=40, rate_weights=(1.0,), refine=False, lower_stages=0, stage_tolerance_points=1.0
    )
    stored = pc.decide(posterior, model, data, how).sites["0.weight"].stored()
    np.testing.assert_allclose(stored[0], weight[:, 0], atol=0.01)


def test_a_run_says_the_nats_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: pc.DataSet) -> None:
    arrays = {f"{part}_{kind}": getattr(line, f"{part}_{kind}").numpy() for part in ("train", "test") for kind in "xy"}
    np.savez(tmp_path / "line.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Linear(1, 1))\n"
    (tmp_path / "noisy_line.py").write_text(source)
    options = ("--prior", "normal", "--likelihood", "gaussian", "--set", "method.learning_rate=0.03", "--epochs", "150")
    cli("run", "--network", "noisy_line:net", "--data", "line.npz", *options, "--out", "run")
    results = json.loads((tmp_path / "run/results.json").read_text())
    squares, sigma = results["error_after_percent"] / 100, SIGMA
    right = 0.5 * squares / sigma**2 + math.log(sigma) + 0.5 * math.log(2 * math.pi)
    assert results["nll_nats_per_example"] == pytest.approx(right, abs=0.15)
    # of the file alone nobody knows it
    said = cli("evaluate", "run/network.pyrc", "--data", "line.npz", "--likelihood", "gaussian", "--json").out
    assert "nll_nats_per_example" not in json.loads(said)
