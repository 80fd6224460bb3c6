"""Samplers that share nothing but the log joint predict the same."""

import math

import numpy as np
import torch
from torch import nn

from pyro_compress.inference.fit import fit
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from tests.inference.chain_targets import (
    X,
    Y,
    effective,
)


def network() -> BayesianNetwork:
    torch.manual_seed(1)
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)), Normal(), Gaussian(noise=0.5))


def test_predictions_of_a_network_agree_between_samplers() -> None:
    at = torch.tensor([[1.0, 0.5, -0.5], [-1.0, 1.0, 0.0]])
    found = []
    for method in (
        HMC(warmup=75, draws=100, chains=2),
        NUTS(warmup=50, draws=50, chains=2),
        Metropolis(warmup=600, draws=500, thin=3, chains=2),
    ):
        draws = fit(network(), (X, Y[:, None]), method, seed=2).draws
        assert draws is not None
        w1, b1, w2, b2 = (draws.site(name) for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        hidden = np.tanh(np.einsum("cdij,nj->cdni", w1, at.numpy()) + b1[:, :, None])
        output = np.einsum("cdoi,cdni->cdno", w2, hidden)[..., 0] + b2
        for point in range(2):
            values = output[..., point]
            found.append((point, values.mean(), values.std() / math.sqrt(effective(values))))
    for point in range(2):
        same = [(mean, error) for place, mean, error in found if place == point]
        for mean, error in same[1:]:
            assert abs(mean - same[0][0]) < 4 * math.hypot(error, same[0][1])
