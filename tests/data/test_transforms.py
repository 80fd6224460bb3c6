"""A user's own transforms: drawn anew for every example, batch and epoch from the seed alone."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import pyro_compress as pc
from pyro_compress.data import as_data
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError
from pyro_compress.inference.loop.feed import Feed


def images(count: int = 40) -> DataSet:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return as_data((x, torch.arange(count) % 2), name="boxes")


def epoch_of(data: DataSet, seed: int, epoch: int) -> Tensor:
    model = pc.BayesianNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "normal")
    return torch.cat([x for x, _ in Feed.of(model, data).batches(16, seed, epoch)])


def noisy(x: Tensor) -> Tensor:
    """Draws from all three generators that transforms draw from."""
    return x + torch.randn(()) + random.random() + float(np.random.rand())


@pytest.mark.parametrize("transform", [v2.RandomCrop(8, padding=2), noisy], ids=["torchvision", "a function"])
def test_every_example_is_changed_by_itself_and_from_the_seed_alone(transform: v2.Transform) -> None:
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(30, 1, 8, 8)
    of_torch, of_python, of_numpy = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    change = Augmentation(transform=transform)
    drawn = change.draw(x, 1, 2)
    assert len({tuple(one.flatten().tolist()) for one in drawn}) > 10, "one draw per example, and not per batch"
    assert torch.equal(drawn, change.draw(x, 1, 2)) and not torch.equal(drawn, change.draw(x, 1, 3))
    assert torch.equal(of_torch, torch.get_rng_state()) and of_python == random.getstate()
    assert of_numpy == repr(np.random.get_state())


def test_batches_of_a_fit_are_drawn_anew() -> None:
    data = images().augmented(transform=noisy)
    assert torch.equal(epoch_of(data, 0, 1), epoch_of(data, 0, 1))
    assert not torch.equal(epoch_of(data, 0, 1).mean(), epoch_of(data, 0, 2).mean())
    assert data.name == "boxes, augmented by transform noisy" and torch.equal(data.train_x, images().train_x)
    assert data.augmented(transform=v2.RandomHorizontalFlip()).description["augmentation"].endswith("HorizontalFlip")


def test_it_comes_after_the_products_own_and_takes_any_examples() -> None:
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    both = Augmentation(flip=True, transform=lambda one: 2 * one)
    assert torch.equal(both.draw(x, 5), 2 * Augmentation(flip=True).draw(x, 5))
    series = as_data((torch.rand(12, 5), torch.arange(12) % 2)).augmented(transform=noisy)
    assert series.augmentation is not None and series.augmentation.draw(series.train_x, 1).shape == (12, 5)
    kept = torch.rand(6, 3)
    in_place = Augmentation(transform=lambda one: one.mul_(0))
    assert not in_place.draw(kept, 1).any() and kept.any(), "the data stay as they are"


def test_what_does_not_keep_shape_or_type_is_refused_at_once() -> None:
    with pytest.raises(DataError, match=r"RandomCrop made torch.float32 \(1, 4, 4\) of an example torch.float32 \(1,"):
        images().augmented(transform=v2.RandomCrop(4))
    with pytest.raises(DataError, match="transform <lambda> made str of an example"):
        images().augmented(transform=lambda one: "no")
    with pytest.raises(DataError, match=r"transform <lambda> failed on an example of shape .* with ZeroDivisionError"):
        images().augmented(transform=lambda one: one / (1 // 0))
    with pytest.raises(DataError, match=r"option 'transform' of augmentation must be .*, found 3"):
        images().augmented(transform=3)


def test_labels_of_positions_would_not_move() -> None:
    x = torch.rand(6, 1, 8, 8)
    data = as_data((x, (x[:, 0] > 0.5).long()))
    with pytest.raises(DataError, match=r"every position \(8, 8\) has a label, which would not move with the image"):
        data.augmented(shift=1)
    assert data.augmented(cutout=2).augmentation and data.augmented(transform=v2.GaussianNoise()).augmentation


def test_the_command_line_names_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "changes.py").write_text(
        "from torchvision.transforms import v2\n\n\ndef flips():\n    return v2.RandomHorizontalFlip()\n\n\n"
        "def nothing():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    changed = images().augmented(transform="changes:flips")
    assert changed.name.endswith("augmented by transform changes:flips") and changed.augmentation is not None
    assert torch.equal(changed.augmentation.draw(changed.train_x, 3).sort(3)[0], changed.train_x.sort(3)[0])
    with pytest.raises(DataError, match=r"augmentation.transform changes:nothing returned a int, expected a function"):
        images().augmented(transform="changes:nothing")
    with pytest.raises(DataError, match=r"augmentation.transform changes:flip: module 'changes' has no function"):
        images().augmented(transform="changes:flip")
