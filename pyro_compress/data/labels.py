"""Labels that are known of some examples, or at some positions, alone."""

import torch
from torch import Tensor

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.generators import generator_for
from pyro_compress.errors import DataError

UNLABELLED = -1
"""In the place of a training label that is missing."""

IGNORED = -100
"""In the place of the label of a position that does not count, as `torch.nn.functional.cross_entropy` has it."""


def labels_kept(y: Tensor, classes: int, count: int, seed: int, name: str) -> Tensor:
    """The labels of `count` examples drawn at random, as many of each class, and `UNLABELLED` for the others.

    Raises:
        DataError: `count` is no multiple of the number of classes, or a class has too few examples; `name` is the
            data's.
    """
    count = whole_number(count, f"{name}: labels to keep", DataError, least=1)
    if y.ndim > 1:
        raise DataError(f"{name}: every position has a label of its own, and none is kept or left out by example")
    each, left = divmod(count, classes)
    if left:
        raise DataError(f"{name}: {count} labels cannot be shared out alike among {classes} classes: give a multiple")
    generator, kept = generator_for(seed), torch.full_like(y, UNLABELLED)
    for label in range(classes):
        members = torch.nonzero(y.cpu() == label).flatten()
        if len(members) < each:
            raise DataError(f"{name}: class {label} has {len(members)} labelled training examples, fewer than {each}")
        kept[members[torch.randperm(len(members), generator=generator, device="cpu")[:each]].to(y.device)] = label
    return kept
