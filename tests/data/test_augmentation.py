"""Training images changed at random: what each change does to pixels, when it is drawn, and who refuses it."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data import as_data
from pyro_compress.data.augmentation import Augmentation, _turned
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference import NUTS, SVI
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.networks import vae_digits
from pyro_compress.models.priors.normal import Normal
from pyro_compress.network.quantizers import power_of_two


def images(examples: int = 60) -> DataSet:
    x = torch.rand(examples, 2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    labels = torch.arange(examples) % 3
    return as_data((x, labels), validation=(x[:20] / 2, labels[:20]), test=(x[:10] / 3, labels[:10]), name="boxes")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 3))


def epoch_of(data: DataSet, seed: int, epoch: int, batch_size: int = 16) -> torch.Tensor:
    return torch.cat(
        [x for x, _ in Feed.of(pc.BayesianNetwork(network(), Normal()), data).batches(batch_size, seed, epoch)]
    )


def test_a_shift_moves_every_image_by_whole_pixels_uniformly() -> None:
    x = torch.zeros(4000, 2, 7, 9)
    x[:, :, 3, 4] = torch.tensor([1.0, 5.0])
    moved = Augmentation(shift=2).draw(x, 1, 2)
    assert torch.equal(moved.sum((2, 3)), x.sum((2, 3))), "channels move together and keep their values"
    counts = moved[:, 0].sum(0)[1:6, 2:7]
    assert counts.sum() == 4000
    # 25 places, each with probability 1/25: within five standard deviations
    assert (counts - 160).abs().max() < 5 * math.sqrt(160)
    edge = torch.zeros(400, 1, 7, 9)
    edge[:, 0, 0, 0] = 1
    left = Augmentation(shift=2).draw(edge, 3).sum((1, 2, 3))
    assert abs(float(left.mean()) - 9 / 25) < 0.12, "what leaves the image does not come back"


def test_a_quarter_turn_is_counterclockwise_and_a_factor_enlarges() -> None:
    x = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    one = torch.ones(3)
    assert torch.allclose(_turned(x, one * math.pi / 2, one), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    wide = x[:, :, :, :5]
    assert torch.allclose(_turned(wide, one * math.pi, one), wide.flip(2, 3), atol=1e-5)
    # a line through the middle keeps its slope in pixels, whatever the image's sides are
    line = torch.zeros(1, 1, 9, 21)
    line[0, 0, 4, :] = 1
    turned = _turned(line, torch.tensor([math.pi / 4]), torch.ones(1))[0, 0]
    assert all(turned[4 - k, 10 + k] > 0.6 for k in range(-3, 4)), "counterclockwise by 45°"
    block = torch.zeros(1, 1, 8, 8)
    block[0, 0, 3:5, 3:5] = 1
    assert abs(float(_turned(block, torch.zeros(1), 2 * torch.ones(1)).sum()) - 16) < 1e-4
    large = torch.zeros(1, 1, 48, 48)
    large[0, 0, 12:36, 12:36] = 1
    drawn = Augmentation(scale=0.5).draw(large.expand(2000, 1, 48, 48), 4).sum((1, 2, 3)) / 24**2
    # of f uniform in [½, 3/2], E f² is 1 + 1/12, and its sd 0.585
    assert abs(float(drawn.mean()) - 13 / 12) < 0.05 and float(drawn.min()) > 0.24 and float(drawn.max()) < 2.26


def test_half_are_mirrored_and_a_square_is_blanked() -> None:
    x = torch.rand(2000, 2, 6, 7, generator=torch.Generator().manual_seed(2)) + 1
    flipped = Augmentation(flip=True).draw(x, 5)
    mirrored = (flipped == x.flip(3)).all(3).all(2).all(1)
    assert ((flipped == x).all(3).all(2).all(1) ^ mirrored).all() and 900 < mirrored.sum() < 1100
    cut = Augmentation(cutout=3).draw(x, 6)
    blank = cut == 0
    assert torch.equal(cut[~blank], x[~blank]) and torch.equal(blank[:, 0], blank[:, 1])
    sizes = blank[:, 0].flatten(1).sum(1)
    assert set(sizes.tolist()) == {4, 6, 9}, "nine pixels, fewer at the edge"
    # a pixel inside is blank when the middle is one of the nine about it, of 6 · 7
    assert abs(float(blank[:, 0, 2, 3].float().mean()) - 9 / 42) < 0.05


def test_training_images_alone_change_by_seed_epoch_and_batch() -> None:
    data = images().augmented(shift=1, rotate=10)
    plain = images()
    assert data.N == plain.N and torch.equal(data.train_x, plain.train_x)
    assert torch.equal(data.validation_x, plain.validation_x) and torch.equal(data.test_x, plain.test_x)
    assert data.name == "boxes, augmented by rotate 10°, shift 1 px" and data.description["augmentation"]
    assert torch.equal(epoch_of(data, 5, 0), epoch_of(data, 5, 0))
    assert not torch.equal(epoch_of(data, 5, 0), epoch_of(data, 6, 0))
    first, later = (epoch_of(data, 5, epoch, batch_size=60) for epoch in (0, 1))
    assert not torch.equal(first, later), "all examples in one batch change too"
    assert images().augmented().augmentation is None and images().augmented().name == "boxes"


def test_fits_and_fine_tuning_see_changed_images() -> None:
    data = images()
    augmented = data.augmented(shift=2)
    model = pc.BayesianNetwork(network(), Normal())
    method = SVI(epochs=2, batch_size=16)
    fits = [pc.fit(model, each, method, seed=1).parameters["1.weight"].mean for each in (data, augmented, augmented)]
    assert (fits[1] == fits[2]).all() and (fits[0] != fits[1]).any()

    start = network()

    def tuned(each: DataSet) -> torch.Tensor:
        net = copy.deepcopy(start)
        value = torch.zeros(3, 128)
        site = GridSite(value, torch.ones_like(value).bool(), power_of_two(-8))
        found = fine_tune(
            net, {"1.weight": site}, each, Categorical(), epochs=1, rate_weight=0.0, batch_size=16, seed=3
        )
        return found["1.weight"]

    assert torch.equal(tuned(augmented), tuned(augmented)) and not torch.equal(tuned(augmented), tuned(data))


def test_a_fit_to_changed_images_is_not_judged_by_those_as_they_are() -> None:
    data = images().augmented(flip=True)
    model = pc.BayesianNetwork(network(), Normal())
    posterior = pc.fit(model, data, SVI(epochs=2, batch_size=16))
    assert "other inputs in every batch" in str(pc.diagnose(posterior, model, data).statistics["not_judged"])


def test_what_cannot_be_augmented_is_refused() -> None:
    data = images()
    for options, said in (
        ({"shfit": 1}, "Did you mean 'shift'"),
        ({"shift": 0.5}, "must be a whole number"),
        ({"cutout": -1}, "must not be negative"),
        ({"scale": 1.0}, "below 1"),
        ({"shift": 8}, "leaves nothing"),
    ):
        with pytest.raises(DataError, match=said):
            data.augmented(**options)
    with pytest.raises(DataError, match="changes images"):
        as_data((torch.rand(8, 64), torch.arange(8) % 2)).augmented(shift=1)
    with pytest.raises(DataError, match="outputs are of the training inputs as they are"):
        data.augmented(shift=1).taught(torch.zeros(60, 3))
    shifted = data.augmented(shift=1)
    with pytest.raises(InferenceError, match=r"NUTS takes all examples as they are"):
        pc.fit(pc.BayesianNetwork(network(), Normal()), shifted, NUTS(draws=2))
    with pytest.raises(DataError, match="means are of the training images as they are"):
        fine_tune(network(), {}, shifted, Categorical(), epochs=1, rate_weight=0.0, teacher=torch.full((60, 3), 1 / 3))
    grey = replace(images(), classes=None, train_y=torch.rand(60, 64), validation_y=torch.rand(20, 64),
                   test_y=torch.rand(10, 64))  # fmt: skip
    with pytest.raises(DataError, match="reconstructs its inputs"):
        Feed.of(VAE(vae_digits(), {}, Gaussian(noise=1.0)), grey.augmented(shift=1))
