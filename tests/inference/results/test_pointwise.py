"""Networks run draw by draw, against plain arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.diagnosis.psis import guide_log_density, psis_k_hat
from pyro_compress.errors import InferenceError, PriorError
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.from_guide import posterior_from_guide
from pyro_compress.inference.results.pointwise import draws_of_guide, log_joints, log_likelihoods, predictions
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

SHAPES: dict[str, tuple[int, ...]] = {"weight": (3, 4), "bias": (3,)}


def classifier() -> tuple[BayesianNetwork, Posterior]:
    """A linear classifier under N(0, 2²) with 2 × 5 draws."""
    flat = np.random.default_rng(0).normal(size=(2, 5, 15)).astype(np.float32)
    parameters = {
        n: ParameterPosterior(np.zeros(s, np.float32), np.ones(s, np.float32), "N") for n, s in SHAPES.items()
    }
    model = BayesianNetwork(nn.Linear(4, 3), Normal(scale=2.0), Categorical())
    return model, Posterior(parameters, kind="chains", draws=Draws(flat, SHAPES))


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 4, generator=generator), torch.randint(0, 3, (7,), generator=generator)


def expected_log_probabilities(posterior: Posterior, x: torch.Tensor) -> np.ndarray:
    assert posterior.draws is not None
    weight, bias = (posterior.draws.site(name).astype(np.float64) for name in SHAPES)
    output = np.einsum("csoi,ni->csno", weight, x.numpy()) + bias[:, :, None]
    return output - np.log(np.exp(output).sum(-1, keepdims=True))


@pytest.mark.parametrize("chunk", [1000, 3])
def test_predictions_and_log_likelihoods_of_every_draw(chunk: int) -> None:
    model, posterior = classifier()
    x, y = examples()
    expected = expected_log_probabilities(posterior, x)
    found = predictions(model, posterior, x, chunk=chunk)
    assert found.shape == (2, 5, 7, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.exp(expected), rtol=1e-4)
    scores = log_likelihoods(model, posterior, x, y, chunk=chunk)
    np.testing.assert_allclose(scores, expected[:, :, np.arange(7), y.numpy()], rtol=1e-4)


@pytest.mark.parametrize("chunk", [1000, 3])
def test_the_log_joint_is_prior_plus_scaled_likelihood(chunk: int) -> None:
    model, posterior = classifier()
    x, y = examples()
    assert posterior.draws is not None
    flat = posterior.draws.flat.astype(np.float64)
    prior = (-0.5 * (flat / 2) ** 2 - np.log(2) - 0.5 * np.log(2 * np.pi)).sum(-1)
    data = expected_log_probabilities(posterior, x)[:, :, np.arange(7), y.numpy()].sum(-1)
    found = log_joints(model, posterior, x, y, size=21, chunk=chunk)
    np.testing.assert_allclose(found, prior + 3 * data, rtol=1e-5)


def test_the_learned_noise_of_each_draw_is_used() -> None:
    shapes: dict[str, tuple[int, ...]] = {"noise": (), "weight": (1, 2), "bias": (1,)}
    flat = np.array([[[0.5, 1.0, -1.0, 0.25], [2.0, 1.0, -1.0, 0.25]]], np.float32)
    model = BayesianNetwork(nn.Linear(2, 1), Normal(), Gaussian())
    posterior = Posterior({}, kind="chains", draws=Draws(flat, shapes))
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25]])
    residual, noise = 0.25 - (1.0 - 2.0 + 0.25), np.array([0.5, 2.0])
    expected = -0.5 * (residual / noise) ** 2 - np.log(noise) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_likelihoods(model, posterior, x, y)[0, :, 0], expected, rtol=1e-5)


def test_draws_of_a_guide_hold_sites_weights_and_point_estimates() -> None:
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(4, 3), GroupHorseshoe(initial_log_variance=-2.0), Categorical())
    posterior = posterior_from_guide(model, DeclaredGuide(model))
    draws = draws_of_guide(model, posterior, 40, seed=5)
    assert (draws.chains, draws.count) == (1, 40) and set(draws.derived) == {"weight", "bias"}
    scale = np.exp(0.5 * sum(np.log(draws.site(f"weight.{part}")) for part in ("s_a", "s_b")))[..., None]
    scale = scale * np.exp(0.5 * sum(np.log(draws.site(f"weight.{part}")) for part in ("z_a", "z_b")))
    np.testing.assert_allclose(draws.site("weight"), draws.site("weight.unscaled") * scale[:, :, None], rtol=1e-4)
    np.testing.assert_array_equal(draws.site("bias")[0, 7], posterior.parameters["bias"].mean)
    assert predictions(model, replace(posterior, draws=draws), examples()[0]).shape == (1, 40, 7, 3)


def test_k_hat_of_the_exact_posterior_is_good_and_of_another_guide_bad() -> None:
    """Linear regression: with the exact posterior as guide all log ratios are the log evidence."""
    torch.manual_seed(2)
    network = nn.Linear(1, 1, bias=False)
    x = torch.randn(20, 1)
    y = 0.7 * x + 0.5 * torch.randn(20, 1)
    precision = 1 + float((x**2).sum()) / 0.25
    mean = float((x * y).sum()) / 0.25 / precision
    found = []
    for widen in (1.0, 0.3):
        network.weight.data.fill_(mean)
        prior = Normal(initial_log_variance=float(np.log(widen**2 / precision)))
        model = BayesianNetwork(network, prior, Gaussian(noise=0.5))
        posterior = posterior_from_guide(model, DeclaredGuide(model))
        draws = draws_of_guide(model, posterior, 500, seed=1)
        values = {"weight": draws.site("weight")[0]}
        joints = log_joints(model, replace(posterior, draws=draws), x, y)[0]
        found.append(joints - guide_log_density(posterior.latents, values))
    np.testing.assert_allclose(found[0], found[0][0], atol=1e-3)
    assert psis_k_hat(found[1]) > 0.7


def test_draws_outside_the_prior_have_no_density_and_improper_priors_none_at_all() -> None:
    shapes: dict[str, tuple[int, ...]] = {"weight": (1, 1)}
    posterior = Posterior({}, kind="chains", draws=Draws(np.array([[[0.5], [200.0]]], np.float32), shapes))
    x, y = torch.ones(2, 1), torch.zeros(2, 1)
    for high, expected in ((100.0, [True, False]), (float("inf"), None)):
        model = BayesianNetwork(nn.Linear(1, 1, bias=False), LogUniform(low=1e-8, high=high), Gaussian(noise=1.0))
        if expected is None:
            with pytest.raises(PriorError):
                log_joints(model, posterior, x, y)
        else:
            assert np.isfinite(log_joints(model, posterior, x, y))[0].tolist() == expected


def test_what_is_lacking_is_named() -> None:
    model, posterior = classifier()
    x, _ = examples()
    with pytest.raises(InferenceError, match="no draws to run the network on"):
        predictions(model, replace(posterior, kind="iid", draws=None), x)
    with pytest.raises(InferenceError, match="the draws lack parameters of the network: bias"):
        held = Draws(np.zeros((1, 2, 12), np.float32), {"weight": (3, 4)})
        predictions(model, replace(posterior, draws=held), x)
    with pytest.raises(InferenceError, match="no examples"):
        predictions(model, posterior, x[:0])


def test_buffers_are_the_posteriors_and_the_model_is_left_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    model = BayesianNetwork(network, Normal(), Gaussian(noise=1.0))
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    flat = np.ones((1, 1, sum(int(np.prod(s)) for s in shapes.values())), np.float32)
    buffers = {"1.running_mean": np.array([3.0], np.float32), "1.running_var": np.array([4.0], np.float32)}
    posterior = Posterior({}, buffers=buffers, kind="chains", draws=Draws(flat, shapes))
    found = predictions(model, posterior, torch.tensor([[1.0, 2.0]]))
    # (1 + 2 + 1 − 3) / √4 · 1 + 1
    assert float(found[0, 0, 0, 0]) == pytest.approx(1.5, abs=1e-4)
    assert float(model.network[1].running_mean) == 0.0  # type: ignore[index]
