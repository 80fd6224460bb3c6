"""Inputs as their own targets, and binary inputs drawn once or anew."""

import math

import pytest
import torch

import pyro_compress as pc
from pyro_compress.data import as_data
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.networks import vae_digits


def grey(examples: int = 60) -> DataSet:
    x = torch.rand(examples, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(examples) % 3
    return as_data((x, labels), validation=(x[:20] / 2, labels[:20]), test=(x[:10] / 3, labels[:10]), name="grey")


def feed(data: DataSet) -> Feed:
    return Feed.of(VAE(vae_digits(), {}, Gaussian(noise=1.0)), data)


def epoch_of(data: DataSet, batch_size: int, seed: int, epoch: int) -> list[Batch]:
    return list(feed(data).batches(batch_size, seed, epoch))


def test_targets_are_the_inputs_as_rows() -> None:
    data, found = grey(), grey().reconstructing()
    for part in ("train", "validation", "test"):
        x, y = getattr(found, f"{part}_x"), getattr(found, f"{part}_y")
        assert torch.equal(x, getattr(data, f"{part}_x")) and torch.equal(y, x.flatten(1))
    assert found.classes is None and found.name == "grey, reconstructed"
    (x, y) = epoch_of(found, 16, 1, 0)[0]
    assert torch.equal(y, x.flatten(1)) and not torch.equal(x, x.round())


def test_static_draws_once_and_the_seed_decides() -> None:
    data = grey()
    once, again, other = (data.reconstructing("static", seed=seed) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        x = getattr(once, f"{part}_x")
        assert torch.equal(x, getattr(again, f"{part}_x")) and not torch.equal(x, getattr(other, f"{part}_x"))
        assert set(x.unique().tolist()) == {0.0, 1.0} and torch.equal(getattr(once, f"{part}_y"), x.flatten(1))
    assert "static binarisation 1" in once.name and once.description["binarisation"] == "static"
    seen = [torch.cat([x for x, _ in epoch_of(once, 16, 3, epoch)]) for epoch in (0, 1)]
    assert torch.equal(*(x.flatten(1).sum(1).sort().values for x in seen)), "every epoch sees the same draws"


@pytest.mark.parametrize("batch_size", [16, 60])
def test_dynamic_draws_anew_by_seed_epoch_and_batch_alone(batch_size: int) -> None:
    data = grey().reconstructing("dynamic", seed=1)
    assert torch.equal(data.train_x, grey().train_x), "the probabilities stay"
    static = grey().reconstructing("static", seed=1)
    assert torch.equal(data.validation_x, static.validation_x) and torch.equal(data.test_x, static.test_x)
    first, same, later = (epoch_of(data, batch_size, 5, epoch) for epoch in (0, 0, 1))
    for (x, y), (x_same, _), (x_later, _) in zip(first, same, later, strict=True):
        assert torch.equal(x, x_same) and not torch.equal(x, x_later)
        assert torch.equal(y, x.flatten(1)) and set(x.unique().tolist()) == {0.0, 1.0}


def test_draws_have_the_grey_values_as_their_probabilities() -> None:
    data = grey().reconstructing("dynamic")
    epochs = 200
    total = sum((epoch_of(data, 60, 0, epoch)[0][0] for epoch in range(epochs)), torch.zeros(60, 1, 8, 8))
    p = data.train_x
    z = (total / epochs - p) / (p * (1 - p) / epochs).sqrt().clamp(min=1e-3)
    # of 3,840 standard normal numbers, seed fixed
    assert float(z.abs().max()) < 5 and abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / z.numel())


def test_what_cannot_be_binarised_is_refused() -> None:
    data = grey()
    with pytest.raises(DataError, match="Did you mean 'static'"):
        data.reconstructing("statc")
    with pytest.raises(DataError, match="is binarised already"):
        data.reconstructing("static").reconstructing("dynamic")
    large = as_data((torch.full((3, 2), 1.5), torch.zeros(3)), name="large")
    with pytest.raises(DataError, match=r"large: train: the input 1\.5 at index \(0, 0\) is no probability"):
        large.reconstructing("dynamic")


def test_a_vae_does_not_take_labels_for_targets() -> None:
    with pytest.raises(DataError, match=r"give data\.reconstructing\(\)"):
        pc.fit(VAE(vae_digits(), {}), grey(), pc.inference.SVI(epochs=1))


def test_bernoulli_targets_that_are_grey_are_refused() -> None:
    with pytest.raises(DataError, match="Bernoulli"):
        pc.fit(VAE(vae_digits(), {}), grey().reconstructing(), pc.inference.SVI(epochs=1))
