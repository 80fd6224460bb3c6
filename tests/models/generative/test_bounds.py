"""Bounds on log-likelihoods against the exact one of a linear Gaussian model."""

import math

import pytest
import torch
from torch import nn

from pyro_compress.errors import DataError, NetworkError
from pyro_compress.models.generative.bounds import elbo, importance_weighted, log_likelihood, log_weights
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Gaussian

INPUTS, WIDTH, SIGMA = 5, 2, 0.7


def linear() -> tuple[VAE, dict[str, torch.Tensor], torch.Tensor]:
    """A model whose encoder is near the posterior and not there, its values, and inputs of it."""
    torch.manual_seed(3)
    decoder = nn.Sequential(nn.Linear(WIDTH, INPUTS))
    model = VAE(EncoderDecoder(nn.Linear(INPUTS, 2 * WIDTH), decoder, GaussianCodes(WIDTH)), {}, Gaussian(noise=SIGMA))
    values = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    weight, bias = values["decoder.0.weight"], values["decoder.0.bias"]
    precision = torch.eye(WIDTH) + weight.T @ weight / SIGMA**2
    to_mean = torch.linalg.solve(precision, weight.T) / SIGMA**2
    values["encoder.weight"] = torch.cat([0.8 * to_mean, torch.zeros(WIDTH, INPUTS)])
    log_variance = -precision.diagonal().log() + 0.5
    values["encoder.bias"] = torch.cat([0.1 - 0.8 * to_mean @ bias, log_variance])
    x = torch.randn(3, WIDTH) @ weight.T + bias + SIGMA * torch.randn(3, INPUTS)
    return model, values, x


def exact(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    weight, bias = values["decoder.0.weight"].double(), values["decoder.0.bias"].double()
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(INPUTS).double()
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.double()).float()


def exact_elbo(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    weight, bias = values["decoder.0.weight"], values["decoder.0.bias"]
    mean, log_variance = (x @ values["encoder.weight"].T + values["encoder.bias"]).chunk(2, 1)
    square = (x - mean @ weight.T - bias).square().sum(1) + (log_variance.exp() * weight.square().sum(0)).sum(1)
    fit = -0.5 * square / SIGMA**2 - INPUTS * (math.log(SIGMA) + 0.5 * math.log(2 * math.pi))
    return fit - 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)


def test_the_elbo_and_the_likelihood_are_the_exact_ones() -> None:
    model, values, x = linear()
    state = torch.get_rng_state()
    found = elbo(model, values, x, samples=20_000)
    torch.testing.assert_close(found, exact_elbo(values, x), atol=0.05, rtol=0)
    for rows in (5000, 700):
        estimate = log_likelihood(model, values, x, samples=5000, rows=rows)
        torch.testing.assert_close(estimate, exact(values, x), atol=0.03, rtol=0)
        assert torch.equal(estimate, log_likelihood(model, values, x, x, samples=5000, rows=rows))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(found, elbo(model, values, x, samples=20_000, seed=1))


def test_the_bound_rises_with_the_number_of_codes_from_the_elbo_to_the_likelihood() -> None:
    model, values, x = linear()
    many = x[:1].expand(20_000, -1)
    bounds = [log_likelihood(model, values, many, samples=k) for k in (1, 2, 5, 20)]
    means = [float(bound.double().mean()) for bound in bounds]
    errors = [float(bound.double().std()) / math.sqrt(len(many)) for bound in bounds]
    assert abs(means[0] - float(exact_elbo(values, x)[0])) < 4 * errors[0]
    steps = [later - former for former, later in zip(means, [*means[1:], float(exact(values, x)[0])], strict=True)]
    assert all(step > 4 * error for step, error in zip(steps, errors, strict=True)), (steps, errors)


def test_importance_weights_are_the_ratio_of_the_joint_density_to_that_of_the_guide() -> None:
    model, values, x = linear()
    torch.manual_seed(5)
    found = log_weights(model, values, x, None, 4)
    torch.manual_seed(5)
    mean, log_variance = (x @ values["encoder.weight"].T + values["encoder.bias"]).chunk(2, 1)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = q.mean + q.stddev * torch.randn(4, 3, WIDTH)
    output = z @ values["decoder.0.weight"].T + values["decoder.0.bias"]
    joint = torch.distributions.Normal(output, SIGMA).log_prob(x).sum(2) + (
        torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(2)
    )
    torch.testing.assert_close(found, joint - q.log_prob(z).sum(2))
    torch.testing.assert_close(importance_weighted(found), found.exp().mean(0).log())


def test_what_has_no_bound_is_refused() -> None:
    model, values, x = linear()
    with pytest.raises(NetworkError, match="at least one code per example, found samples=0"):
        log_likelihood(model, values, x, samples=0)
    with pytest.raises(DataError, match=r"outputs of shape \(3, 5\).*found \(3, 1\)"):
        elbo(model, values, x, x[:, :1])
