"""The model: which prior covers what, the joint density, and stock Pyro on it."""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.inspect import generate_graph_specification, get_model_relations
from pyro.optim import PyroOptim
from torch import nn
from torch.nn import functional as F

from pyro_compress.errors import NetworkError, PriorError
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.parameters import parameters_of
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys
from pyro_compress.models.priors.scale_mixture import ScaleMixture

PRIORS: list[Prior] = [Normal(), ScaleMixture(), LogUniform(), GroupNormalJeffreys(), GroupHorseshoe(tau=0.1)]


@pytest.fixture(autouse=True)
def clean_parameter_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 2)), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 2 * 4, 5, bias=False)
    )


def examples(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 2, 4, 5), torch.randint(0, 5, (count,))


def covered(model: BayesianNetwork) -> dict[str, str]:
    return {parameter.name: type(prior).__name__ for parameter, prior in model.parameters_covered}


def test_parameters_have_their_layers_kind() -> None:
    kinds = {parameter.name: (parameter.kind, parameter.group_axis) for parameter in parameters_of(network())}
    assert kinds == {
        "0.weight": ("conv", 0),
        "0.bias": ("bias", None),
        "1.weight": ("norm", None),
        "1.bias": ("norm", None),
        "4.weight": ("linear", 1),
    }


def test_filters_of_a_transposed_convolution_lie_along_its_second_axis_but_in_groups() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, bias=False), nn.ConvTranspose2d(3, 3, 2, groups=3, bias=False))
    assert [parameter.group_axis for parameter in parameters_of(module)] == [1, 0]


def test_one_prior_covers_weights_and_some_cover_biases_too() -> None:
    assert covered(BayesianNetwork(network(), GroupHorseshoe())) == {
        "0.weight": "GroupHorseshoe",
        "4.weight": "GroupHorseshoe",
    }
    everything = dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias", "4.weight"), "Normal")
    assert covered(BayesianNetwork(network(), Normal())) == everything


def test_priors_can_be_mixed_by_pattern() -> None:
    model = BayesianNetwork(network(), {"0.weight": GroupNormalJeffreys(), "4.*": LogUniform(), "*.bias": Normal()})
    assert covered(model) == {
        "0.weight": "GroupNormalJeffreys",
        "0.bias": "Normal",
        "1.bias": "Normal",
        "4.weight": "LogUniform",
    }
    assert set(model.free_values()) == {"1.weight"}
    trace = poutine.trace(model).get_trace(*examples())
    assert {"0.weight.z", "0.weight.unscaled", "4.weight", "0.bias", "1.bias", "y"} <= set(trace.nodes)


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"conv*": Normal()}, r"prior: 'conv\*' matches no parameter: there are 0\.weight, 0\.bias"),
        (
            {"*.weight": Normal(), "0.*": LogUniform()},
            r"prior: '\*\.weight' and '0\.\*' both match parameter 0\.weight: make the patterns disjoint",
        ),
        (
            {"0.bias": GroupHorseshoe()},
            r"GroupHorseshoe ties groups .* cannot cover bias parameter '0\.bias' of shape \(3,\); give it Normal",
        ),
        ({"1.weight": GroupNormalJeffreys()}, r"cannot cover norm parameter '1\.weight'"),
    ],
)
def test_rules_fail_loudly(rules: dict[str, Prior], text: str) -> None:
    with pytest.raises(PriorError, match=text):
        BayesianNetwork(network(), rules)


def test_parameters_of_ones_own_are_pointed_out() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.w1 = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w1 + self.bias

    with pytest.raises(PriorError, match=r"to cover: name parameters of your own, as in prior=\{'w1': \.\.\.\}"):
        BayesianNetwork(Own(), LogUniform())
    assert [p.name for p, _ in BayesianNetwork(Own(), {"w1": LogUniform()}).parameters_covered] == ["w1"]


def test_group_prior_without_weights_to_cover_is_refused() -> None:
    with pytest.raises(PriorError, match="no weight of a layer for GroupHorseshoe to cover"):
        BayesianNetwork(nn.Sequential(nn.BatchNorm1d(4)), GroupHorseshoe())


