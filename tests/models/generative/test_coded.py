"""A VAE's codes in the place of inputs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError, NetworkError
from pyro_compress.inference.point.map import MAP
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.coded import coded
from pyro_compress.models.generative.codes import GaussianCodes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.pipeline.evaluation import _training_label_nats


def model() -> tuple[VAE, dict[str, torch.Tensor]]:
    """Codes N((x₁ + 1, 5, x₂), diag(0.3², 1, 0.2²)): the second says nothing of x."""
    encoder = nn.Linear(2, 6)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 1.0], [0, 0], [0, 0], [0, 0]]))
        encoder.bias.copy_(torch.tensor([1.0, 5, 0, *(2 * torch.tensor([0.3, 1, 0.2]).log())]))
    vae = VAE(EncoderDecoder(encoder, nn.Sequential(nn.Linear(3, 2)), GaussianCodes(3)), {}, "gaussian")
    return vae, {name: value.detach() for name, value in vae.network.named_parameters()}


def examples() -> DataSet:
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(500) % 2
    return as_data((x, y), validation=(x[:9] + 1, y[:9]), classes=2, name="user data").with_labels(10)


def test_inputs_are_mean_codes_without_the_constant_one() -> None:
    data, (vae, values) = examples(), model()
    found = coded(vae, values, data)
    torch.testing.assert_close(found.train_x, data.train_x + torch.tensor([1.0, 0]))
    torch.testing.assert_close(found.validation_x, data.validation_x + torch.tensor([1.0, 0]))
    assert len(found.test_x) == 0 and found.input_shape == (2,) and found.name == "user data, 10 labels 0, by codes"
    assert torch.equal(found.train_y, data.train_y) and found.partly_labelled and found.N == 500


def test_draws_stand_beside_each_other_with_their_targets() -> None:
    data, (vae, values) = examples(), model()
    before = torch.get_rng_state()
    found = coded(vae, values, data, draws=40, seed=1)
    assert torch.equal(torch.get_rng_state(), before) and len(found.train_x) == 20_000
    noise = (found.train_x - data.train_x.repeat(40, 1) - torch.tensor([1.0, 0])).view(40, 500, 2)
    torch.testing.assert_close(noise.std((0, 1)), torch.tensor([0.3, 0.2]), rtol=0.03, atol=0)
    assert float(noise.mean((0, 1)).abs().max()) < 0.01 and torch.equal(found.train_y.view(40, 500)[7], data.train_y)
    torch.testing.assert_close(found.validation_x, data.validation_x + torch.tensor([1.0, 0]))
    assert torch.equal(found.train_x, coded(vae, values, data, draws=40, seed=1).train_x)


def test_an_example_counts_once_however_often_its_code_is_drawn() -> None:
    data, (vae, values) = examples(), model()
    found, of_more = coded(vae, values, data, draws=4), coded(vae, values, replace(data, size=700), draws=4)
    assert found.N == 500 and of_more.N == 700 and found.labelled().N == 10
    assert found.description["train_examples"] == 2000
    with pytest.raises(DataError, match="N = 499 is less than the 500 training examples given"):
        replace(found, size=499)
    # that of a posterior, and that of a two-part code: of equal draws both are those of one
    same = replace(data.labelled(), validation_x=data.train_x[:0], validation_y=data.train_y[:0])
    rows: dict[str, Any] = {"train_x": same.train_x.repeat(3, 1), "train_y": same.train_y.repeat(3), "repeats": 3}
    thrice, network, likelihood = replace(same, **rows), nn.Linear(2, 2), Categorical()
    assert thrice.N == same.N == 10
    nats = [_training_label_nats(network, part, likelihood) for part in (same, thrice)]
    assert nats[0] == pytest.approx(nats[1])
    method = MAP(epochs=300, batch_size=30, learning_rate=0.05)
    weights = [pc.fit(BayesianNetwork(network, "normal"), part, method).parameters for part in (same, thrice)]
    for name, site in weights[0].items():
        np.testing.assert_allclose(site.mean, weights[1][name].mean, atol=0.01)


def test_what_has_no_codes_is_refused() -> None:
    data, (vae, values) = examples(), model()
    with pytest.raises(NetworkError, match="every number of the code has a variance of at most 9"):
        coded(vae, values, data, threshold=9.0)
    grey = as_data((torch.rand(20, 2), torch.arange(20) % 2), classes=2)
    with pytest.raises(DataError, match="binarise them statically"):
        coded(vae, values, grey.binarised("dynamic"))
