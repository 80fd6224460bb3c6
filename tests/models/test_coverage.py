"""What is said of a network of which priors cover a part."""

import pytest
import torch
from torch import nn

import pyro_compress as pc


def test_numbers_with_a_prior_are_counted() -> None:
    network = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "out": nn.Linear(4, 2), "last": nn.Linear(2, 2, bias=False)})
    network["last"].requires_grad_(False)
    found = pc.BayesianNetwork(network, "log-uniform").coverage
    assert (found.covered, found.total) == (4 * 4 * (3 + 4) + 8, 4 * 4 * (3 + 4) + 2 * 4 * 4 + 8 + 2 + 4)
    assert found.points == ("lstm.bias_ih_l0", "lstm.bias_hh_l0", "out.bias")
    assert found.matrices == ()
    assert found.share == pytest.approx(120 / 158)


def test_matrices_that_no_layer_reads_are_named() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.token = nn.Parameter(torch.zeros(5, 4)), nn.Parameter(torch.zeros(1, 1, 4))
            self.norm, self.out = nn.LayerNorm((5, 4)), nn.Linear(4, 2)

    found = pc.BayesianNetwork(Placed(), "log-uniform").coverage
    assert found.matrices == ("places",)
    assert str(found) == (
        "priors cover 8 of 74 numbers (10.8 %); the rest are point estimates, rounded and not judged: "
        "places, norm.weight, norm.bias and 2 more"
    )


def test_a_network_that_is_covered_whole() -> None:
    found = pc.BayesianNetwork(nn.Sequential(nn.Linear(3, 2)), "normal").coverage
    assert found.share == 1 and not found.points and str(found) == "priors cover 8 of 8 numbers (100.0 %)"
