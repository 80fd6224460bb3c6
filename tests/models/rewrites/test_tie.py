"""Tied layers: one weight, biases of their own, one prior, and the file in which it stands once."""

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.errors import NetworkError
from pyro_compress.models.rewrites.tie import Tie


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


def test_all_that_are_alike_share_the_first_one_s_weight() -> None:
    given = network()
    found = Tie()(given)
    for names in (("2", "4", "6"), ("11", "13")):
        layers = [found.get_submodule(name) for name in names]
        assert all(layer.weight is layers[0].weight for layer in layers)
        assert len({id(layer.bias) for layer in layers}) == len(names)
        original = given.get_parameter(f"{names[0]}.weight")
        assert torch.equal(found.get_parameter(f"{names[0]}.weight"), original) and layers[0].weight is not original
    assert given.get_submodule("4").weight is not given.get_submodule("2").weight
    # computed as a recurrence by hand
    held = dict(given.named_parameters())
    x, filters, matrix = torch.randn(5, 1, 8, 8), held["2.weight"], held["11.weight"]
    y = given.get_submodule("0")(x).relu()
    for name, stride, padding in (("2", 1, 1), ("4", 1, 1), ("6", 2, 0)):
        y = nn.functional.conv2d(y, filters, held[f"{name}.bias"], stride, padding).relu()
    y = given.get_submodule("9")(y.flatten(1)).relu()
    for name in ("11", "13"):
        y = nn.functional.linear(y, matrix, held[f"{name}.bias"]).relu()
    torch.testing.assert_close(found(x), given.get_submodule("15")(y))


def test_patterns_name_sets() -> None:
    found = Tie(layers=("[24]", "1[13]"))(network())
    assert found.get_submodule("4").weight is found.get_submodule("2").weight
    assert found.get_submodule("6").weight is not found.get_submodule("2").weight
    assert found.get_submodule("13").weight is found.get_submodule("11").weight


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (("2",), "'2' matches 2 alone"),
        ((), "layers names no set"),
        (("[02]",), r"matches 0, a Conv2d with a weight of shape \(8, 1, 3, 3\), and 2, .* only layers that are alike"),
        (("[24]", "[46]"), "both match dense layer or convolution 4"),
        (("conv*",), r"'conv\*'"),
    ],
)
def test_sets_that_cannot_share_are_refused(layers: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(NetworkError, match=f"tie.*{sentence}"):
        Tie(layers=layers)(network())
    with pytest.raises(NetworkError, match="tie: no two dense layers or convolutions"):
        Tie()(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))


def test_a_tied_network_is_fitted_and_stored_once() -> None:
    data = pc.data.load("digits")
    found = Tie(layers=("[246]",))(network())
    model = pc.BayesianNetwork(found, {}, pc.models.Categorical())
    posterior = pc.fit(model, data, pc.inference.MAP(epochs=10, batch_size=64, learning_rate=5e-3), seed=0)
    assert "2.weight" in posterior.parameters and "4.weight" not in posterior.parameters
    decision = pc.decide(posterior, found, data, pc.DecisionSettings(fine_tune_epochs=0), say=lambda line: None)
    assert decision.weights_left()[1] == 8 * 9 + 8 * 72 + 72 * 16 + 2 * 256 + 160
    file = pc.compress(found, decision, data=data)
    first, second = (file.network.tensors[f"{name}.weight"].integers for name in "24")
    assert first is not None and second is not None and np.array_equal(first, second)
    assert pc.evaluate(file, data)["error_after_percent"] < 30
