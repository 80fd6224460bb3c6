"""The embedded digits, splits and batches."""

import pytest
import torch

from pyro_compress.data.examples import as_data
from pyro_compress.data.generators import generator_for
from pyro_compress.data.named import load
from pyro_compress.data.splits import batches, stratified_split
from pyro_compress.errors import DataError


def test_digits_are_scaled_and_split_once_for_all() -> None:
    first, again = load("digits"), load("digits")
    assert (len(first.train_x), len(first.validation_x), len(first.test_x)) == (1250, 187, 360)
    assert first.N == 1250 and first.input_shape == (1, 8, 8) and first.classes == tuple("0123456789")
    assert first.train_x.min() == 0.0 and first.train_x.max() == 1.0
    for part in ("train_x", "train_y", "validation_x", "test_y"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.validation_x, load("digits", split_seed=1).validation_x)
    assert torch.equal(first.test_x, load("digits", split_seed=1).test_x)


def test_digits_parts_are_all_of_scikit_learns_images() -> None:
    from sklearn.datasets import load_digits

    d = load("digits")
    images = torch.cat([d.train_x, d.validation_x, d.test_x]).mul(16).reshape(-1, 64)
    assert sorted(images.long().tolist()) == sorted(load_digits().data.astype(int).tolist())


@pytest.mark.parametrize("count", [0, 1, 7, 33, 99])
def test_stratified_split_is_a_partition_within_one_of_each_share(count: int) -> None:
    y = torch.tensor([0] * 61 + [1] * 29 + [2] * 10)[torch.randperm(100, generator=generator_for(0))]
    rest, part = stratified_split(y, count, seed=5)
    assert len(part) == count and sorted(torch.cat([rest, part]).tolist()) == list(range(100))
    shares = torch.tensor([61, 29, 10]) * count / 100
    assert (torch.bincount(y[part], minlength=3) - shares).abs().max() < 1
    assert torch.equal(part, stratified_split(y, count, seed=5)[1])


def test_split_is_random_and_not_the_last_examples() -> None:
    y = torch.zeros(1000, dtype=torch.int64)
    _, part = stratified_split(y, 100, seed=5)
    # a uniform draw of 100 of 1000: mean 499.5, standard deviation of its mean 27.4
    assert abs(part.double().mean().item() - 499.5) < 4 * 27.4
    assert not torch.equal(part, stratified_split(y, 100, seed=6)[1])


def test_split_ignores_and_leaves_the_global_random_state() -> None:
    y = torch.zeros(50, dtype=torch.int64)
    torch.manual_seed(1)
    first, state = stratified_split(y, 10, 5)[1], torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, stratified_split(y, 10, 5)[1])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_splitting_off_everything_is_refused() -> None:
    with pytest.raises(DataError, match="can't hold out 4 of 4 examples"):
        as_data((torch.zeros(4, 3), torch.arange(4)), validation=4)
    with pytest.raises(DataError, match=r"validation = 1.5 is no share"):
        as_data((torch.zeros(4, 3), torch.arange(4)), validation=1.5)


def order(seed: int, epoch: int, size: int = 7, count: int = 50) -> list[int]:
    x = torch.arange(count)
    return [int(i) for chosen, _ in batches(x, x, size, seed, epoch) for i in chosen]


def test_batches_cover_every_example_once_and_keep_pairs() -> None:
    x = torch.arange(50).float()[:, None]
    seen = list(batches(x, x[:, 0] * 2, 8, seed=0, epoch=0))
    assert [len(b) for b, _ in seen] == [8, 8, 8, 8, 8, 8, 2]
    assert all(torch.equal(b[:, 0] * 2, t) for b, t in seen)
    assert sorted(torch.cat([b[:, 0] for b, _ in seen]).tolist()) == list(range(50))


def test_an_epoch_is_the_same_when_a_run_starts_there() -> None:
    through = [order(11, epoch) for epoch in range(5)]
    torch.manual_seed(99)
    assert order(11, 3) == through[3]
    assert order(11, 3, size=50) == through[3]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(order(seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36
    assert list(range(50)) not in [list(o) for o in orders]


def test_the_order_is_the_one_written_down() -> None:
    # a run resumed with another version of this package goes on with the batches it would have seen
    assert order(7, 2, count=10) == [7, 6, 1, 2, 0, 3, 9, 5, 8, 4]


def test_batches_leave_the_global_random_state() -> None:
    state = torch.get_rng_state()
    order(1, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_batches_are_refused_at_the_call() -> None:
    with pytest.raises(DataError, match="the batch size is 0"):
        batches(torch.zeros(3), torch.zeros(3), 0, 0, 0)
    with pytest.raises(DataError, match=r"3 inputs \(3, 2\) with 4 targets \(4,\)"):
        batches(torch.zeros(3, 2), torch.zeros(4), 2, 0, 0)