class Tied(nn.Module):
    """Two layers of one weight, tied in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if how == "one parameter":
            self.second.weight = self.first.weight
        elif how == "one memory":
            self.second.weight = nn.Parameter(self.first.weight.data)
        else:
            self.second.weight = nn.Parameter(self.first.weight.data.t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(self.first(x))
        return output


@pytest.mark.parametrize("prior", [Normal(), GroupHorseshoe(), {"first.weight": Normal()}, {"*.bias": Normal()}])
@pytest.mark.parametrize("how", ["one memory", "transposed"])
def test_parameters_that_share_memory_are_refused_by_both_names(how: str, prior: Any) -> None:
    with pytest.raises(NetworkError, match=r"^first\.weight and second\.weight lie at the same place in memory"):
        BayesianNetwork(Tied(how), prior)


@pytest.mark.parametrize("prior", [GroupHorseshoe(), {"first.weight": Normal()}, {"*.weight": Normal()}])
def test_one_parameter_of_two_modules_is_one_site_that_both_see(prior: Any) -> None:
    torch.manual_seed(0)
    network = Tied("one parameter")
    model = BayesianNetwork(network, prior)
    assert set(covered(model)) == {"first.weight"} and set(model.free_values()) == {"first.bias", "second.bias"}
    x, weight = torch.randn(6, 4), torch.randn(4, 4, requires_grad=True)
    values = {"first.weight": weight, **model.free_values()}
    found = model.call_network(values, x)
    expected = F.linear(F.linear(x, weight, network.first.bias), weight, network.second.bias)
    torch.testing.assert_close(found, expected)
    # of both uses
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), weight)[0], torch.autograd.grad(expected.sum(), weight)[0]
    )
    assert model.network.second.weight is model.network.first.weight  # type: ignore[union-attr]


def test_a_pattern_that_matches_the_second_name_alone_is_told_the_first() -> None:
    with pytest.raises(PriorError, match=r"'second\.w\*' matches second\.weight, which is one parameter with first"):
        BayesianNetwork(Tied("one parameter"), {"second.w*": Normal()})


def test_two_names_of_one_parameter_in_a_module_are_one_parameter() -> None:
    layer = nn.Linear(3, 3)
    layer.also = layer.bias
    model = BayesianNetwork(layer, Normal())
    bias = torch.tensor([1.0, 2.0, 3.0])
    output = model.call_network({"weight": torch.zeros(3, 3), "bias": bias}, torch.ones(1, 3))
    assert set(covered(model)) == {"weight", "bias"} and torch.equal(output, bias[None])


def test_a_module_that_is_registered_twice_is_one_module() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    network.first = network[0]
    assert set(covered(BayesianNetwork(network, Normal()))) == {"0.weight", "0.bias"}


def test_network_given_is_not_touched() -> None:
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    model = BayesianNetwork(original, Normal())
    x, y = examples()
    model(x, y)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    # and the private copy has its own parameters back after a call
    assert [name for name, _ in model.network.named_parameters()] == [name for name, _ in original.named_parameters()]


def test_private_copy_is_restored_when_the_network_fails() -> None:
    model = BayesianNetwork(network(), Normal())
    names = {name for name, _ in model.network.named_parameters()}
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 7, 4, 5))
    assert {name for name, _ in model.network.named_parameters()} == names


@pytest.mark.parametrize("size", [6, 600])
def test_data_are_scaled_by_n_over_n_once_and_priors_not_at_all(size: int) -> None:
    model = BayesianNetwork(nn.Linear(3, 2), {"weight": Normal(scale=0.7)}, Gaussian(noise=0.3))
    torch.manual_seed(2)
    x, y, weight = torch.randn(6, 3), torch.randn(6, 2), torch.randn(2, 3)
    conditioned = poutine.condition(model, data={"weight": weight})
    found = poutine.trace(conditioned).get_trace(x, y, size=size).log_prob_sum()
    bias = dict(model.network.named_parameters())["bias"]
    likelihood = dist.Normal(x @ weight.T + bias, 0.3).log_prob(y).sum()
    expected = dist.Normal(0.0, 0.7).log_prob(weight).sum() + size / 6 * likelihood
    torch.testing.assert_close(found, expected)


def test_model_draws_targets_where_none_are_given() -> None:
    model = BayesianNetwork(nn.Linear(3, 2), {"weight": Normal()}, Gaussian(noise=0.5))
    torch.manual_seed(3)
    x = torch.randn(20000, 3)
    with torch.no_grad(), poutine.trace() as tracer:
        output = model(x)
    site: Any = tracer.trace.nodes["y"]
    assert not site["is_observed"] and site["value"].shape == (20000, 2)
    assert float((site["value"] - output).std()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * 40000))


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_stock_pyro_takes_the_model(prior: Prior) -> None:
    model = BayesianNetwork(network(), prior)
    x, y = examples()
    trace = poutine.trace(model).get_trace(x, y)
    assert math.isfinite(torch.as_tensor(trace.log_prob_sum()).item())
    guide = DeclaredGuide(model)
    latents = {name for name in trace.stochastic_nodes if name != "data"}
    assert latents == set(guide.sites)
    assert get_model_relations(model, model_args=(x, y))["observed"] == ["y"]

    svi = pyro.infer.SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(40)]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_stock_pyro_draws_from_the_prior(prior: Prior) -> None:
    model, (x, _) = BayesianNetwork(network(), prior), examples()
    draws = Predictive(model, num_samples=4)(x)
    assert draws["y"].shape == (4, 6)
    assert {name for name in draws if name != "y"} == set(DeclaredGuide(model).sites)


def test_relations_are_those_of_the_generative_program() -> None:
    # what `pyro.render_model` draws, without the graphviz it needs to draw
    model = BayesianNetwork(nn.Linear(4, 2), GroupNormalJeffreys(), Gaussian())
    relations = get_model_relations(model, model_args=(torch.randn(3, 4), torch.randn(3, 2)))
    assert set(relations["sample_sample"]["y"]) == {"weight.z", "weight.unscaled", "noise"}
    assert relations["plate_sample"] == {"data": ["y"]}
    assert relations["sample_dist"]["weight.z"] == "LogUniformDistribution"
    assert relations["sample_dist"]["y"] == "Normal"
    edges = generate_graph_specification(relations)["edge_list"]
    assert {source for source, target in edges if target == "y"} == {"weight.z", "weight.unscaled", "noise"}


@pytest.mark.parametrize("prior", [LogUniform(low=0.0), GroupNormalJeffreys(high=math.inf)])
def test_improper_priors_serve_svi_only(prior: Prior) -> None:
    model: Any = BayesianNetwork(network(), prior, Categorical())
    assert not model.is_proper
    with pytest.raises(PriorError, match=r"improper log-uniform prior .* cannot be sampled: it serves SVI only"):
        poutine.trace(model).get_trace(*examples())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LogUniform(alpha=-1.0), "alpha must be positive, found -1.0"),
        (lambda: LogUniform(tied="row"), "tied='row' is not known: choose one of weight, unit, layer"),
        (lambda: LogUniform(low=3.0, high=2.0), "0 ≤ low < high, found low=3.0, high=2.0"),
        (lambda: GroupNormalJeffreys(low=3.0, high=2.0), "0 ≤ low < high, found low=3.0, high=2.0"),
        (lambda: GroupHorseshoe(tau=0.0), "tau must be positive, found 0.0"),
        (lambda: ScaleMixture(mixture=1.0), "0 < mixture < 1 and 0 < narrow < wide; found mixture=1.0"),
        (lambda: Normal(scale=0.0), "scale must be positive, found 0.0"),
    ],
)
def test_fields_without_meaning_are_refused(make: Any, text: str) -> None:
    with pytest.raises(PriorError, match=text):
        make()
