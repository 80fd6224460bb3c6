"""Data sets that are no images: published sizes, parts that share nothing, and what every number stands for."""

import math
import zlib

import pytest
import torch

from pyro_compress.data import characters, tables
from pyro_compress.data.named import load
from pyro_compress.data.scenes import INK, SIDE, scenes
from pyro_compress.data.sources import count_among
from pyro_compress.errors import DataError


def test_diamonds_are_those_of_the_table() -> None:
    data = load("diamonds")
    assert len(data.train_x) + len(data.validation_x) + len(data.test_x) == 53_940
    assert data.input_shape == (26,) and data.classes is None and 4_990 < len(data.validation_x) <= 5_000
    assert data.train_x[:, :6].mean(0).abs().max() < 1e-4
    torch.testing.assert_close(data.train_x[:, :6].std(0), torch.ones(6), atol=1e-4, rtol=0)
    assert abs(float(data.train_y.mean())) < 1e-4
    # one grade of each kind
    for first, count in ((6, 5), (11, 7), (18, 8)):
        assert bool((data.test_x[:, first : first + count].sum(1) == 1).all())
    assert count_among((data.test_x, data.test_y), (data.train_x, data.train_y)) == 0
    # prices are whole dollars, of which the least is 326
    dollars = (torch.cat([data.train_y, data.validation_y, data.test_y]).double()).exp()
    dollars = dollars / dollars.min() * 326
    assert float((dollars - dollars.round()).abs().max()) < 0.02 and round(float(dollars.max())) == 18_823
    other = load("diamonds", validation=1000, split_seed=3)
    assert 990 < len(other.validation_x) < 1010
    torch.testing.assert_close(other.test_y - other.test_y.mean(), data.test_y - data.test_y.mean())


def test_forecasts_do_not_see_what_they_say() -> None:
    data = load("electricity")
    assert data.input_shape == (3, 96) and data.train_y.shape[1:] == (24,)
    starts = math.ceil((tables.WEEK - 96 - 24 + 1) / 2)
    assert (len(data.train_x), len(data.test_x)) == (32 * starts, 10 * math.ceil(starts / 2))
    # a window that begins 12 hours later knows what the first one said
    later = data.train_x[:starts]
    torch.testing.assert_close(later[12, 0, 96 - 24 :], data.train_y[0])
    # nothing of the test weeks is known in training, and a working day is one for 24 hours
    known = {round(float(value), 5) for value in data.train_x[:, 0].flatten()[::7]}
    assert not known >= {round(float(value), 5) for value in data.test_y.flatten()}
    assert set(data.train_x[:, 2].unique().tolist()) == set(data.test_x[:, 2].unique().tolist())
    assert len(data.train_x[:, 2].unique()) == 2
    with pytest.raises(DataError, match="validation weeks are fixed"):
        load("electricity", validation=10)


def test_scenes_are_digits_on_noise() -> None:
    x = torch.stack([torch.full((1, 8, 8), 0.9), torch.zeros(1, 8, 8)])
    x[0, 0, 0] = INK / 2
    y = torch.tensor([4, 7])
    canvas, labels = scenes(x, y, 40, 0)
    assert canvas.shape == (40, 1, SIDE, SIDE) and set(labels.unique().tolist()) == {0, 5}
    # each has two or three digits, of which some are the empty one
    inked = (labels == 5).flatten(1).sum(1)
    assert set(inked.tolist()) <= {0, 56, 112, 168} and len(set(inked.tolist())) > 2
    assert bool((canvas[:, 0][labels == 5] == x[0].max()).all()) and float(canvas[:, 0][labels == 0].max()) <= 0.5
    again, _ = scenes(x, y, 40, 0)
    other, _ = scenes(x, y, 40, 1)
    assert torch.equal(again, canvas) and not torch.equal(other, canvas)


def test_scenes_of_each_part_are_of_its_own_digits() -> None:
    data = load("digit-scenes")
    assert [len(part) for part in (data.train_x, data.validation_x, data.test_x)] == [2000, 400, 800]
    assert data.classes is not None and len(data.classes) == 11 and int(data.train_y.max()) == 10
    share = (data.test_y > 0).float().mean()
    assert 0.1 < float(share) < 0.25


def test_characters_are_tokens_whose_targets_follow() -> None:
    text = "Ab~\né\t"
    tokens = characters.tokens_of(text)
    assert [characters.CHARACTERS[token] for token in tokens] == ["A", "b", "~", "\n", "other", "other"]
    x, y = characters.windows(["abcdefg", "hij"], context=4)
    assert "".join(characters.CHARACTERS[token] for token in x.flatten()) == "abcdefg\n"
    assert "".join(characters.CHARACTERS[token] for token in y.flatten()) == "bcdefg\nh"


def test_pages_stay_in_their_part() -> None:
    from pydoc_data.topics import topics

    data = load("python-topics")
    assert data.train_x.dtype == torch.int64 and data.input_shape == (64,) == tuple(data.train_y.shape[1:])
    assert torch.equal(data.train_x[0, 1:], data.train_y[0, :-1]) and int(data.train_x.max()) < 97
    held = [topics[name] for name in sorted(topics) if zlib.crc32(name.encode()) % 10 == 9]
    assert torch.equal(data.test_x, characters.windows(held)[0])
    assert 0.03 < len(data.test_x) / len(data.train_x) < 0.5
    with pytest.raises(DataError, match="validation pages are fixed"):
        load("python-topics", validation=0.1)
