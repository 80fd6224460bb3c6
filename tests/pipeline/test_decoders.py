"""The road of a variational autoencoder: what it compares is the bound, and what it writes is the decoder."""

import copy

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.named import load
from pyro_compress.errors import DecisionError
from pyro_compress.inference import SVI
from pyro_compress.models import networks
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.decoders import at_mean, decoder_road
from pyro_compress.pipeline.validation import nothing_pruned
from pyro_compress.posterior.posterior import Posterior

Fitted = tuple[VAE, DataSet, Posterior]
Decided = tuple[Decision, list[str]]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    torch.manual_seed(0)
    data = load("digits").reconstructing("static")
    model = VAE(networks.build("vae-digits"), "normal")
    return model, data, pc.fit(model, data, SVI(epochs=10, batch_size=64, learning_rate=1e-2), seed=0)


SETTINGS = DecisionSettings(fine_tune_epochs=2, rate_weights=(1.0,), tolerance_nats=1.0)


@pytest.fixture(scope="module")
def decided(fitted: Fitted) -> Decided:
    model, data, posterior = fitted
    said: list[str] = []
    return pc.decide(posterior, model, data, SETTINGS, say=said.append), said


def test_what_the_error_rises_by_is_what_the_bound_loses(fitted: Fitted) -> None:
    """At the same codes the KL of q(z | x) cancels, whatever the two decoders are."""
    model, data, posterior = fitted
    road = decoder_road(model.network, posterior, data, model.likelihood)
    network = at_mean(model.network, posterior)
    other = copy.deepcopy(road.network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    z, x = road.data.part("validation")
    with torch.no_grad():
        q = network.codes.posterior(network.encoder(data.validation_x))
        prior = network.codes.prior().expand(q.batch_shape)
        kl = torch.distributions.kl_divergence(q, prior)
        bounds = [(model.likelihood.log_prob(decoder(z), x) - kl).mean() for decoder in (road.network, other)]
        errors = [road.likelihood.error(decoder(z), x).mean() for decoder in (road.network, other)]
    assert float(errors[1] - errors[0]) == pytest.approx(float(bounds[0] - bounds[1]), rel=1e-4)
    assert float(errors[1] - errors[0]) > 0.1


def test_codes_are_draws_of_the_encoder_and_torch_is_left_alone(fitted: Fitted) -> None:
    model, data, posterior = fitted
    state = torch.get_rng_state()
    road, again = (decoder_road(model.network, posterior, data, model.likelihood) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(road.data.train_x, again.data.train_x)
    network = at_mean(model.network, posterior)
    mean, log_variance = network.encoder(data.train_x).detach().split(8, 1)
    standard = (road.data.train_x - mean) / (0.5 * log_variance).exp()
    assert abs(float(standard.mean())) < 0.05
    assert float(standard.std()) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(
        road.posterior.parameters["fc1.weight"].mean, posterior.parameters["decoder.fc1.weight"].mean
    )


def test_the_file_holds_the_decoder_and_its_loss_is_the_decisions(fitted: Fitted, decided: Decided) -> None:
    model, data, posterior = fitted
    decision, _ = decided
    evidence = decision.made_by["validation"]
    assert isinstance(evidence, dict)
    artifact = pc.compress(model, decision)
    assert artifact.network.architecture.shapes()[0] == (8,)
    road = decoder_road(model.network, posterior, data, model.likelihood)
    z, x = road.data.part("validation")
    decoded = artifact.to_torch().eval()
    with torch.no_grad():
        lost = float((road.likelihood.error(decoded(z), x) - road.likelihood.error(road.network(z), x)).mean())
    # a dead unit's constant is folded into the next bias, which is rounded to its grid again
    assert 100 * lost == pytest.approx(evidence["rise_points"], abs=5)
    assert evidence["within_tolerance"] == (lost <= SETTINGS.tolerance_nats)
    assert len(artifact) * 8 < sum(4 * p.numel() for p in model.network.decoder.parameters())


def test_lines_are_in_nats(decided: Decided) -> None:
    _, said = decided
    assert any("nats" in line for line in said)
    assert not any("points" in line or "% validation" in line for line in said)


def test_a_larger_tolerance_is_a_smaller_file(fitted: Fitted) -> None:
    model, data, posterior = fitted
    small, large = (
        len(
            pc.compress(
                model,
                pc.decide(
                    posterior,
                    model,
                    data,
                    DecisionSettings(fine_tune_epochs=0, tolerance_nats=nats),
                    say=lambda line: None,
                ),
            )
        )
        for nats in (0.02, 3.0)
    )
    assert large < small


def test_what_is_refused(fitted: Fitted) -> None:
    model, data, posterior = fitted
    with pytest.raises(DecisionError, match="reconstructing"):
        pc.decide(posterior, model, load("digits"), SETTINGS)
    with pytest.raises(DecisionError, match="teacher_draws"):
        pc.decide(posterior, model, data, DecisionSettings(teacher_draws=2))
    with pytest.raises(DecisionError, match="tolerances"):
        DecisionSettings(tolerance_nats=-1.0)
    decision = nothing_pruned(decoder_road(model.network, posterior, data, model.likelihood).posterior)
    assert isinstance(model.network, EncoderDecoder)
    with pytest.raises(DecisionError, match="target_bytes"):
        pc.compress(model, decision, target_error=1.0)
