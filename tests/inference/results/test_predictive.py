"""The posterior predictive against closed forms: means, variances, entropies, weights, the posterior's own buffers."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import posterior_from_guide
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results import predictive
from pyro_compress.inference.results.predictive import (
    posterior_predictive,
    predictive_draws,
    predictive_mean,
    weighted_values,
)
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def test_class_probabilities_are_averaged_over_draws() -> None:
    """E sigmoid(w x) for w ~ N(μ, σ²), by quadrature; the sigmoid of the mean is far from it."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.5)
    model = BayesianNetwork(network, {"weight": Normal(initial_log_variance=2.0)}, Bernoulli())
    posterior = posterior_from_guide(model, DeclaredGuide(model))
    x, draws = torch.tensor([[0.5], [2.0], [-1.0]]), 1500
    found = predictive_mean(model, posterior, x, draws=draws, seed=1, chunk=2)
    grid = torch.linspace(-8.0, 8.0, 4001)
    density = torch.exp(-0.5 * grid.square()) / (2 * torch.pi) ** 0.5
    expected = torch.trapezoid(torch.sigmoid(x * (1.5 + torch.e * grid)) * density, grid, dim=1)
    # a probability's standard deviation is at most ½; 5 standard errors, seed fixed
    assert bool(((found.flatten() - expected).abs() < 5 * 0.5 / draws**0.5).all())
    assert float((model.likelihood.mean(x * 1.5).flatten() - expected).abs().max()) > 0.1


def test_buffers_are_the_posteriors() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2))
    model = BayesianNetwork(network, GroupHorseshoe(initial_log_variance=-30.0), Gaussian(noise=1.0))
    x = 3 + torch.randn(40, 3)
    posterior = fit(model, (x, torch.randn(40, 2)), SVI(epochs=2, batch_size=20, learning_rate=1e-6))
    before = {name: buffer.clone() for name, buffer in model.network.named_buffers()}
    found = predictive_mean(model, posterior, x, draws=50, seed=0)
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    network.eval()
    with torch.no_grad():
        for name in ("running_mean", "running_var"):
            norm.get_buffer(name).copy_(torch.from_numpy(posterior.buffers[f"1.{name}"]))
    np.testing.assert_allclose(found, torch.func.functional_call(network, values, x), atol=0.02)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.network.named_buffers())


# ---- what is uncertain, and why ------------------------------------------------------------------------------


