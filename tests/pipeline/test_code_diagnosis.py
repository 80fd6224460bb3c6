"""Whether an encoder is believed: exact posteriors of codes pass, others are flagged, and so are codes without use."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.diagnosis.code_flags import code_flags
from pyro_compress.pipeline.code_diagnosis import flags_of_codes
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from tests.pipeline.conftest import Cli

WIDTH, INPUTS, NOISE = 2, 4, 0.5


def linear(shift: float = 0.0, narrower: float = 1.0) -> tuple[pc.VAE, Posterior, torch.Tensor, torch.Tensor]:
    """x = W z + ε: a linear encoder can have the codes' posterior, N(m, S); here it has m + shift, S / narrower².

    Returns the model, a posterior that holds its weights, inputs, and ln p(x) of every one.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(INPUTS, WIDTH, generator=generator)
    # columns that don't interfere, so that the posterior has independent numbers
    u, s, _ = torch.linalg.svd(w, full_matrices=False)
    w = u * s
    covariance = torch.diag(1 / (1 + s**2 / NOISE**2))
    encoder, decoder = nn.Linear(INPUTS, 2 * WIDTH), nn.Linear(WIDTH, INPUTS, bias=False)
    with torch.no_grad():
        decoder.weight.copy_(w)
        encoder.weight.zero_()
        encoder.weight[:WIDTH] = covariance @ w.T / NOISE**2
        encoder.bias[:WIDTH] = shift * covariance.diag().sqrt()
        encoder.bias[WIDTH:] = covariance.diag().log() - 2 * math.log(narrower)
    network = pc.models.EncoderDecoder(encoder, decoder, pc.models.GaussianCodes(WIDTH))
    model = pc.VAE(network, {}, pc.models.Gaussian(noise=NOISE))
    point = {name: ParameterPosterior.point(value.detach().numpy()) for name, value in network.named_parameters()}
    x = torch.randn(200, WIDTH, generator=generator) @ w.T + NOISE * torch.randn(200, INPUTS, generator=generator)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(INPUTS), w @ w.T + NOISE**2 * torch.eye(INPUTS))
    return model, Posterior(point, {}, kind="point"), x, marginal.log_prob(x)


def looked(*linear: Any) -> tuple[list[str], dict[str, Any]]:
    model, posterior, x, _ = linear
    found: dict[str, Any] = {}
    return [flag.name for flag in flags_of_codes(posterior, model, x, found)], found


def test_the_exact_posterior_has_no_gap_and_no_flag() -> None:
    names, found = looked(*linear())
    assert names == [] and found["codes_gap_nats"] == pytest.approx(0, abs=1e-4)
    assert (found["code_numbers"], found["active_code_numbers"], found["codes_looked_at"]) == (2, 2, 100)
    assert found["codes_far_percent"] == 0


def test_the_gap_is_the_kl_divergence_between_encoder_and_posterior() -> None:
    """KL(N(m + ½ s, s²) ‖ N(m, s²)) = ⅛ of every number."""
    names, found = looked(*linear(shift=0.5))
    assert names == [] and found["codes_gap_nats"] == pytest.approx(WIDTH / 8, rel=0.1)
    model, posterior, x, exact = linear(shift=0.5)
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    bound = pc.models.elbo(model, values, x, samples=2000)
    assert float((exact - bound).mean()) == pytest.approx(WIDTH / 8, rel=0.1)


@pytest.mark.parametrize("wrong", [{"shift": 6.0}, {"narrower": 4.0}])
def test_an_encoder_far_from_the_posterior_is_flagged(wrong: dict[str, float]) -> None:
    model, posterior, x, _ = linear(**wrong)
    found: dict[str, Any] = {}
    (flag,) = flags_of_codes(posterior, model, x, found)
    assert flag.name == "codes_pareto_k" and found["codes_far_percent"] > 50
    assert "of 100 examples (Pareto k-hat above 0.7)" in flag.sentence and "of 1,000 codes" in flag.sentence


def test_codes_that_say_nothing_are_flagged() -> None:
    model, posterior, x, _ = linear()
    for name, site in posterior.parameters.items():
        if name.startswith(("encoder", "decoder")):
            site.mean[:] = 0.0
    names, found = looked(model, posterior, x, None)
    assert names == ["codes_collapsed"] and found["active_code_numbers"] == 0


def test_weights_that_overflow_are_flagged() -> None:
    found: dict[str, Any] = {}
    (flag,) = code_flags(np.full((50, 3), np.nan), np.array([True]), found)
    assert flag.name == "codes_pareto_k" and "the encoder has run away" in flag.sentence
    weights = np.zeros((50, 3))
    weights[3, 1] = -np.inf
    assert not list(code_flags(weights, np.array([True]), found)) and found["codes_looked_at"] == 2


def test_a_fit_and_the_command_line_say_it(cli: Cli, tmp_path: Path) -> None:
    data = pc.data.load("digits").reconstructing("static")
    codes = pc.models.GaussianCodes(4)
    network = pc.models.EncoderDecoder(
        nn.Sequential(nn.Flatten(), nn.Linear(64, codes.outputs)), nn.Linear(4, 64), codes
    )
    model = pc.VAE(network, "log-uniform")
    posterior = pc.fit(model, data, pc.inference.SVI(epochs=20, batch_size=50, learning_rate=5e-3, kl_warmup=0.0))
    assert posterior.statistics["code_numbers"] == 4 and posterior.statistics["codes_looked_at"] == 50
    diagnosis = pc.diagnose(posterior, model, data)
    assert diagnosis.statistics["codes_looked_at"] == 100 and diagnosis.statistics["codes_gap_nats"] > 0
    out = tmp_path / "run"
    assert cli("fit", "vae/digits", "--epochs", "2", "--pretrain-epochs", "0", "--out", out).code == 0
    said = cli("diagnose", out)
    assert said.code == 0, said.err
    assert "numbers vary from example to example; at 100 examples the ELBO lies" in said.out
    assert '"codes_gap_nats"' in (out / "diagnosis.json").read_text()
