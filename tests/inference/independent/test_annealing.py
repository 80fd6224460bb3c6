"""Weights of annealed importance sampling: their mean is p(y), wherever the posterior has its mass."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.independent import annealing
from pyro_compress.inference.independent.annealing import annealed_log_weights
from pyro_compress.inference.log_joint.tempered import Tempered
from pyro_compress.models.program import Program


def tempered(model: object, *data: Tensor) -> Tempered:
    return Tempered(Program(model, data), data, len(data[0]) if data else 1)  # type: ignore[arg-type]


def square(y: Tensor) -> None:
    """Two modes, at ±√y."""
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(theta.square(), 0.3), obs=y)


def positive(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def test_the_tempered_log_joint_is_prior_jacobian_and_a_power_of_the_likelihood() -> None:
    y = torch.tensor([1.0, 4.0])
    whole = tempered(positive, y)
    u = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    rate = u[:, 0].exp()
    data = dist.Poisson(rate[:, None]).log_prob(y.double()).sum(1)
    for power in (0.0, 0.37, 1.0):
        whole.at(power)
        found = whole(u)
        expected = dist.Gamma(2.0, 1.5).log_prob(rate) + u[:, 0] + power * data
        torch.testing.assert_close(found.log_joint, expected)
        # of 2 u − 1.5 eᵘ + β (5 u − 2 eᵘ)
        torch.testing.assert_close(found.gradient[:, 0], 2 - 1.5 * rate + power * (5 - 2 * rate))
        torch.testing.assert_close(found.data, data)


def mean_of(log_weight: Tensor) -> tuple[float, float]:
    """Logarithm of the mean weight and its standard error."""
    weight = (log_weight - log_weight.max()).exp()
    error = float(weight.std() / weight.mean()) / math.sqrt(len(weight))
    return float(log_weight.max() + weight.mean().log()), error


def test_both_modes_count() -> None:
    torch.manual_seed(0)
    y = torch.tensor([3.8, 4.3])
    truth = quad(lambda t: norm.pdf(t, 0, 2) * np.prod(norm.pdf(y.numpy(), t * t, 0.3)), -6, 6, points=[-2, 2])[0]
    value, error = mean_of(annealed_log_weights(tempered(square, y), 400))
    # one mode alone would be off by log 2
    assert error < 0.12 and abs(value - math.log(truth)) < 4 * error


@pytest.mark.parametrize("bad_moves", [False, True])
def test_weights_are_unbiased_however_the_particles_move(bad_moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if bad_moves:
        # few steps far apart, of which most trajectories are refused
        monkeypatch.setattr(annealing, "STEP_VARIANCE", 0.3)
        monkeypatch.setattr(annealing, "TARGET_ACCEPTANCE", 0.2)
    torch.manual_seed(1)
    y = torch.tensor([1.0, 4.0, 3.0])
    # Γ(2 + Σ y) 1.5² / (1.5 + n)^(2 + Σ y) / Π y!
    total = 2 + float(y.sum())
    truth = math.lgamma(total) + 2 * math.log(1.5) - total * math.log(4.5) - float(torch.lgamma(y + 1).sum())
    value, error = mean_of(annealed_log_weights(tempered(positive, y), 1500))
    assert error < (0.1 if bad_moves else 0.03) and abs(value - truth) < 4 * error


def impossible() -> None:
    width = pyro.sample("width", dist.Uniform(0.0, 1.0))
    pyro.factor("never", torch.where(width > 2, 0.0, -math.inf))


def test_what_no_draw_from_the_prior_reaches_is_refused() -> None:
    with pytest.raises(InferenceError, match="none of 100 draws from the prior has any likelihood"):
        annealed_log_weights(tempered(impossible), 10)
