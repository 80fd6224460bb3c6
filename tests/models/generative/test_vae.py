"""The variational autoencoder's program against one written by hand, and its fits against closed forms."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, InferenceError, NetworkError, PriorError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.speed.recording import programs_alone
from pyro_compress.inference.variational import base, recorded_step
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.posterior import Posterior

INPUTS, WIDTH, SIZE = 6, 2, 40


def network() -> EncoderDecoder:
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, 2 * WIDTH))
    decoder = nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, INPUTS))
    return EncoderDecoder(encoder, decoder, GaussianCodes(WIDTH))


def grey() -> DataSet:
    x = torch.rand(SIZE, INPUTS, generator=torch.Generator().manual_seed(1))
    return as_data((x, x), validation=10)


def state_of(model: VAE, method: Any) -> Any:
    state = method.init(model, SIZE, 0)
    with torch.no_grad():
        for parameter in state.guide.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return state


def by_hand(state: Any) -> tuple[Any, Any]:
    """The same model and guide in plain Pyro, over the same numbers."""
    free, guide = state.model.free_values(), state.guide
    encode = [free[f"encoder.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    shapes = {name: site.shape for name, site in guide.sites.items()}

    def dense(x: Any, first: Any, first_bias: Any, second: Any, second_bias: Any) -> Any:
        return torch.tanh(x @ first.T + first_bias) @ second.T + second_bias

    def model(x: Any, size: int) -> None:
        drawn = {
            name: pyro.sample(name, dist.Normal(0.0, 0.5).expand(shape).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        values = free | drawn
        decode = [values[f"decoder.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(WIDTH), torch.ones(WIDTH)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=dense(z, *decode)).to_event(1), obs=x)

    def guided(x: Any, size: int) -> None:
        for name, shape in shapes.items():
            loc, scale = guide.location_and_scale(name)
            pyro.sample(name, dist.Normal(loc, scale).to_event(len(shape)))
        mean, log_variance = dense(x, *encode).chunk(2, 1)
        with pyro.plate("data", size, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))

    return model, guided


@pytest.mark.parametrize("prior", [{}, Normal(scale=0.5)], ids=["points", "normal"])
@pytest.mark.parametrize("sampled", [False, True], ids=["closed form", "sampled"])
def test_elbo_is_pyros_of_a_model_written_by_hand(prior: Any, sampled: bool) -> None:
    method: Any = BayesByBackprop() if sampled else SVI(estimator="shared")
    state = state_of(VAE(network(), prior), method)
    x = grey().train_x[:7].round()
    with torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(1)
        terms = method.terms(state, (x, x))
        torch.manual_seed(1)
        pyros = (Trace_ELBO() if sampled else TraceMeanField_ELBO()).loss(*by_hand(state), x, SIZE)
        assert float(terms.objective(1.0)) == pytest.approx(pyros, rel=1e-5)
        q = state.model.codes.posterior(state.model.encode(state.model.free_values(), x)).base_dist
    kl = 0.5 * (q.scale**2 + q.loc**2 - 1) - q.scale.log()
    if not sampled:
        # codes belong to examples: their KL counts N/n times, as the data do
        torch.testing.assert_close(terms.by_site["z"], SIZE / 7 * kl.sum())


def test_local_reparameterization_has_the_expectation_of_shared_weights_and_leaves_codes_alone() -> None:
    model, x = VAE(network(), Normal(scale=0.5)), grey().train_x[:7].round()
    found = []
    for estimator in ("local", "shared", "flipout"):
        method = SVI(estimator=estimator)
        state = state_of(model, method)
        torch.manual_seed(0)
        with torch.no_grad():
            draws = torch.stack([method.terms(state, (x, x)).data for _ in range(300)])
        found.append((float(draws.mean()), float(draws.var()) / len(draws)))
    for mean, variance in found[1:]:
        assert abs(mean - found[0][0]) < 5 * math.sqrt(variance + found[0][1])


def test_errors_are_the_negative_elbo_per_example_and_draw_nothing_from_torch() -> None:
    model, x = VAE(network(), Normal()), grey().train_x.round()
    values = {name: value.detach() for name, value in model.network.named_parameters()}
    before = torch.get_rng_state()
    found = torch.stack([model.errors(values, x[rows], x[rows]) for rows in [slice(0, 30)] * 2])
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(found[0], found[1])
    # many copies of one example: the mean over noise is the expectation
    many = model.errors(values, x[:1].expand(4000, -1), x[:1].expand(4000, -1)).double()
    network_ = model.network
    with torch.no_grad():
        mean, log_variance = network_.encoder(x[:1]).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn(4000, WIDTH)
        p = network_.decoder(z).sigmoid()
        nats = -(x[:1] * p.log() + (1 - x[:1]) * (1 - p).log()).sum(1)
        kl = (0.5 * (log_variance.exp() + mean**2 - 1 - log_variance)).sum()
    error = math.sqrt(float(many.var() + nats.var()) / 4000)
    assert abs(float(many.mean()) - float(nats.mean() + kl)) < 5 * error


def principal_components(x: torch.Tensor, width: int) -> tuple[float, float]:
    """σ and the log-likelihood per example of probabilistic PCA at its maximum (Tipping & Bishop 1999, eq. 7 and 8)."""
    values = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    variance = values[width:].mean()
    log_determinant = np.log(values[:width]).sum() + (len(values) - width) * math.log(variance)
    return math.sqrt(variance), -0.5 * (len(values) * (math.log(2 * math.pi) + 1) + log_determinant)


def linear_gaussian() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    factors = torch.randn(200, 2, generator=generator) @ torch.randn(2, 4, generator=generator)
    return 0.4 * factors + 0.3 + 0.3 * torch.randn(200, 4, generator=generator)


@pytest.fixture(scope="module")
def fitted_linear() -> tuple[VAE, Posterior, torch.Tensor, float]:
    x = linear_gaussian()
    sigma, expected = principal_components(x, 2)
    torch.manual_seed(0)
    linear = EncoderDecoder(nn.Linear(4, 4), nn.Sequential(nn.Linear(2, 4)), GaussianCodes(2))
    model = VAE(linear, {}, Gaussian(noise=sigma))
    method = SVI(epochs=800, batch_size=100, learning_rate=0.03, schedule="linear", kl_warmup=0.0)
    return model, fit(model, x, method), x, expected


def values_of(posterior: Posterior) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}


def test_a_linear_gaussian_model_reaches_probabilistic_pca(fitted_linear: Any) -> None:
    model, posterior, x, expected = fitted_linear
    values = values_of(posterior)
    elbo = -float(model.errors(values, x.repeat(100, 1), x.repeat(100, 1)).mean())
    # the likelihood of what was learned, in closed form
    weight, sigma = values["decoder.0.weight"].double(), model.likelihood.noise
    covariance = weight @ weight.T + sigma**2 * torch.eye(4, dtype=torch.float64)
    there = torch.distributions.MultivariateNormal(values["decoder.0.bias"].double(), covariance)
    likelihood = float(there.log_prob(x.double()).mean())
    assert likelihood <= expected + 1e-6 and likelihood == pytest.approx(expected, abs=0.005)
    # the bound is tight where W'W is diagonal, to which the encoder's diagonal covariance turns it
    assert elbo <= likelihood + 0.01 and elbo == pytest.approx(expected, abs=0.02)


def patience(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record after few steps; the list receives what each recording came to."""
    found: list[Any] = []
    original = recorded_step.TracedTerms._traced

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        found.append(original(self, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(recorded_step.TracedTerms, "_traced", noted)
    for module in (recorded_step, base):
        monkeypatch.setattr(module, "TRACE_AFTER", 3)
    return found


def assert_same(first: Posterior, second: Posterior) -> None:
    for name, site in first.parameters.items():
        assert np.array_equal(site.mean, second.parameters[name].mean), name
        assert np.array_equal(site.variance, second.parameters[name].variance), name


@pytest.mark.parametrize("prior", [{}, LogUniform(), GroupHorseshoe()], ids=["points", "log-uniform", "horseshoe"])
def test_recorded_steps_are_those_of_the_program(prior: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = patience(monkeypatch)
    data, method = grey().reconstructing("dynamic"), SVI(epochs=3, batch_size=10, compile="never")
    recorded = fit(VAE(network(), prior), data, method, seed=2)
    assert tried and all(one is not None and not one.draws for one in tried), "all noise comes from the run's stream"
    with programs_alone():
        assert_same(recorded, fit(VAE(network(), prior), data, method, seed=2))


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data, method = grey().reconstructing("dynamic"), SVI(epochs=4, batch_size=10)

    def keep(record: EpochRecord, state: Any) -> None:
        if record.epoch == 1:
            shutil.copy(tmp_path / "whole.pt", tmp_path / "stopped.pt")

    whole = fit(VAE(network(), LogUniform()), data, method, checkpoint=tmp_path / "whole.pt", callbacks=[keep])
    stopped = tmp_path / "stopped.pt"
    assert_same(whole, fit(VAE(network(), LogUniform()), data, method, checkpoint=stopped, resume=True))
    with pytest.raises(InferenceError, match="belongs to another run: its data"):
        fit(VAE(network(), LogUniform()), grey().reconstructing("static"), method, checkpoint=stopped, resume=True)


@pytest.mark.parametrize("prior", [LogUniform(), GroupHorseshoe()], ids=["log-uniform", "horseshoe"])
def test_posteriors_hold_moments_of_the_decoder_and_points_of_the_encoder(prior: Prior) -> None:
    posterior = fit(VAE(network(), prior), grey().reconstructing("static"), SVI(epochs=2, batch_size=10))
    for name, site in posterior.parameters.items():
        covered = name.startswith("decoder.") and name.endswith("weight")
        assert bool((site.variance > 0).all()) == covered and bool((site.variance == 0).all()) != covered, name
        assert (site.prior == type(prior).__name__) == covered
    assert all(name.startswith("decoder.") for name in posterior.latents)
    assert all(math.isfinite(record["validation_error"]) for record in posterior.provenance["history"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("guide", ["full-rank", "low-rank"])
def test_guides_over_all_weights_at_once_serve_too(guide: str) -> None:
    posterior = fit(
        VAE(network(), Normal()), grey().reconstructing("static"), SVI(epochs=2, guide=guide, particles=2, draws=20)
    )
    assert posterior.draws is not None and "z" not in posterior.draws.shapes


def test_under_a_bayesian_network_it_is_a_plain_autoencoder() -> None:
    x, module = grey().train_x, network()
    values = dict(module.named_parameters())
    model = BayesianNetwork(module, {}, Gaussian(noise=1.0))
    with torch.no_grad():
        mean = module.encoder(x)[:, :WIDTH]
        assert torch.equal(model.call_network(values, x), module.decoder(mean))


def test_what_does_not_go_together_is_refused() -> None:
    data = grey().reconstructing("static")
    with pytest.raises(NetworkError, match="found a Linear"):
        VAE(nn.Linear(2, 2), {})
    with pytest.raises(PriorError, match=r"'\*\.weight' matches encoder\.0\.weight, and priors cover 'decoder\.\*'"):
        VAE(network(), {"*.weight": Normal()})
    wrong = EncoderDecoder(nn.Linear(INPUTS, 5), network().decoder, GaussianCodes(WIDTH))
    with pytest.raises(NetworkError, match=r"GaussianCodes\(width=2\) take \(examples, 4\)"):
        fit(VAE(wrong, {}), data, SVI(epochs=1))
    shared = network()
    shared.decoder[-1].bias = shared.encoder[-1].bias  # type: ignore[index]
    shared.decoder[-1].weight = nn.Parameter(torch.zeros(4, 8))  # type: ignore[index]
    with pytest.raises(
        NetworkError, match=r"encoder.*bias and decoder.*bias are one parameter, and priors and files are"
    ):
        VAE(shared, Normal())
    with pytest.raises(DataError, match="user data: train: an array masks 1 of its 12 numbers"):
        fit(VAE(network(), Normal()), np.ma.masked_equal(np.arange(12.0).reshape(3, 4), 4), SVI(epochs=1))
    for method in (MAP(epochs=1), NUTS(draws=1, warmup=1)):
        with pytest.raises(InferenceError, match="a VAE has a latent code per example"):
            fit(VAE(network(), Normal()), data, method)
    with pytest.raises(InferenceError, match="estimator 'score' takes no codes"):
        fit(VAE(network(), Normal()), data, SVI(epochs=1, estimator="score"))
    with pytest.raises(InferenceError, match="shrink=True needs a network"):
        fit(VAE(network(), LogUniform()), data, SVI(epochs=2, shrink=True, kl_warmup=0.0))
