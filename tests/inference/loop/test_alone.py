"""A fit is by itself: other threads and the caller's switches do not enter, and the caller's random state stays."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.inference.contract import Method
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.network.quantizers import Uniform
from pyro_compress.posterior.posterior import Posterior

X, Y = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3
SVI = pc.inference.SVI(epochs=4, batch_size=16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def fitted(method: Method, seed: int = 0, start: nn.Module | None = None) -> Posterior:
    model = pc.BayesianNetwork(network() if start is None else start, pc.models.Normal())
    return fit(model, (X, Y), method, seed=seed)


def location(x: torch.Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(centre, 1.0), obs=x)


METHODS = [
    SVI,
    pc.inference.SVI(epochs=4, batch_size=16, guide="full-rank", draws=5),
    pc.inference.MAP(epochs=4, batch_size=16),
    pc.inference.SGLD(epochs=4, batch_size=16, draws=2),
    pc.inference.Metropolis(warmup=5, draws=5, chains=1),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_surrounds_a_fit_does_not_enter_it(
    method: Method, around: Callable[[], AbstractContextManager[None]]
) -> None:
    with around():
        within = fit(pc.BayesianNetwork(network(), pc.models.Normal()), (X.clone(), Y), method, seed=0)
    np.testing.assert_array_equal(within.parameters["0.weight"].mean, fitted(method).parameters["0.weight"].mean)


def test_a_pyro_model_and_the_grid_in_inference_mode() -> None:
    model = network()
    weight = dict(model.named_parameters())["0.weight"].detach().clone()
    with torch.inference_mode():
        found = fit(location, (X[:, 0].clone(),), pc.inference.SVI(epochs=2), seed=0).parameters["centre"]
        sites = {"0.weight": GridSite(weight, torch.ones(6, 4, dtype=torch.bool), Uniform(2**-5))}
        data, likelihood = pc.data.as_data((X.clone(), Y)), pc.models.Categorical()
        tuned = fine_tune(model, sites, data, likelihood, epochs=1, rate_weight=0.0)
    assert found.mean == fit(location, (X[:, 0],), pc.inference.SVI(epochs=2), seed=0).parameters["centre"].mean
    with torch.inference_mode(), pytest.raises(pc.errors.NetworkError, match=r"'0\.weight' was made in inference mode"):
        fine_tune(network(), sites, data, likelihood, epochs=1, rate_weight=0.0)
    again = network()
    assert torch.equal(
        tuned["0.weight"], fine_tune(again, sites, data, likelihood, epochs=1, rate_weight=0.0)["0.weight"]
    )


def test_threads_get_the_numbers_that_they_get_alone() -> None:
    model, point = pc.BayesianNetwork(network(), pc.models.LogUniform()), fitted(SVI)
    # made beforehand: a thread that seeds torch's generator by itself seeds it for all
    starts, sgld = (network(), network()), pc.inference.SGLD(epochs=4, batch_size=16, draws=2)
    tasks = [
        lambda: fitted(SVI, 1, starts[0]).parameters["0.weight"].mean,
        lambda: fitted(sgld, 2, starts[1]).parameters["0.weight"].mean,
        lambda: fit(location, (X[:, 0],), pc.inference.SVI(epochs=20), seed=3).parameters["centre"].mean,
        lambda: posterior_predictive(model, point, X, draws=5, seed=4).mean,
    ]
    one_by_one = [task() for task in tasks]
    with ThreadPoolExecutor(len(tasks)) as pool:
        together = list(pool.map(lambda task: task(), tasks))
    for a, b in zip(one_by_one, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_callback_may_fit() -> None:
    inner: list[Posterior] = []
    model = pc.BayesianNetwork(network(), pc.models.Normal())
    fit(model, (X, Y), SVI, callbacks=[lambda record, state: inner.append(fitted(pc.inference.MAP(epochs=1)))])
    np.testing.assert_array_equal(
        inner[-1].parameters["0.weight"].mean, fitted(pc.inference.MAP(epochs=1)).parameters["0.weight"].mean
    )


def test_the_callers_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.default_generator.manual_seed(7)
    before = torch.get_rng_state()
    model = pc.BayesianNetwork(nn.Sequential(nn.Linear(4, 3)), pc.models.Normal())
    torch.set_rng_state(before)
    for method in METHODS:
        fit(model, (X, Y), method, seed=3)
    fit(location, (X[:, 0],), SVI, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    # nor that of devices that the fit is not on
    assert seeded == []


def test_a_method_by_its_name() -> None:
    by_name = fit(location, (X[:, 0],), "map", seed=0)
    by_itself = fit(location, (X[:, 0],), pc.inference.MAP(), seed=0)
    assert by_name.parameters["centre"].mean == by_itself.parameters["centre"].mean
    with pytest.raises(pc.errors.InferenceError, match=r"unknown inference method 'nut': .*Did you mean 'nuts'"):
        fit(location, (X[:, 0],), "nut")
    with pytest.raises(pc.errors.InferenceError, match=r"an object such as SVI\(\.\.\.\).*found the class SVI"):
        fit(location, (X[:, 0],), pc.inference.SVI)  # type: ignore[arg-type]


def test_the_lock_is_given_back_after_an_error() -> None:
    with pytest.raises(ValueError), alone():
        raise ValueError
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: fitted(pc.inference.MAP(epochs=1)).kind).result(timeout=60) == "point"


def test_the_public_fit_looks_at_what_came_of_it_within_inference_mode() -> None:
    with torch.inference_mode(), pytest.warns(pc.errors.PosteriorWarning):
        found = pc.fit(location, {"x": X[:, 0].numpy()}, pc.inference.SVI(epochs=1))
    assert "not_judged" not in found.statistics and found.flags
