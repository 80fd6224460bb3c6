"""Targets whose posteriors are known in closed form, and how far draws may be from them."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyro_compress.posterior.draws import Draws

GENERATOR = torch.Generator().manual_seed(8)
X = torch.randn(20, 3, generator=GENERATOR)
Y = torch.randn(20, generator=GENERATOR)
LOCATION = torch.tensor([1.0, -2.0, 3.0])
COVARIANCE = torch.tensor([[1.0, 1.1, 0.0], [1.1, 2.0, 0.5], [0.0, 0.5, 9.0]])


def gaussian() -> None:
    pyro.sample("x", dist.MultivariateNormal(LOCATION, COVARIANCE))


def conjugate(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 0.7).expand([3]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)


def exact_conjugate(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the conjugate regression's tempered posterior."""
    precision = X.T @ X / 0.25 + torch.eye(3) / 0.49
    covariance = torch.linalg.inv(precision)
    return (covariance @ X.T @ Y / 0.25).numpy(), (temperature * covariance).numpy()


def constrained() -> None:
    pyro.sample("rate", dist.Gamma(3.0, 2.0))
    pyro.sample("share", dist.Beta(2.0, 5.0))


def effective(draws: np.ndarray) -> float:
    """Effective draws of (chain, draw) by ArviZ."""
    import arviz

    return float(arviz.ess(draws))


def assert_gaussian(draws: Draws | None, site: str, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Mean, sd and correlations within 4 Monte Carlo standard errors."""
    assert draws is not None
    values = draws.site(site).astype(np.float64)
    width = values.shape[-1]
    # squares and products mix at their own pace
    centred = values - mean
    count = min(effective(part[..., i]) for part in (values, np.square(centred)) for i in range(width))
    assert count > 300
    sd, flat = np.sqrt(np.diag(covariance)), values.reshape(-1, width)
    assert (np.abs(flat.mean(0) - mean) < 4 * sd / math.sqrt(count)).all()
    assert (np.abs(flat.std(0) / sd - 1) < 4 / math.sqrt(2 * count)).all()
    np.testing.assert_allclose(np.corrcoef(flat.T), covariance / np.outer(sd, sd), atol=4 / math.sqrt(count))


def assert_constrained(draws: Draws | None) -> None:
    """Gamma(3, 2) and Beta(2, 5): mean and sd."""
    assert draws is not None
    for name, mean, variance in (("rate", 1.5, 0.75), ("share", 2 / 7, 10 / 392)):
        values = draws.site(name).astype(np.float64)
        squares = np.square(values - mean)
        error = math.sqrt(variance / effective(values))
        assert abs(values.mean() - mean) < 4 * error
        assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(effective(squares))
