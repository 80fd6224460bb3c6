"""Data that are a sample of N examples: every method at its defaults counts the likelihood N/n times."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError

HELD, N, NOISE, WIDE = 40, 160, 0.3, 5.0


def line(x: torch.Tensor, y: torch.Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, WIDE))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w * x[:, 0], NOISE), obs=y[:, 0])


def sample() -> DataSet:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(HELD, 1, generator=generator)
    return as_data((x, 2 * x + NOISE * torch.randn(HELD, 1, generator=generator)), N=N)


def exact(data: DataSet) -> tuple[float, float]:
    """Mean and sd where log p(y | w) = N/n Σ_i log N(y_i; w x_i, σ²): all is normal in w."""
    x, y, times = data.train_x.double(), data.train_y.double(), N / HELD
    precision = times * float((x * x).sum()) / NOISE**2 + WIDE**-2
    slope = times * float((x * y).sum()) / NOISE**2
    return slope / precision, precision**-0.5


@pytest.mark.parametrize("method", ["svi", "bbb", "map", "sgld"])
def test_defaults_of_a_pyro_model(method: str) -> None:
    data = sample()
    mean, sd = exact(data)
    found = pc.fit(line, data, method).parameters["w"]
    assert float(found.mean) == pytest.approx(mean, abs=0.1 * sd)
    assert float(found.variance) ** 0.5 == pytest.approx(0.0 if method == "map" else sd, rel=0.1)


def test_no_evidence_is_that_of_a_likelihood_to_a_power() -> None:
    with pytest.raises(InferenceError, match="N is 160 and 40 examples are given"):
        pc.evidence(line, sample(), "laplace")
