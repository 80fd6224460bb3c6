"""No example is held out from itself: loaders that repeat, data sets that repeat, parts that share examples."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.splits import stratified_split
from pyro_compress.errors import DataError

X, Y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
EXAMPLES = TensorDataset(X, Y)


def shared(data: DataSet) -> int:
    """How many validation examples are training examples."""
    train = {tuple(row.tolist()) for row in data.train_x}
    return sum(tuple(row.tolist()) in train for row in data.validation_x)


class Twice(Sampler[int]):
    """A sampler of the user's own."""

    def __iter__(self) -> Iterator[int]:
        return iter([*range(40), *range(40)])

    def __len__(self) -> int:
        return 80


class BatchesTwice(Sampler[list[int]]):
    def __iter__(self) -> Iterator[list[int]]:
        return iter([[i, (i + 1) % 60] for i in range(60)])

    def __len__(self) -> int:
        return 60


class Whole(Dataset[tuple[Tensor, Tensor]]):
    """Whose items are batches."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[20 * index : 20 * index + 20], Y[20 * index : 20 * index + 20]


REPEATING = {
    "weighted": (DataLoader(EXAMPLES, 20, sampler=WeightedRandomSampler([1.0] * 60, 200)), 60),
    "weights of zero": (DataLoader(EXAMPLES, 20, sampler=WeightedRandomSampler([1.0] * 50 + [0.0] * 10, 200)), 50),
    "with replacement": (DataLoader(EXAMPLES, 20, sampler=RandomSampler(EXAMPLES, True, 100)), 60),
    "more than there are": (DataLoader(EXAMPLES, 20, sampler=RandomSampler(EXAMPLES, num_samples=90)), 60),
    "own sampler": (DataLoader(EXAMPLES, 7, sampler=Twice()), 40),
    "own batches": (DataLoader(EXAMPLES, batch_sampler=BatchesTwice()), 60),
    "items that are batches": (DataLoader(Whole(), batch_size=None, sampler=[0, 1, 2, 0]), 60),
}


@pytest.mark.parametrize("case", REPEATING)
def test_a_loader_that_repeats_examples_is_read_once_in_order(case: str) -> None:
    loader, count = REPEATING[case]
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"user data: train: the DataLoader draws .* each of them is read once"):
        data = as_data(loader)
    assert torch.equal(data.train_x, X[:count]) and torch.equal(data.train_y, Y[:count]) and count == data.N
    with pytest.warns(UserWarning, match="read once"):
        split = as_data(loader, validation=0.2)
    assert shared(split) == 0 and len(split.validation_x) == round(0.2 * count)
    assert torch.equal(state, torch.get_rng_state())


def test_loaders_that_do_not_repeat_are_read_as_before() -> None:
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)).tolist()
    generator = torch.Generator().manual_seed(5)
    for loader, expected in (
        (DataLoader(EXAMPLES, 7), list(range(60))),
        (DataLoader(EXAMPLES, 7, shuffle=True, generator=generator), list(range(60))),
        (DataLoader(EXAMPLES, 7, sampler=order), order),
        (DataLoader(EXAMPLES, batch_sampler=[order[:20], order[20:]]), order),
        (DataLoader(EXAMPLES, 7, sampler=RandomSampler(EXAMPLES, generator=generator)), list(range(60))),
        (DataLoader(EXAMPLES, batch_size=None, sampler=SequentialSampler(EXAMPLES)), None),
    ):
        if expected is None:
            with pytest.raises(DataError, match="can't be read into one tensor"):
                as_data(loader)
        else:
            assert torch.equal(as_data(loader).train_x, X[expected])
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([*zip(X, Y, strict=True)] * 3)


COPIES: dict[str, Any] = {
    "joined": ConcatDataset([EXAMPLES, EXAMPLES]),
    "subset": Subset(EXAMPLES, [*range(60), *range(30)]),
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), 7),
    "tensors": (X.repeat(4, 1), Y.repeat(4)),
    "arrays": (X.repeat(4, 1).numpy(), Y.repeat(4).numpy()),
    "one copy": (torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]])),
}


@pytest.mark.parametrize("case", COPIES)
@pytest.mark.parametrize("validation", [0.2, 0.4])
def test_copies_are_on_one_side_of_the_split(case: str, validation: float) -> None:
    data, whole = as_data(COPIES[case], validation=validation), as_data(COPIES[case])
    assert shared(data) == 0 and len(data.train_x) + len(data.validation_x) == whole.N
    assert len(data.validation_x) == pytest.approx(validation * whole.N, abs=0.1 * whole.N)
    assert (torch.bincount(data.validation_y, minlength=3) > 0).all()


def test_without_copies_the_split_is_the_one_that_it_was() -> None:
    rest, part = stratified_split(Y, 12, seed=3)
    data = as_data((X, Y), validation=12, split_seed=3)
    assert torch.equal(data.train_x, X[rest]) and torch.equal(data.validation_x, X[part])
    # the same input with another target is no copy
    again = as_data((X[:1].expand(60, 4), torch.arange(60)), validation=12)
    assert len(again.validation_x) == 12


def test_too_few_different_examples_for_that_are_said() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with pytest.warns(UserWarning, match=r"16 of 16 validation examples are training examples too"):
        data = as_data((x.repeat(20, 1), torch.tensor([0, 1, 1, 0]).repeat(20)), validation=0.2)
    assert len(data.validation_x) == 16


@pytest.mark.parametrize("part", ["validation", "test"])
def test_parts_that_share_examples_are_said(part: str) -> None:
    given: Any = {part: (torch.cat([X[:3], X[:5] + 1]), torch.cat([Y[:3], Y[:5]]))}
    with pytest.warns(UserWarning, match=rf"user data: 3 of 8 {part} examples are training examples too"):
        as_data((X, Y), **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other: Any = {part: (X, (Y + 1) % 3)}
        as_data((X, Y), **other)


def test_numbers_of_examples_are_whole() -> None:
    for validation in (True, -1, "3", np.bool_(True)):
        with pytest.raises(DataError, match=r"validation must be a whole number|found str|expected tensors"):
            as_data((X, Y), validation=validation)  # type: ignore[arg-type]
    for count in (100.0, True, "100"):
        with pytest.raises(DataError, match="user data: N must be a whole number of at least 1, found"):
            as_data((X, Y), N=count)  # type: ignore[arg-type]
    assert as_data((X, Y), validation=np.int64(12), N=np.int64(100)).N == 100  # type: ignore[arg-type]
    assert len(as_data((X, Y), validation=np.float32(0.25)).validation_x) == 15  # type: ignore[arg-type]


def test_arrays_are_examples() -> None:
    for x, y in ((X.numpy(), Y.numpy()), (X.double().numpy(), Y.numpy().astype(">i2")), (X.numpy(), Y)):
        data = as_data((x, y))
        assert torch.equal(data.train_x, X) and torch.equal(data.train_y, Y) and data.classes == ("0", "1", "2")
    array = X.numpy().copy()
    data = as_data((array, Y))
    data.train_x.zero_()
    assert (array == X.numpy()).all()
