"""Batches with a share of labelled examples: what they hold, and that their estimates stay those of all examples."""

import pytest
import torch

from pyro_compress.data.generators import generator_for
from pyro_compress.data.labels import UNLABELLED
from pyro_compress.data.splits import batch_sizes
from pyro_compress.data.strata import LabelledShare
from pyro_compress.errors import InferenceError

EXAMPLES, KNOWN, SIZE = 95, 7, 20


def labels() -> torch.Tensor:
    y = torch.full((EXAMPLES,), UNLABELLED)
    y[torch.arange(KNOWN) * 11 + 5] = torch.arange(KNOWN) % 3
    return y


def epoch(share: LabelledShare, y: torch.Tensor, number: int) -> list[torch.Tensor]:
    return list(share.batches(y, batch_sizes(len(y), SIZE), generator_for(number)))


def test_every_batch_has_its_share_and_all_come_up_before_one_comes_again() -> None:
    y, share = labels(), LabelledShare(0.2)
    batches = epoch(share, y, 0)
    assert [len(chosen) for chosen in batches] == [20, 20, 20, 20, 15]
    assert [int((y[chosen] != UNLABELLED).sum()) for chosen in batches] == [4, 4, 4, 4, 3]
    times = torch.bincount(torch.cat(batches), minlength=EXAMPLES)
    labelled, others = times[y != UNLABELLED], times[y == UNLABELLED]
    assert labelled.sum() == 19 and labelled.max() - labelled.min() == 1
    assert others.sum() == 76 and others.max() == 1
    assert not all(torch.equal(one, other) for one, other in zip(batches, epoch(share, y, 1), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(batches, epoch(share, y, 0), strict=True))


@pytest.mark.parametrize(
    ("share", "size", "known", "examples", "expected"),
    [
        (0.1, 20, 7, 95, 2),
        (0.001, 20, 7, 95, 1),  # never none, and
        (0.9, 20, 7, 95, 7),  # never more than there are
        (0.1, 20, 60, 80, 15),  # as many as the data have, where that is more
        (0.9, 2, 7, 95, 1),  # place for the others
        (0.1, 20, 80, 80, 20),  # where there are any
        (0.1, 95, 7, 95, 7),
    ],
)
def test_how_many_have_labels(share: float, size: int, known: int, examples: int, expected: int) -> None:
    assert LabelledShare(share).labelled_in(size, known, examples) == expected


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(InferenceError, match=r"a batch of 1 example has no place .* labelled_share=0"):
        LabelledShare(0.1).labelled_in(1, 7, 95)


@pytest.mark.parametrize("known", [KNOWN, EXAMPLES])
def test_weights_count_either_kind_as_all_of_it(known: int) -> None:
    """N/n Σ v over the labelled of a batch is N_l, and over the others N − N_l, in every batch and not on average."""
    y, share = labels(), LabelledShare(0.2)
    y = y if known == KNOWN else torch.zeros(EXAMPLES, dtype=torch.int64)
    for chosen in epoch(share, y, 3):
        size = len(chosen)
        weights = share.weights(y[chosen], size, known, EXAMPLES) * EXAMPLES / size
        has_label = y[chosen] != UNLABELLED
        assert float(weights[has_label].sum()) == pytest.approx(known)
        assert float(weights[~has_label].sum()) == pytest.approx(EXAMPLES - known)
        # of a part of the batch they are the same
        part = share.weights(y[chosen[:3]], size, known, EXAMPLES) * EXAMPLES / size
        torch.testing.assert_close(part, weights[:3])


def test_estimates_of_a_sum_have_it_as_their_mean_and_vary_less_where_labels_count_much() -> None:
    y, share, terms = labels(), LabelledShare(0.2), torch.randn(EXAMPLES, generator=generator_for(9))
    terms = torch.where(y != UNLABELLED, 20 + terms, terms)
    found, as_they_come = [], []
    for number in range(800):
        for chosen in epoch(share, y, number)[:4]:
            weights = share.weights(y[chosen], SIZE, KNOWN, EXAMPLES)
            found.append(EXAMPLES / SIZE * (weights * terms[chosen]).sum())
            others = torch.randperm(EXAMPLES, generator=generator_for(number, len(found)))[:SIZE]
            as_they_come.append(EXAMPLES / SIZE * terms[others].sum())
    estimates = torch.stack(found)
    # batches of an epoch are not independent, which makes this error too large and not too small
    assert abs(float(estimates.mean() - terms.sum())) < 4 * float(estimates.std()) / len(found) ** 0.5
    assert float(estimates.std()) < 0.25 * float(torch.stack(as_they_come).std())
