"""Networks without uncertainty on the whole road: pruned by magnitude, on the coarsest grid that validation accepts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.inference.fit import fit
from pyro_compress.pipeline.quantizing import C_LADDER
from pyro_compress.posterior.posterior import Posterior

UNTRAINED = pc.DecisionSettings(fine_tune_epochs=0, remove_percent=50.0)


@pytest.fixture(name="data", scope="module")
def _data() -> DataSet:
    return pc.data.load("digits")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


@pytest.fixture(name="fitted", scope="module")
def _fitted(data: DataSet) -> Posterior:
    model = pc.BayesianNetwork(network(), pc.models.Normal(scale=0.3))
    return fit(model, data, pc.inference.MAP(epochs=15, batch_size=32, learning_rate=5e-3), seed=0)


def test_a_network_without_variance_is_pruned_rounded_and_stored(data: DataSet, fitted: Posterior) -> None:
    decision = pc.decide(fitted, network(), data, UNTRAINED)
    assert decision.made_by["removed_by"] == "magnitude"
    weights = [decision.sites[name] for name in ("1.weight", "3.weight")]
    kept, total = decision.weights_left()
    assert kept == total // 2
    smallest = min(float(np.abs(site.value[site.kept()]).min()) for site in weights)
    assert smallest >= max(float(np.abs(site.value[~site.kept()]).max()) for site in weights)
    # the next coarser grid was tried and costs more than the tolerance
    c = decision.made_by["c"]
    assert isinstance(c, float) and C_LADDER[-1] < c < C_LADDER[0]
    coarser = pc.decide(fitted, network(), data, replace(UNTRAINED, c=4 * c))
    rises: list[Any] = [found.made_by["rounding_rise_points"] for found in (decision, coarser)]
    assert rises[0] <= UNTRAINED.tolerance_points < rises[1]
    file = pc.compress(network(), decision, data=data)
    assert len(file) < 4 * total / 8
    assert pc.evaluate(file, data)["error_after_percent"] < 10


def test_float32_and_no_pruning_are_a_choice(data: DataSet, fitted: Posterior) -> None:
    file = pc.compress(network(), pc.analysis.prune(fitted), data=data).to_torch()
    held = [value.numpy() for value in file.state_dict().values()]
    for name, site in fitted.parameters.items():
        assert any(np.array_equal(site.mean, value) for value in held), name


def test_dropout_goes_by_magnitude_whether_its_masks_stay_or_not(data: DataSet) -> None:
    model = pc.BayesianNetwork(network(), pc.models.Normal(scale=0.3))
    how: dict[str, Any] = {"epochs": 3, "batch_size": 64, "learning_rate": 5e-3, "rate": 0.5, "input_rate": 0.2}
    plain = fit(model, data, pc.inference.Dropout(**how), seed=0)
    masked = fit(model, data, pc.inference.MCDropout(**how, draws=4), seed=0)
    assert not any(site.has_ratio for site in masked.parameters.values())
    found = [pc.analysis.prune(posterior, remove_percent=75.0) for posterior in (plain, masked)]
    for name in ("1.weight", "3.weight"):
        np.testing.assert_array_equal(found[0].sites[name].kept(), found[1].sites[name].kept())
    assert found[0].made_by == found[1].made_by == {"remove_percent": 75.0, "removed_by": "magnitude"}
    decision = pc.decide(masked, network(), data, replace(UNTRAINED, refine=False))
    assert decision.made_by["removed_by"] == "magnitude"
    assert decision.weights_left()[0] == decision.weights_left()[1] // 2
