"""Layers that are used again: what is taken away from them goes at all their places, and their numbers count once."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.analysis.decisions.rates import published_rates
from pyro_compress.analysis.decisions.structure import bias_in_front, remove_dead
from pyro_compress.analysis.modes.symmetries import hidden_spaces
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.models.narrowing import can_narrow
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Linear
from pyro_compress.network.liveness import is_plain_chain
from pyro_compress.network.stored import each_used_once
from pyro_compress.network.units import units_of
from pyro_compress.report.micronet import Reference, micronet_score
from tests.analysis.decisions.masked_networks import decide, masked, randomise, run

UNIT = Reference("one", 1.0, 1.0)


class Twice(nn.Module):
    """A dense layer that takes the hidden units back to themselves, so often."""

    def __init__(self, times: int = 2, norms: str = "") -> None:
        super().__init__()
        self.into, self.step, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.times, self.norms = times, norms
        if norms:
            self.norm = nn.ModuleList(nn.BatchNorm1d(6) for _ in range(times if norms == "own" else 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.into(x))
        for time in range(self.times):
            x = self.step(x)
            if self.norms:
                x = self.norm[time % len(self.norm)](x)
            x = torch.sigmoid(x)
        return self.out(x)


def everything(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.ones(parameter.shape, bool) for name, parameter in network.named_parameters()}


def reduced(network: nn.Module, masks: dict[str, np.ndarray]) -> Any:
    decision = decide(network, masks, None)
    stored = remove_dead(trace(network, (5,)), decision)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(run(stored, x), masked(network, decision, x), rtol=0, atol=1e-6)
    return stored


def made(**options: Any) -> nn.Module:
    network = Twice(**options).eval()
    randomise(network, np.random.default_rng(3))
    return network


def test_a_unit_goes_at_all_places_or_stays_at_all() -> None:
    network = made()
    masks = everything(network)
    # nobody reads unit 2, neither the layer itself nor the one behind
    masks["step.weight"][:, 2] = masks["out.weight"][:, 2] = False
    assert [layer.out_features for layer in reduced(network, masks).architecture.weighted()] == [5, 5, 3]
    # the second time it is read, and so it stays where it is not
    masks["out.weight"][:, 2] = True
    assert [layer.out_features for layer in reduced(network, masks).architecture.weighted()] == [6, 6, 3]


def test_what_is_constant_at_one_place_is_folded_at_none() -> None:
    network = made()
    masks = everything(network)
    # unit 4 is a constant when the layer is first used, and varies when it is used again
    masks["into.weight"][4] = False
    stored = reduced(network, masks)
    assert stored.tensors["step.weight"].shape == (6, 6)
    np.testing.assert_array_equal(stored.tensors["step.bias"].dense(), network.get_parameter("step.bias").detach())


@pytest.mark.parametrize(("norms", "in_front"), [("one", True), ("own", False)])
def test_a_bias_goes_into_a_norm_where_both_are_always_together(norms: str, in_front: bool) -> None:
    network = made(norms=norms)
    architecture = trace(network, (5,))
    places = [place for name, at in architecture.places.items() if name.startswith("norm") for place in at]
    assert [bias_in_front(architecture, place) is not None for place in places] == [in_front] * 2
    masks = everything(network)
    masks["step.weight"][1] = False
    assert ("step.bias" in reduced(network, masks).tensors) is not in_front


def test_numbers_count_once_and_products_every_time() -> None:
    one, three = (reduced(network, everything(network)) for network in (made(times=1), made(times=3)))
    # a layer of the three more, which says how far back it is
    assert len(encode(three)) - len(encode(one)) <= 8
    scores = [micronet_score(stored, UNIT) for stored in (one, three)]
    assert scores[0].parameters == scores[1].parameters
    products = [sum(layer.multiplies for layer in score.layers if "step" in layer.layer) for score in scores]
    assert products == [36, 108]
    rates = [
        published_rates(trace(network, (5,)), decide(network, everything(network), None))
        for network in (made(times=1), made(times=3))
    ]
    assert rates[0] == rates[1]


def test_layers_of_their_own_compute_the_same() -> None:
    network = made(times=3, norms="one")
    stored = reduced(network, everything(network))
    own = each_used_once(stored)
    assert not own.architecture.reused and set(own.tensors) > set(stored.tensors)
    assert [layer.name for layer in own.architecture.layers if isinstance(layer, Linear)] == [
        *("into", "step", "step@2", "step@3", "out")
    ]
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(run(own, x), run(stored, x), rtol=0, atol=0)


def test_a_slope_serves_results_of_any_size() -> None:
    slope = nn.PReLU()
    network = nn.Sequential(nn.Linear(5, 6), slope, nn.Linear(6, 4), slope)
    randomise(network, np.random.default_rng(0))
    masks = everything(network)
    masks["2.weight"][:, 3] = False
    assert [layer.out_features for layer in reduced(network.eval(), masks).architecture.weighted()] == [5, 4]


def test_what_cannot_be_done_with_them_is_not() -> None:
    architecture = trace(Twice(), (5,))
    assert not is_plain_chain(architecture) and not can_narrow(architecture)
    units = units_of(architecture)
    assert not units.free[units.of[2]].any() and not units.free[units.of[4]].any()
    # of the hidden spaces none may be renamed: all are before or behind the layer that is used again
    assert hidden_spaces(architecture) == ()
    assert hidden_spaces(trace(Twice(times=1), (5,))) != ()
