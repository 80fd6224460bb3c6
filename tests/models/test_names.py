"""Dotted names as attributes: one to one, and readable where nothing is ambiguous."""

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_compress.errors import InferenceError, NetworkError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.dropout import MCDropout
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.names import attribute_name, dotted_name
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal


def test_usual_names_stay_readable() -> None:
    assert attribute_name("layer1.0.conv_2.weight") == "layer1__0__conv_2__weight"
    assert attribute_name("weight.z") == "weight__z"


def test_no_two_names_become_one_and_each_comes_back() -> None:
    names = {"".join(letters) for length in range(1, 7) for letters in itertools.product("a_.%", repeat=length)}
    names |= {"training", "half", "forward", "type.weight", "%74raining", "Größe.0", "5F", "a%5F"}
    attributes = {attribute_name(name) for name in names}
    assert len(attributes) == len(names)
    assert all(dotted_name(attribute_name(name)) == name for name in names)
    assert not any("." in attribute for attribute in attributes)


@pytest.mark.parametrize("name", ["training", "half", "type", "_parameters", "state_dict", "a_.0", "__init__"])
def test_a_module_takes_every_name(name: str) -> None:
    module = PyroModule("holder")
    setattr(module, attribute_name(name), nn.Parameter(torch.ones(2)))
    assert [key for key, _ in module.named_parameters()] == [attribute_name(name)]
    module.train()


class Colliding(nn.Module):
    """Layers whose names differ by where their dots and underscores are."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            *path, last = name.split(".")
            module: Any = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.add_module(last, nn.Linear(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = torch.relu(self.get_submodule(name)(x)) + x
        return x


SHAPES = [("a.0", "a__0"), ("a_.b", "a._b", "a___b"), ("_a.b", "_a__b"), ("b%5F%5Fc", "b__c", "b.c")]


@pytest.mark.parametrize("names", SHAPES, ids="|".join)
@pytest.mark.parametrize(
    ("method", "prior"),
    [
        (SVI(epochs=3, batch_size=10, learning_rate=0.02), GroupHorseshoe()),
        (SVI(epochs=3, batch_size=10, guide="low-rank", rank=2, draws=5), {"*.weight": Normal()}),
        (MAP(epochs=3, batch_size=10, learning_rate=0.02), Normal()),
        (SGLD(epochs=4, batch_size=10, a=1e-5, chains=1), {"*.weight": Normal()}),
        (MCDropout(epochs=3, batch_size=10, learning_rate=0.02, draws=5), Normal()),
    ],
    ids=["group", "low-rank", "map", "sgld", "dropout"],
)
def test_layers_with_similar_names_have_posteriors_of_their_own(
    names: tuple[str, ...], method: Any, prior: Any
) -> None:
    torch.manual_seed(0)
    network = Colliding(names)
    x = torch.randn(20, 3)
    model = BayesianNetwork(network, prior, Gaussian(noise=1.0))
    started = {name: value.detach().numpy() for name, value in network.named_parameters()}
    found = fit(model, (x, x), method, seed=0).parameters
    assert set(found) == set(started)
    for one, other in itertools.combinations(found, 2):
        if found[one].mean.shape == found[other].mean.shape:
            assert not np.array_equal(found[one].mean, found[other].mean)
    for name, value in started.items():
        # each moved from where it itself started
        moved = {
            key: np.abs(found[name].mean - start).max() for key, start in started.items() if start.shape == value.shape
        }
        assert min(moved, key=moved.__getitem__) == name


def test_a_parameter_that_is_not_finite_is_named_as_the_user_knows_it() -> None:
    model = BayesianNetwork(Colliding(("a.0", "a__0")), Normal(), Gaussian(noise=1.0))

    def poison(record: Any, state: Any) -> None:
        with torch.no_grad():
            getattr(state.guide.loc, attribute_name("a__0.weight")).fill_(torch.nan)

    x = torch.randn(20, 3)
    with pytest.raises(InferenceError, match=r"'(loc\.)?a__0\.weight' is"):
        fit(model, (x, x), SVI(epochs=3, batch_size=10), callbacks=[poison])


@pytest.mark.parametrize("name", ["y", "data", "noise"])
def test_parameters_by_the_name_of_another_site_are_refused(name: str) -> None:
    network = nn.Linear(2, 1)
    network.register_parameter(name, nn.Parameter(torch.zeros(1)))
    with pytest.raises(NetworkError, match=f"parameter '{name}' has the name of another site of the model: rename it"):
        BayesianNetwork(network, {"weight": Normal()}, Gaussian())


def test_programs_may_call_their_sites_as_modules_call_their_methods() -> None:
    def program(x: torch.Tensor) -> None:
        half = pyro.sample("half", dist.Normal(0.0, 1.0))
        training = pyro.sample("training", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(half + training, 1.0), obs=x)

    found = fit(program, (torch.ones(20),), MAP(epochs=300, batch_size=20, learning_rate=0.05), seed=0).parameters
    # the mode of each is 20 / (1 + 40)
    assert [float(found[name].mean) for name in ("half", "training")] == pytest.approx([20 / 41] * 2, abs=1e-3)
