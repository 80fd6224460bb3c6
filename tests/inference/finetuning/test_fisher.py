"""The diagonal Fisher information against closed forms, and what refinement makes of it."""

import numpy as np
import torch
from torch import nn

from pyro_compress.inference.finetuning.fisher import diagonal_fisher
from pyro_compress.models.likelihoods import Categorical, Gaussian


def test_of_softmax_regression_it_is_the_closed_form() -> None:
    torch.manual_seed(0)
    network, x = nn.Linear(4, 3), torch.randn(6000, 4)
    found = diagonal_fisher(network, x, Categorical(), size=12000, examples=6000)
    p = torch.softmax(network(x), 1).detach()
    # F of W[c, j] is Σ_i p_c (1 − p_c) x_j², of b[c] without x
    spread = p * (1 - p)
    expected = {"weight": 2 * spread.T @ x.square(), "bias": 2 * spread.sum(0)}
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0.1), name


def test_of_regression_it_is_the_closed_form_through_a_hidden_layer() -> None:
    torch.manual_seed(1)
    first, last = nn.Linear(3, 4), nn.Linear(4, 1)
    network, x = nn.Sequential(first, nn.Tanh(), last), torch.randn(5000, 3)
    found = diagonal_fisher(network, x, Gaussian(noise=0.5), size=5000, examples=5000, seed=3)
    hidden = torch.tanh(first(x)).detach()
    slope = (1 - hidden.square()) * last.weight.detach()
    expected = {
        "0.weight": slope.square().T @ x.square() / 0.25,
        "0.bias": slope.square().sum(0) / 0.25,
        "2.weight": hidden.square().sum(0, keepdim=True) / 0.25,
        "2.bias": torch.tensor([5000 / 0.25]),
    }
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0.12), name


def test_it_counts_to_the_size_and_leaves_network_and_noise_alone() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    x, state = torch.randn(300, 4), torch.random.get_rng_state()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    once, twice = (diagonal_fisher(network, x, Categorical(), size, examples=200) for size in (300, 600))
    assert network.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    for name, value in once.items():
        np.testing.assert_allclose(2 * value.numpy(), twice[name].numpy(), rtol=1e-5)
    # dropout is off: a weight has what it has without noise
    again = diagonal_fisher(network, x, Categorical(), 300, examples=200)
    assert all(torch.equal(once[name], again[name]) for name in once)
