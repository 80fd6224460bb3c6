"""Units by rank: scores by hand, what goes with a unit, and the sensitivity of layers."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.decisions.unit_ranking import prune_lowest_units, weight_scores
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DecisionError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.pipeline.unit_sensitivity import activation_scores, unit_scores, unit_sensitivity
from pyro_compress.pipeline.validation import nothing_pruned, place
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from pyro_compress.report.sensitivity_figure import sensitivity_figure


def posterior_of(network: nn.Module) -> Posterior:
    parameters = {name: ParameterPosterior.point(value.detach().numpy()) for name, value in network.named_parameters()}
    buffers = {name: b.numpy() for name, b in network.named_buffers() if b.is_floating_point()}
    return Posterior(parameters, {}, buffers, kind="point")


@pytest.fixture(name="network", scope="module")
def _network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU(), pool=nn.MaxPool2d(2), flat=nn.Flatten(),
            fc1=nn.Linear(36, 6), act=nn.ReLU(), fc2=nn.Linear(6, 10),
        )
    )  # fmt: skip
    with torch.no_grad():
        network.get_parameter("norm.weight").uniform_(0.5, 2)
        network.get_parameter("norm.bias").normal_()
        network(torch.randn(200, 1, 8, 8))
    return network.eval()


@pytest.fixture(name="data", scope="module")
def _data() -> DataSet:
    torch.manual_seed(1)
    x = torch.randn(700, 1, 8, 8)
    return as_data((x[:600], torch.arange(600) % 10), validation=(x[600:], torch.arange(100) % 10))


def test_scores_of_weights_are_norms_of_what_a_unit_reads(network: nn.Module) -> None:
    architecture = trace(network, (1, 8, 8))
    posterior = posterior_of(network)
    one, two = (weight_scores(posterior, architecture, by) for by in ("l1", "l2"))
    assert list(one) == list(two) == ["conv", "fc1"]
    for layer in one:
        rows = network.get_parameter(f"{layer}.weight").detach().flatten(1).double()
        np.testing.assert_allclose(one[layer], rows.abs().sum(1).numpy(), rtol=1e-6)
        np.testing.assert_allclose(two[layer], rows.square().sum(1).sqrt().numpy(), rtol=1e-6)


def test_scores_of_activations_are_means_over_examples_and_places(network: nn.Module, data: DataSet) -> None:
    posterior, x = posterior_of(network), data.train_x
    mean = unit_scores(posterior, network, data, by="mean-activation")
    frequency = unit_scores(posterior, network, data, by="activation-frequency")
    with torch.no_grad():
        filters = torch.relu(network.norm(network.conv(x)))  # type: ignore[operator]
        units = torch.relu(network.fc1(network.flat(network.pool(filters))))  # type: ignore[operator]
    np.testing.assert_allclose(mean["conv"], filters.mean((0, 2, 3)).numpy(), rtol=1e-5)
    np.testing.assert_allclose(mean["fc1"], units.mean(0).numpy(), rtol=1e-5)
    np.testing.assert_allclose(frequency["conv"], (filters > 0).double().mean((0, 2, 3)).numpy(), atol=1e-9)
    np.testing.assert_allclose(frequency["fc1"], (units > 0).double().mean(0).numpy(), atol=1e-9)
    assert not network.training


def test_data_are_left_as_they_are_by_a_network_that_writes_into_its_input(data: DataSet) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.LeakyReLU(0.5, inplace=True), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)
    )
    given = replace(data, train_x=data.train_x - 0.5)
    before = given.train_x.clone()
    found = activation_scores(network, trace(network, given.input_shape), given.train_x, "mean-activation")
    assert torch.equal(given.train_x, before)
    hidden = network[2](nn.functional.leaky_relu(before, 0.5).flatten(1)).relu()
    np.testing.assert_allclose(found["2"], hidden.mean(0).detach(), rtol=1e-5)


def test_an_activation_that_is_a_chain_of_layers_is_taken_whole() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 5), nn.Hardtanh(-0.5, 1.0), nn.Linear(5, 3), nn.SELU(), nn.Linear(3, 2))
    x = torch.randn(50, 4)
    scores = unit_scores(posterior_of(network), network, as_data((x, torch.arange(50) % 2)), by="mean-activation")
    with torch.no_grad():
        np.testing.assert_allclose(scores["0"], network[:2](x).abs().mean(0).numpy(), rtol=1e-5)
        np.testing.assert_allclose(scores["2"], network[:4](x).abs().mean(0).numpy(), rtol=1e-5)


def test_a_unit_goes_with_all_that_makes_and_reads_it(network: nn.Module, data: DataSet) -> None:
    architecture, posterior = trace(network, (1, 8, 8)), posterior_of(network)
    scores = {"conv": np.array([3.0, 1.0, 2.0, 1.0]), "fc1": np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])}
    found = prune_lowest_units(posterior, architecture, scores, remove_percent={"conv": 50.0, "fc*": 34.0})
    kept = {name: site.kept() for name, site in found.sites.items()}
    # of equal scores the first goes
    filters, units = np.array([True, False, True, False]), np.array([False, False, True, True, True, True])
    assert np.array_equal(kept["conv.bias"], filters) and np.array_equal(kept["norm.weight"], filters)
    assert np.array_equal(kept["conv.weight"], np.broadcast_to(filters[:, None, None, None], (4, 1, 3, 3)))
    assert np.array_equal(kept["fc1.weight"], units[:, None] & np.repeat(filters, 9))
    assert np.array_equal(kept["fc2.weight"], np.broadcast_to(units, (10, 6))) and kept["fc2.bias"].all()
    assert found.made_by == {"remove_units_percent": {"conv": 50.0, "fc*": 34.0}}
    # the file's network is the one without them
    file = pc.compress(network, found, (1, 8, 8)).to_torch()
    shapes = [tuple(weight.shape) for weight in file.parameters() if weight.ndim > 1]
    assert shapes == [(2, 1, 3, 3), (4, 18), (10, 4)]
    # all but one may be asked for
    last = prune_lowest_units(posterior, architecture, scores, remove_percent=99.9)
    assert last.sites["conv.bias"].kept().sum() == last.sites["fc1.bias"].kept().sum() == 1


def test_errors_of_one_layer_at_a_time(network: nn.Module, data: DataSet) -> None:
    posterior = posterior_of(network)
    found = unit_sensitivity(posterior, network, data, by="l2", percents=(0.0, 75.0))
    assert list(found) == ["conv", "fc1"]
    # by hand, for fc1, which has no batch norm behind it
    scores = unit_scores(posterior, network, data, by="l2")["fc1"]
    place(network, nothing_pruned(posterior))
    x, y = data.part("validation")
    with torch.no_grad():
        hidden = torch.relu(network.fc1(network.flat(network.pool(network.relu(network.norm(network.conv(x)))))))  # type: ignore[operator]
        hidden[:, np.argsort(scores)[:4].copy()] = 0
        output = network.fc2(hidden)  # type: ignore[operator]
    assert found["fc1"][1] == pytest.approx(100 * float((output.argmax(1) != y).double().mean()), abs=3.0)
    assert found["fc1"][0] == found["conv"][0]
    figure = sensitivity_figure((0.0, 75.0), found, "L2 norm")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["conv", "fc1"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), found["fc1"])


@pytest.mark.parametrize(
    ("scores", "percent", "message"),
    [
        ({"conv": np.ones(4)}, 10.0, "scores of fc1 must be 6 finite numbers, one per unit; found none"),
        ({"conv": np.ones(3), "fc1": np.ones(6)}, 10.0, r"scores of conv must be 4 finite numbers.*found \(3,\)"),
        ({"conv": np.ones(4), "fc1": np.ones(6)}, 100.0, r"must lie in \[0, 100\), found 100.0 for conv"),
        ({"conv": np.ones(4)}, {"fc2": 10.0}, "'fc2' matches no hidden layer: there are conv, fc1"),
        (
            {"conv": np.ones(4)},
            {"conv": 1.0, "c*": 1.0},
            "remove_percent: 'conv' and 'c\\*' both match hidden layer conv: make",
        ),
    ],
)
def test_what_does_not_go_with_the_network_is_refused(
    network: nn.Module, scores: dict[str, np.ndarray], percent: float | dict[str, float], message: str
) -> None:
    with pytest.raises(DecisionError, match=message):
        prune_lowest_units(posterior_of(network), trace(network, (1, 8, 8)), scores, remove_percent=percent)
    with pytest.raises(DecisionError, match=r"unknown ranking of units 'l3': .* Did you mean"):
        unit_scores(posterior_of(network), network, as_data((torch.randn(5, 1, 8, 8), torch.arange(5))), by="l3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_units_by": "l3", "remove_units_percent": 5.0}, "unknown ranking of units 'l3'"),
        ({"rank_units_by": "l1"}, "give it too"),
        ({"remove_units_percent": 5.0, "multiply_adds": 0.5}, "both say which units go"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DecisionError, match=message):
        pc.DecisionSettings(**options)


@pytest.mark.filterwarnings("ignore:on validation the posterior mean does no better")
def test_the_whole_road(network: nn.Module, data: DataSet) -> None:
    settings = pc.DecisionSettings(
        remove_units_percent={"conv": 50.0}, rank_units_by="mean-activation", fine_tune_epochs=1, rate_weights=(0.0,)
    )
    decision = pc.decide(posterior_of(network), network, data, settings)
    assert decision.made_by["units_ranked_by"] == "mean-activation"
    scores = unit_scores(posterior_of(network), network, data, by="mean-activation")["conv"]
    gone = np.argsort(scores)[:2]
    assert not decision.sites["conv.weight"].kept()[gone].any()
    shapes = [tuple(w.shape) for w in pc.compress(network, decision, data=data).to_torch().parameters() if w.ndim > 1]
    assert shapes[0][0] == 2 and shapes[1][1] <= 18