def line_posterior(kind: str = "iid", weights: np.ndarray | None = None, count: int = 4000) -> Posterior:
    """Draws of y = w x: w ~ N(1.5, 0.4²), as a sampler would hand them over."""
    drawn = 1.5 + 0.4 * np.random.default_rng(3).standard_normal((2, count // 2, 1)).astype(np.float32)
    draws = Draws(drawn, {"weight": (1, 1)}, None if weights is None else np.log(weights))
    moments = ParameterPosterior(np.array([[1.5]], np.float32), np.array([[0.16]], np.float32), "Normal")
    return Posterior({"weight": moments}, kind=kind, draws=draws)


def known(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return values


def line_model(noise: float | None = 0.3) -> BayesianNetwork:
    return BayesianNetwork(nn.Linear(1, 1, bias=False), Normal(), Gaussian(noise=noise))


@pytest.mark.parametrize("kind", ["chains", "iid"])
def test_variance_of_a_line_grows_with_the_square_of_x(kind: str) -> None:
    """y = w x + ε: Var y = x² Var w + σ², the first epistemic, the second aleatoric."""
    posterior, x = line_posterior(kind), torch.tensor([[0.0], [1.0], [-3.0]])
    assert posterior.draws is not None
    w = posterior.draws.flat.astype(np.float64).ravel()
    found = posterior_predictive(line_model(), posterior, x, draws=4000)
    assert found.draws == 4000 and found.effective_draws == pytest.approx(4000)
    np.testing.assert_allclose(found.mean[:, 0], w.mean() * x[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.epistemic_variance[:, 0], w.var() * np.array([0.0, 1.0, 9.0]), rtol=1e-6)
    np.testing.assert_allclose(found.aleatoric_variance, 0.09, rtol=1e-6)
    np.testing.assert_allclose(found.variance, found.epistemic_variance + found.aleatoric_variance)
    assert found.predictive_entropy is None and found.mutual_information is None and found.nll_nats is None


def test_log_likelihood_is_that_of_the_mean_density() -> None:
    """The marginal of a conjugate line: y ~ N(1.5 x, x² 0.4² + σ²)."""
    x, y = torch.tensor([[0.5], [-2.0]]), torch.tensor([[1.0], [-1.0]])
    found = posterior_predictive(line_model(), line_posterior(count=8000), x, y, draws=8000)
    scale = torch.sqrt(0.16 * x.square() + 0.09)
    expected = -torch.distributions.Normal(1.5 * x, scale).log_prob(y).squeeze(1)
    np.testing.assert_allclose(known(found.nll_nats), expected, rtol=0.03)


def test_weights_of_draws_count() -> None:
    weights = np.random.default_rng(0).gamma(0.3, size=(2, 30))
    posterior = line_posterior(weights=weights, count=60)
    assert posterior.draws is not None
    w, shares = posterior.draws.flat.astype(np.float64).ravel(), (weights / weights.sum()).ravel()
    x, y = torch.tensor([[2.0], [0.1]]), torch.tensor([[2.0], [0.5]])
    found = posterior_predictive(line_model(), posterior, x, y)
    mean = shares @ w
    assert known(found.errors)[0] == pytest.approx((2 * mean - 2.0) ** 2, rel=1e-5)
    np.testing.assert_allclose(found.mean[0, 0], 2 * mean, rtol=1e-6)
    np.testing.assert_allclose(found.epistemic_variance[0, 0], 4 * (shares @ (w - mean) ** 2), rtol=1e-6)
    density = torch.distributions.Normal(torch.as_tensor(w) * x, 0.3).log_prob(y).exp().numpy() @ shares
    np.testing.assert_allclose(known(found.nll_nats), -np.log(density), rtol=1e-5)
    assert found.effective_draws == pytest.approx(1 / np.square(shares).sum())
    torch.testing.assert_close(
        predictive_mean(line_model(), posterior, x), torch.as_tensor(found.mean).float(), rtol=1e-6, atol=1e-7
    )


def test_fewer_draws_than_there_are_come_evenly_by_weight() -> None:
    """60 draws of which one has half the weight: of 10 it is 5 times, and the rest are spread."""
    weights = np.full((2, 30), 1.0)
    weights[1, 7] = 59.0
    posterior = line_posterior(weights=weights, count=60)
    assert posterior.draws is not None
    heavy = float(posterior.draws.flat[1, 7, 0])
    found = [(w, float(v.parameters["weight"])) for w, v in weighted_values(line_model(), posterior, 10, seed=4)]
    assert sum(weight for weight, _ in found) == pytest.approx(1.0)
    assert {value: weight for weight, value in found}[heavy] == pytest.approx(0.5)
    assert len(found) == 6
    thinned = [float(v.parameters["weight"]) for _, v in weighted_values(line_model(), line_posterior(), 40, seed=1)]
    whole = line_posterior().draws
    assert whole is not None
    places = np.flatnonzero(np.isin(whole.flat.ravel(), np.array(thinned, np.float32)))
    assert set(np.diff(places)) == {100}


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()])
def test_predictive_entropy_is_expected_entropy_and_mutual_information(likelihood: Likelihood) -> None:
    outputs = 3 if isinstance(likelihood, Categorical) else 1
    torch.manual_seed(1)
    model = BayesianNetwork(nn.Linear(2, outputs), Normal(initial_log_variance=1.0), likelihood)
    posterior, x = posterior_from_guide(model, DeclaredGuide(model)), torch.randn(5, 2)
    found = posterior_predictive(model, posterior, x, draws=20, seed=2)
    probabilities = np.stack(
        [
            likelihood.mean(model.call_network(v.parameters, x)).detach().numpy()
            for _, v in weighted_values(model, posterior, 20, seed=2)
        ]
    ).astype(np.float64)

    def entropy(p: np.ndarray) -> np.ndarray:
        p = p if outputs > 1 else np.concatenate([p, 1 - p], -1)
        return -(p * np.log(p)).sum(-1)

    np.testing.assert_allclose(found.mean, probabilities.mean(0), rtol=1e-5)
    np.testing.assert_allclose(known(found.predictive_entropy), entropy(probabilities.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(known(found.expected_entropy), entropy(probabilities).mean(0), rtol=1e-5)
    assert bool((known(found.mutual_information) > 0.01).all())
    np.testing.assert_allclose(found.epistemic_variance, probabilities.var(0), rtol=1e-4)
    np.testing.assert_allclose(found.aleatoric_variance, (probabilities * (1 - probabilities)).mean(0), rtol=1e-4)
    # each class: the variance of a 0-1 variable with the mean probability
    np.testing.assert_allclose(found.variance, found.mean * (1 - found.mean), rtol=1e-5)


def test_a_point_estimate_has_no_mutual_information() -> None:
    torch.manual_seed(2)
    model = BayesianNetwork(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), Normal())
    x, y = torch.randn(8, 3), torch.randint(3, (8,))
    posterior = fit(model, (x, y), MAP(epochs=1))
    found = posterior_predictive(model, posterior, x, y)
    assert found.draws == 1
    assert not known(found.mutual_information).any() and not found.epistemic_variance.any()
    values = {name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()}
    probabilities = model.call_network(values, x).softmax(-1).detach()
    np.testing.assert_allclose(found.mean, probabilities, rtol=1e-5)
    np.testing.assert_allclose(known(found.nll_nats), -probabilities[torch.arange(8), y].log(), rtol=1e-5)
    assert known(found.errors).tolist() == (probabilities.argmax(1) != y).double().tolist()


def test_a_learned_noise_is_drawn_with_the_weights() -> None:
    """σ ~ LogNormal: E σ² = exp(2 m + 2 s²), for a guide and for draws."""
    model = line_model(noise=None)
    posterior = posterior_from_guide(model, DeclaredGuide(model))
    sampled = posterior.sample_latents(3000, 8)
    flat = np.concatenate([sampled["weight"].reshape(3000, 1), sampled["noise"].reshape(3000, 1)], 1)[None]
    drawn = Posterior(posterior.parameters, draws=Draws(flat, {"weight": (1, 1), "noise": ()}))
    latent = posterior.latents["noise"]
    expected = float(np.exp(2 * latent.loc + 2 * latent.scale**2))
    for source in (posterior, drawn):
        found = posterior_predictive(model, source, torch.ones(2, 1), draws=3000)
        np.testing.assert_allclose(found.aleatoric_variance, expected, rtol=0.03)


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("source", ["guide", "draws"])
def test_chunks_and_pieces_change_nothing(chunk: int, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = line_model()
    posterior = posterior_from_guide(model, DeclaredGuide(model)) if source == "guide" else line_posterior(count=20)
    x, y = torch.randn(7, 1), torch.randn(7, 1)
    whole = posterior_predictive(model, posterior, x, y, draws=11, seed=5)
    part = posterior_predictive(model, posterior, x, y, draws=11, seed=5, chunk=chunk)
    for name in ("mean", "epistemic_variance", "aleatoric_variance", "nll_nats"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name), rtol=1e-6, atol=1e-12)
    monkeypatch.setattr(predictive, "PIECE_BYTES", 16)
    pieces = [weight for weight, _ in weighted_values(model, posterior, 11, seed=5)]
    assert sum(pieces) == pytest.approx(1.0)


def test_draws_of_y_have_the_predictive_variance_and_touch_no_generator() -> None:
    x = torch.tensor([[2.0], [0.0]])
    weights = np.array([[1.0, 3.0]])
    draws = Draws(np.array([[[1.0], [2.0]]], np.float32), {"weight": (1, 1)}, np.log(weights))
    posterior = Posterior(line_posterior().parameters, draws=draws)
    model, before = line_model(), torch.get_rng_state()
    found = predictive_draws(model, posterior, x, draws=6000, seed=1)["y"]
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (6000, 2, 1)
    # w is 1 or 2 with probabilities ¼ and ¾
    assert found[:, 0].mean() == pytest.approx(3.5, abs=0.04)
    assert found[:, 0].var() == pytest.approx(4 * 3 / 16 + 0.09, rel=0.04)
    assert found[:, 1].var() == pytest.approx(0.09, rel=0.04)


def test_draws_of_any_pyro_model() -> None:
    def coin(tosses: torch.Tensor, heads: torch.Tensor | None = None) -> None:
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        pyro.sample("heads", dist.Binomial(tosses, share), obs=heads)

    draws = Draws(np.array([[[0.25], [0.75]]], np.float32), {"share": ()}, np.log([[1.0, 3.0]]))
    posterior = Posterior({}, draws=draws)
    found = predictive_draws(coin, posterior, torch.tensor(100.0), draws=2000, seed=0)
    assert set(found) == {"heads"} and found["heads"].shape == (2000,)
    assert found["heads"].mean() == pytest.approx(62.5, abs=2.0)


def test_what_cannot_be_predicted_is_refused() -> None:
    x = torch.zeros(2, 1)
    function: Any = lambda x: pyro.sample("a", dist.Normal(0.0, 1.0))  # noqa: E731
    with pytest.raises(InferenceError, match=r"are of a BayesianNetwork, found <lambda>: .*predictive_draws"):
        posterior_predictive(function, line_posterior(), x)
    with pytest.raises(InferenceError, match="at least 1 draw, found draws=0"):
        posterior_predictive(line_model(), line_posterior(), x, draws=0)
    other = BayesianNetwork(nn.Linear(1, 1), Normal(), Gaussian(noise=1.0))
    with pytest.raises(InferenceError, match="no value of bias"):
        posterior_predictive(other, line_posterior(), x)
    with pytest.raises(DataError, match="targets of shape"):
        posterior_predictive(line_model(), line_posterior(), x, torch.zeros(2))


def test_what_a_pyro_model_has_trained_is_there_when_it_draws() -> None:
    """Of a parameter of Pyro's store, and of a module's: y ~ N(μ + top, 1) around 5 with μ within 0.01 of 0."""

    def lifted(top: torch.Tensor, count: int, y: torch.Tensor | None) -> Any:
        mu = pyro.sample("mu", dist.Normal(0.0, 0.01))
        with pyro.plate("rows", count):
            return pyro.sample("y", dist.Normal(mu + top, 1.0), obs=y)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Parameter(torch.zeros(()))

        def forward(self, count: Any, y: torch.Tensor | None = None) -> Any:
            return lifted(self.top, len(count), y)

    def function(count: Any, y: torch.Tensor | None = None) -> Any:
        return lifted(pyro.param("top", torch.zeros(())), len(count), y)

    torch.manual_seed(0)
    y = 5 + torch.randn(50)
    for model in (Module(), function):
        posterior = fit(model, (torch.zeros(50), y), SVI(epochs=300, batch_size=50, learning_rate=0.05))
        drawn = predictive_draws(model, posterior, torch.zeros(50), draws=200)["y"]
        assert abs(float(drawn.mean()) - float(y.mean())) < 0.1
    assert "top" not in pyro.get_param_store()
