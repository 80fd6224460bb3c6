"""Hard-concrete gates: distribution, moments and gradients against draws, and what an open gate costs."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_compress.errors import InferenceError
from pyro_compress.models.gates.hard_concrete import CLOSED, LEAST_OPEN, HardConcrete, OpenGateCost
from pyro_compress.posterior.posterior import Latent

LOG_ALPHA = torch.tensor([-4.0, -1.0, 0.0, 2.0])
DRAWS = 40_000


def test_moments_and_atoms_are_those_of_draws_here_and_in_numpy() -> None:
    q = HardConcrete(LOG_ALPHA)
    torch.manual_seed(0)
    latent = Latent("hard-concrete", LOG_ALPHA.numpy(), np.zeros(4))
    for z in (q.rsample((DRAWS,)), torch.from_numpy(latent.sample(DRAWS, np.random.default_rng(0)))):
        assert float(z.min()) == 0.0 and float(z.max()) == 1.0
        assert bool(((z.mean(0) - q.mean).abs() < 5 * (q.variance / DRAWS).sqrt()).all())
        torch.testing.assert_close(z.var(0), q.variance, rtol=0.06, atol=1e-4)
        for t in (0.0, 0.3, 0.9):
            share = (z > t).float().mean(0)
            assert bool(((share - q.above(t)).abs() < 5 * (q.above(t) * (1 - q.above(t)) / DRAWS).sqrt()).all())


def test_the_gate_that_predicts_is_that_of_the_paper() -> None:
    # σ(0) = ½ becomes ½ · 1.2 − 0.1
    assert float(HardConcrete(torch.tensor(0.0)).at_prediction) == pytest.approx(0.5)
    assert float(HardConcrete(torch.tensor(1.0)).at_prediction) == pytest.approx(1.2 / (1 + math.exp(-1)) - 0.1)
    for step in (-0.01, 0.01):
        gate = HardConcrete(torch.tensor(CLOSED + step))
        assert (float(gate.at_prediction) == 0.0) == (float(gate.open_probability) < LEAST_OPEN) == (step < 0)
    assert float(HardConcrete(torch.tensor(3.0)).at_prediction) == 1.0


def test_gradients_through_draws_are_those_of_the_mean() -> None:
    log_alpha = LOG_ALPHA.clone().requires_grad_()
    q = HardConcrete(log_alpha)
    torch.manual_seed(1)
    (estimate,) = torch.autograd.grad(q.rsample((DRAWS,)).mean(0).sum(), log_alpha)
    (exact,) = torch.autograd.grad(q.mean.sum(), log_alpha)
    torch.testing.assert_close(estimate, exact, rtol=0.1, atol=2e-3)


def test_complexity_is_the_mean_price_of_a_draw() -> None:
    q, p = HardConcrete(LOG_ALPHA), OpenGateCost(1.7, (4,))
    torch.manual_seed(2)
    price = -p.log_prob(q.rsample((DRAWS,)))
    assert bool(((price.mean(0) - kl_divergence(q, p)).abs() < 5 * price.std(0) / math.sqrt(DRAWS)).all())
    difference = kl_divergence(q, OpenGateCost(50.0, (4,))) - kl_divergence(q, OpenGateCost(40.0, (4,)))
    torch.testing.assert_close(difference, 10 * q.open_probability)


def test_the_prior_of_a_gate_integrates_to_one_and_is_sampled() -> None:
    p = OpenGateCost(1.7)
    # an atom and a flat density
    assert math.exp(float(p.log_prob(torch.tensor(0.0)))) + math.exp(
        float(p.log_prob(torch.tensor(0.5)))
    ) == pytest.approx(1)
    torch.manual_seed(0)
    z = p.sample((DRAWS,))
    assert float((z == 0).float().mean()) == pytest.approx(1 / (1 + math.exp(-1.7)), abs=0.01)
    assert float(z[z != 0].mean()) == pytest.approx(0.5, abs=0.02)


def test_there_is_no_density_at_an_atom() -> None:
    with pytest.raises(InferenceError, match="no density"):
        HardConcrete(LOG_ALPHA).log_prob(torch.zeros(4))
