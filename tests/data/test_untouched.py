"""What a user gives keeps its numbers, whatever a network or a model does to its arguments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError
from pyro_compress.inference.finetuning.batch_norm import reestimate_batch_norm
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.fit import fit
from pyro_compress.inference.results.pointwise import log_likelihoods, predictions
from pyro_compress.inference.results.predictive import posterior_predictive, predictive_draws
from pyro_compress.network.quantizers import Uniform
from pyro_compress.report.measure import predict

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 4, generator=GENERATOR), torch.arange(48) % 3
HELD, NEW = torch.randn(32, 4, generator=GENERATOR), torch.randn(10, 4, generator=GENERATOR)


class Doubled(nn.Module):
    """x.mul_(2) by hand, on what may be a view."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.write, self.last = write, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.write(x))
        return output


NETWORKS = {
    "module": lambda: nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(4, 3)),
    "behind a view": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3, inplace=True), nn.Linear(4, 3)),
    "function": lambda: Doubled(lambda x: F.elu(x, inplace=True)),
    "method": lambda: Doubled(lambda x: x.reshape(len(x), -1).mul_(2)),
    "index": lambda: Doubled(_zeroed),
}


def _zeroed(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


METHODS = [
    pc.inference.SVI(epochs=2, batch_size=64),
    pc.inference.SVI(epochs=120, batch_size=48),
    pc.inference.MAP(epochs=2, batch_size=16),
    pc.inference.SGLD(epochs=2, batch_size=48, draws=2),
    pc.inference.Metropolis(warmup=2, draws=2, chains=2),
    pc.inference.NUTS(warmup=3, draws=3, chains=1),
    pc.inference.ImportanceSampling(draws=20, warn_below_percent=0.0),
]


@pytest.mark.filterwarnings("ignore:the network is fitted, and a file will hold its weights alone")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("case", ["module", "method"])
def test_no_method_changes_the_examples(case: str, method: Any) -> None:
    before = X.clone(), Y.clone(), HELD.clone()
    model = pc.BayesianNetwork(NETWORKS[case](), pc.models.Normal())
    data = as_data((X, Y), validation=(HELD, torch.arange(32) % 3))
    fit(model, data, method, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, (X, Y, HELD), strict=True))


@pytest.mark.filterwarnings("ignore:the network is fitted, and a file will hold its weights alone")
@pytest.mark.parametrize("case", NETWORKS)
def test_nothing_after_a_fit_changes_them(case: str) -> None:
    network = NETWORKS[case]()
    before, model = (X.clone(), HELD.clone(), NEW.clone()), pc.BayesianNetwork(network, pc.models.Normal())
    data = as_data((X, Y), validation=(HELD, torch.arange(32) % 3))
    posterior = fit(model, data, pc.inference.SGLD(epochs=2, batch_size=48, draws=2), seed=0)
    posterior_predictive(model, posterior, NEW, torch.arange(10) % 3)
    predictive_draws(model, posterior, NEW, draws=3)
    predictions(model, posterior, NEW)
    log_likelihoods(model, posterior, NEW, torch.arange(10) % 3)
    predict(network, NEW, torch.arange(10) % 3, model.likelihood)
    name, weight = next((n, p) for n, p in network.named_parameters() if p.ndim == 2)
    sites = {name: GridSite(weight.detach().clone(), torch.ones(weight.shape, dtype=torch.bool), Uniform(2**-5))}
    fine_tune(network, sites, data, model.likelihood, epochs=1, rate_weight=0.0, batch_size=48)
    reestimate_batch_norm(nn.Sequential(network, nn.BatchNorm1d(3)), data)
    assert all(torch.equal(a, b) for a, b in zip(before, (X, HELD, NEW), strict=True))


def doubling(x: Tensor, y: Tensor) -> None:
    x.mul_(2)
    y.sub_(1)
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)


def doubled(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(2 * x @ slope, 1.0), obs=y - 1)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_model_that_writes_into_its_arguments_sees_the_same_data_at_every_step(method: Any) -> None:
    y = X.sum(1)
    before = X.clone(), y.clone()
    found = fit(doubling, (X, y), method, seed=0).parameters["slope"].mean
    assert torch.equal(X, before[0]) and torch.equal(y, before[1])
    np.testing.assert_array_equal(found, fit(doubled, (X, y), method, seed=0).parameters["slope"].mean)


def test_arrays_that_were_given_stay_too() -> None:
    x, y = X.numpy().copy(), X.sum(1).numpy().copy()
    fit(doubling, (x, y), pc.inference.MAP(epochs=2, batch_size=16), seed=0)
    np.testing.assert_array_equal(x, X.numpy())


def test_copies_are_made_only_where_they_are_needed() -> None:
    seen: list[int] = []

    def harmless(x: Tensor) -> Tensor:
        seen.append(x.data_ptr())
        return x + 1

    untouched = Untouched()
    for _ in range(3):
        untouched(harmless, X)
    assert seen[0] != X.data_ptr() and seen[1:] == [X.data_ptr()] * 2
    with torch.inference_mode():
        made_there = X.clone()
    assert torch.equal(untouched(harmless, made_there), X + 1)


def test_a_function_that_begins_to_write_is_refused() -> None:
    calls: list[int] = []

    def fickle(x: Tensor) -> Tensor:
        calls.append(1)
        return x.mul_(2) if len(calls) == 3 else x * 2

    untouched, own = Untouched("the network"), X.clone()
    untouched(fickle, own), untouched(fickle, own)
    with pytest.raises(DataError, match="the network writes into the tensors that it is called with, at some calls"):
        untouched(fickle, own)
    # another mode is found out about by itself
    assert untouched(lambda x: x.mul_(2), X, mode="training").shape == X.shape and not torch.equal(X, own)
