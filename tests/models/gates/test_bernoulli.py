"""Bernoulli gates: draws, KL and price, and the gradient that goes through a relaxation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_density
from torch.distributions import Bernoulli, kl_divergence

from pyro_compress.models.gates.bernoulli import TEMPERATURE, BernoulliGate, BetaBernoulli, logistic_noise
from pyro_compress.posterior.posterior import Latent

LOGITS = torch.tensor([-6.0, -2.0, 0.0, 1.0])
DRAWS = 40_000


def test_draws_are_zeros_and_ones_with_its_moments_here_and_in_numpy() -> None:
    q = BernoulliGate(LOGITS)
    torch.manual_seed(0)
    latent = Latent("bernoulli", LOGITS.numpy(), np.zeros(4))
    for z in (q.rsample((DRAWS,)), torch.from_numpy(latent.sample(DRAWS, np.random.default_rng(0)))):
        assert set(z.unique().tolist()) == {0.0, 1.0}
        assert bool(((z.mean(0) - LOGITS.sigmoid()).abs() < 5 * (q.variance / DRAWS).sqrt()).all())
    exact = Bernoulli(logits=LOGITS)
    torch.testing.assert_close(q.variance, exact.variance)
    torch.testing.assert_close(q.entropy(), exact.entropy())
    torch.testing.assert_close(q.log_prob(torch.tensor([0.0, 1, 1, 0])), exact.log_prob(torch.tensor([0.0, 1, 1, 0])))


def test_kl_is_that_of_torch() -> None:
    for prior in (0.1, 0.7):
        p = Bernoulli(torch.full((4,), prior))
        expected = kl_divergence(Bernoulli(logits=LOGITS), p)
        torch.testing.assert_close(kl_divergence(BernoulliGate(LOGITS), p), expected)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 0.3), (2.0, 20.0)])
def test_a_learned_rate_counts_with_its_beta_density(alpha: float, beta: float) -> None:
    p = BetaBernoulli(alpha, beta, (4,))
    expected = -beta_density.logpdf(LOGITS.double().sigmoid().numpy(), alpha, beta)
    np.testing.assert_allclose(kl_divergence(BernoulliGate(LOGITS), p).numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    assert float(p.sample((DRAWS,)).mean()) == pytest.approx(alpha / (alpha + beta), abs=0.005)
    both = [math.exp(float(p.log_prob(torch.tensor(z)))) for z in (0.0, 1.0)]
    assert both == pytest.approx([beta / (alpha + beta), alpha / (alpha + beta)])


def test_gradients_are_those_of_the_concrete_relaxation() -> None:
    logits = LOGITS.clone().requires_grad_()
    torch.manual_seed(3)
    (through,) = torch.autograd.grad(BernoulliGate(logits).rsample((100,)).sum(), logits)
    torch.manual_seed(3)
    relaxed = torch.sigmoid((logistic_noise((100, 4), logits) + logits) / TEMPERATURE)
    (expected,) = torch.autograd.grad(relaxed.sum(), logits)
    torch.testing.assert_close(through, expected)
