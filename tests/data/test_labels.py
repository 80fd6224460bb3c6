"""Labels that are known of some training examples alone."""

from typing import Any

import pytest
import torch

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.labels import UNLABELLED
from pyro_compress.errors import DataError, DecisionError
from pyro_compress.models.networks import digits_softmax
from pyro_compress.pipeline.search import decide
from pyro_compress.posterior.posterior import Posterior


def examples(count: int = 60) -> DataSet:
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    # the classes are of unequal size
    y = torch.tensor([0, 1, 2, 2, 2, 1]).repeat(count // 6)
    return as_data((x, y), validation=(x[:6] + 1, y[:6]), name="user data")


def test_as_many_labels_of_each_class_are_kept_as_the_seed_says() -> None:
    data = examples()
    some = data.with_labels(12, seed=1)
    known = some.train_y != UNLABELLED
    assert torch.bincount(some.train_y[known]).tolist() == [4, 4, 4]
    assert torch.equal(some.train_y[known], data.train_y[known]) and torch.equal(some.train_x, data.train_x)
    assert some.N == 60 and some.name == "user data, 12 labels 1" and torch.equal(some.validation_y, data.validation_y)
    assert torch.equal(some.train_y, data.with_labels(12, seed=1).train_y)
    assert not torch.equal(some.train_y, data.with_labels(12, seed=2).train_y)
    alone = some.labelled()
    assert alone.N == 12 and not alone.partly_labelled and torch.equal(alone.train_x, data.train_x[known])
    assert data.labelled() is data


def test_binarised_data_keep_their_labels() -> None:
    data = examples().with_labels(6)
    grey = as_data((data.train_x, data.train_y), classes=["a", "b", "c"], partly_labelled=True)
    drawn = grey.binarised("static", seed=3)
    assert set(drawn.train_x.unique().tolist()) == {0.0, 1.0} and torch.equal(drawn.train_y, data.train_y)
    assert drawn.partly_labelled and drawn.classes == ("a", "b", "c")
    targets = drawn.reconstructing()
    assert not targets.partly_labelled and torch.equal(targets.train_y, drawn.train_x)


def test_what_cannot_be_is_refused() -> None:
    data = examples()
    with pytest.raises(DataError, match="10 labels cannot be shared out alike among 3 classes"):
        data.with_labels(10)
    with pytest.raises(DataError, match="class 0 has 10 labelled training examples, fewer than 11"):
        data.with_labels(33)
    with pytest.raises(DataError, match="the targets are no class labels"):
        data.reconstructing().with_labels(3)
    x, y = data.train_x, data.train_y.clone()
    y[5] = UNLABELLED
    with pytest.raises(DataError, match=r"train: label -1 is outside 0\.\.2"):
        as_data((x, y))
    assert as_data((x, y), partly_labelled=True).partly_labelled
    some = data.with_labels(12)
    assert as_data(some, partly_labelled=True) is some
    with pytest.raises(DataError, match="user data: a DataSet says itself whether labels are missing"):
        as_data(data, partly_labelled=True)
    with pytest.raises(DataError, match=r"give validation=\(x, y\)"):
        as_data((x, y), partly_labelled=True, validation=0.1)
    with pytest.raises(DataError, match=r"validation: label -1 is outside"):
        as_data((x, data.train_y), partly_labelled=True, validation=(x + 1, y))
    with pytest.raises(DataError, match="only class labels can be missing"):
        as_data((x, x), partly_labelled=True)
    function: Any = len
    with pytest.raises(DecisionError, match="a network is needed here, a torch module or a BayesianNetwork, found len"):
        decide(Posterior({}, {}, {}), function, data)
    with pytest.raises(DecisionError, match=r"give data\.labelled\(\)"):
        decide(Posterior({}, {}, {}), digits_softmax(), data.with_labels(3))
