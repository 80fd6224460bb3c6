"""Independent draws of a fitted distribution, as a posterior carries them."""

from collections.abc import Mapping

import numpy as np
import torch

from pyro_compress.draws import Draws
from pyro_compress.errors import InferenceError

MOST_DRAWS = 1000
MOST_BYTES = 256 * 2**20


def check_draws(asked: int | None, method: str) -> None:
    """Refuse a number of draws that gives no variance.

    Raises:
        InferenceError: fewer than 2.
    """
    if asked is not None and asked < 2:
        raise InferenceError(f"{method} needs at least 2 draws, found draws={asked}")


def number_of_draws(asked: int | None, width: int) -> int:
    """`asked`, or if that is None 1,000, or as many draws of `width` float32 numbers as 256 MiB hold."""
    return max(2, min(MOST_DRAWS, MOST_BYTES // (4 * max(1, width)))) if asked is None else asked


def independent_draws(values: Mapping[str, torch.Tensor], count: int, derived: tuple[str, ...] = ()) -> Draws:
    """Draws of one chain.

    Args:
        values: (count, *shape) by name; (1, *shape) for what is the same in all draws.
        count: S.
        derived: names that are not sites of the model.
    """
    shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
    rows = [value.reshape(len(value), -1).expand(count, -1) for value in values.values()]
    flat = np.concatenate([row.numpy() for row in rows], axis=1, dtype=np.float32)
    return Draws(flat[None], shapes, derived=derived)
