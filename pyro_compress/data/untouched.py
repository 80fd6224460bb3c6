"""Calls that leave the tensors that they are given as they were, whatever the function does to its arguments.

A layer with `inplace=True`, or `x.mul_(2)` in a model, writes into the tensor that it was handed, and that may be a
part of the user's own data, or all of it at every step.  The first call is made with copies, and torch's count of the
writes to these says whether the function writes; copies are made again only if it does.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from pyro_compress.errors import DataError


class Untouched:
    """What is known of a function's writing, mode by mode: dropout in place writes in training alone.

    Args:
        name: what messages call the function.
    """

    def __init__(self, name: str = "the network") -> None:
        self.name = name
        self._writes: dict[Hashable, bool] = {}

    def __call__(self, function: Callable[..., Any], *tensors: Tensor, mode: Hashable = None) -> Any:
        """`function(*tensors)`.

        Args:
            function: the same at every call.
            *tensors: its arguments, which keep their values.
            mode: of the function; each is found out about by itself.

        Raises:
            DataError: it begins to write after a call in that mode that did not.
        """
        known = self._writes.get(mode)
        given = tensors if known is False else tuple(tensor.clone() for tensor in tensors)
        before = _counts(given)
        found = function(*given)
        writes = _counts(given) != before
        if known is False and writes:
            raise DataError(
                f"{self.name} writes into the tensors that it is called with, at some calls and not at others: let "
                "it clone them first"
            )
        self._writes[mode] = bool(known) or writes
        return found


def _counts(tensors: tuple[Tensor, ...]) -> list[int]:
    """Of the writes to each; torch keeps none of tensors that were made in inference mode."""
    return [-1 if torch.is_inference(tensor) else tensor._version for tensor in tensors]
