"""Which examples are held out, and in what order the others come: functions of seeds alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.generators import generator_for
from pyro_compress.data.sources import first_like
from pyro_compress.errors import DataError

# Examples that a network is given at once where nothing is trained.  What convolutions of a thousand put out is in no
# cache: LeNet-5 takes 1.7 times as long for each of them, ResNet-20 2.5 times (`benchmarks/passes.py`, one thread of an
# x86 CPU), and dense networks take as long.
EXAMPLES_PER_PASS = 128

SPLIT_SEED = 20180117
"""Seed of the train/validation split unless another is given; no run's own seed enters it."""

LEAST_DIFFERENT = 5
"""Copies are kept on one side of a split that then holds out at least so many different examples."""


def stratified_split(y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of all examples but `count`, and of those `count`, both ascending.

    Drawn at random with `seed` alone.  For integer labels each class gives its share of `count`, to within
    one example; for real targets all examples are one class.
    """
    if not 0 <= count < len(y):
        raise DataError(f"can't hold out {count} of {len(y)} examples: some must stay for training")
    generator = generator_for(seed)
    labels = y.cpu() if y.ndim == 1 and not y.is_floating_point() else torch.zeros(len(y), dtype=torch.int64)
    members = [torch.nonzero(labels == label).flatten() for label in torch.unique(labels)]
    shares = [count * len(indices) / len(y) for indices in members]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: quotas[i] - shares[i])
    for i in by_remainder[: count - sum(quotas)]:
        quotas[i] += 1
    taken = torch.zeros(len(y), dtype=torch.bool)
    for indices, quota in zip(members, quotas, strict=True):
        taken[indices[torch.randperm(len(indices), generator=generator, device="cpu")[:quota]]] = True
    return torch.nonzero(~taken).flatten(), torch.nonzero(taken).flatten()


def split_without_copies(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`stratified_split` with copies of an example on one side, where enough different ones are held out even so."""
    first = first_like(x, y)
    different, group = torch.unique(first, return_inverse=True)
    held = round(count * len(different) / len(y))
    if len(different) == len(y) or held < LEAST_DIFFERENT:
        return stratified_split(y, count, seed)
    _, chosen = stratified_split(y[different], held, seed)
    taken = torch.zeros(len(different), dtype=torch.bool).index_fill_(0, chosen, True)[group]
    return torch.nonzero(~taken).flatten(), torch.nonzero(taken).flatten()


def count_held_out(validation: Any, examples: int, name: str) -> int:
    """How many examples an absolute number or a share asks for."""
    if isinstance(validation, float | np.floating):
        if not 0.0 <= validation < 1.0:
            raise DataError(f"{name}: validation = {validation} is no share of the training data; it lies in [0, 1)")
        return round(validation * examples)
    return whole_number(validation, f"{name}: validation", DataError, least=0)


def batches(x: Tensor, y: Tensor, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches (x, y) of `size` examples; the last one holds what is left (`batch_sizes`).

    The order depends on (seed, epoch) alone, so a run resumed at an epoch sees the batches it would have seen.
    """
    if size < 1:
        raise DataError(f"the batch size is {size}; it must be at least 1")
    if len(x) != len(y):
        raise DataError(f"batches of {len(x)} inputs {tuple(x.shape)} with {len(y)} targets {tuple(y.shape)}")
    order = torch.randperm(len(x), generator=generator_for(seed, epoch), device="cpu").to(x.device)
    return ((x[chosen], y[chosen]) for chosen in order.split(batch_sizes(len(x), size)))


def batch_sizes(examples: int, size: int) -> list[int]:
    """Of one epoch's batches: `size` each, and what is left; a single example that is left joins the batch before.

    Batch norm cannot normalise one example, and its gradient is the noisiest there is.
    """
    count = number_of_batches(examples, size)
    return [*[size] * (count - 1), examples - (count - 1) * size]


def number_of_batches(examples: int, size: int) -> int:
    """How many `batch_sizes` are; 1 without examples."""
    full, left = divmod(examples, size)
    return max(1, full + (left > 1))
