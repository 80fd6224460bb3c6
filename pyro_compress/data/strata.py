"""Batches in which the few examples with labels have a share of their own: stratified sampling.

Of N examples N_l have labels, and a batch of n holds k of these and n − k others, drawn at random from either.  For
terms t_i of a sum over all examples

    Σ_i t_i  =  E[ N/n Σ_{i in batch} v_i t_i ],      v_i = n/N · N_l/k  with a label,  n/N · (N − N_l)/(n − k)  without

so the estimate of a minibatch stays what it was in expectation.  Where N_l is far below N it varies less: drawn as they
come most batches hold no label at all, and the rare one that does counts N/N_l times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_compress.data.labels import UNLABELLED
from pyro_compress.errors import InferenceError


@dataclass(frozen=True)
class LabelledShare:
    """How batches are drawn from data of which few have labels.

    Attributes:
        share: of a batch that has labels, at least one example and at most all that there are; that of the data where
            it is larger.
    """

    share: float

    def labelled_in(self, size: int, known: int, examples: int) -> int:
        """k of a batch of `size`, where `known` of so many examples have a label.

        Raises:
            InferenceError: the batch has no place for examples of both kinds.
        """
        if known == examples:
            return size
        if size < 2:
            raise InferenceError(
                "a batch of 1 example has no place for one with a label and one without: give batch_size of at least "
                "2, or labelled_share=0, which takes examples as they come"
            )
        wanted = round(max(self.share, known / examples) * size)
        return min(max(1, wanted), known, size - 1)

    def batches(self, y: Tensor, sizes: Sequence[int], generator: torch.Generator) -> Iterator[Tensor]:
        """Indices of one epoch's batches, (size,) each, those with labels in front.

        Of either kind all come up before one comes up again.
        """
        labelled, others = (torch.nonzero(chosen).flatten() for chosen in (y != UNLABELLED, y == UNLABELLED))
        counts = [self.labelled_in(size, len(labelled), len(y)) for size in sizes]
        with_label = _in_turn(labelled, sum(counts), generator).split(counts)
        rest = [size - count for size, count in zip(sizes, counts, strict=True)]
        without = _in_turn(others, sum(rest), generator).split(rest)
        return (torch.cat(parts) for parts in zip(with_label, without, strict=True))

    def weights(self, y: Tensor, size: int, known: int, examples: int) -> Tensor:
        """v_i of the examples with the labels y of a batch of `size`, or of a part of it."""
        count = self.labelled_in(size, known, examples)
        share = size / examples
        with_label = share * known / count
        without = share * (examples - known) / max(1, size - count)
        return torch.where(y == UNLABELLED, without, with_label)


def _in_turn(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """That many of them: in an order drawn anew for each time that all of them come up."""
    times = -(-count // max(1, len(members)))
    orders = [torch.randperm(len(members), generator=generator, device="cpu") for _ in range(times)]
    return members[torch.cat(orders)[:count].to(members.device)] if orders else members[:0]
