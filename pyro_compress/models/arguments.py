"""What a Pyro model is called with: tensors, which are data, and all else, which every call gets as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, Dataset

from pyro_compress.data.sources import unmasked
from pyro_compress.errors import DataError


class _Data:
    """Stands in the place of a tensor; a class is itself in every copy."""


@dataclass(frozen=True)
class Arguments:
    """A call of a Pyro model without its tensors.

    Attributes:
        leaves: of all arguments, `_Data` in the place of every tensor.
        layout: of these within the call's (positional, keyword) arguments.
    """

    leaves: tuple[Any, ...]
    layout: TreeSpec

    @staticmethod
    def taken_apart(data: Any) -> tuple[tuple[Tensor, ...], "Arguments"]:
        """The tensors of a call, and the rest of it.

        Arrays of numbers become tensors: real ones of torch's default type, as float64 means to numpy what that means
        to torch; tensors keep their type.  Tensors within tuples, lists and dicts count as well.  Numbers, None, words
        and whatever else there is are no data: every call gets them as they are.

        Args:
            data: a tuple of arguments, a dict of them by name, a single one, or None for none at all.

        Raises:
            DataError: a Dataset or a DataLoader, which no Pyro model takes, or an array that masks numbers, which
                would be observed.
        """
        positional: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        if isinstance(data, dict):
            keywords = data
        elif data is not None:
            positional = tuple(data) if isinstance(data, tuple | list) else (data,)
        found, layout = tree_flatten((positional, keywords))
        leaves = [_as_tensor(leaf) for leaf in found]
        for leaf in leaves:
            if isinstance(leaf, Dataset | DataLoader):
                raise DataError(
                    "a Pyro model's data are its arguments, a tuple of tensors and of what else it takes; found a "
                    f"{type(leaf).__name__}: give pc.data.as_data(...) of it, or its tensors"
                )
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        return tensors, Arguments(tuple(_Data if isinstance(leaf, Tensor) else leaf for leaf in leaves), layout)

    def call(self, function: Callable[..., Any], tensors: tuple[Tensor, ...], **more: Any) -> Any:
        """`function` of these arguments, with `tensors` in their places, and of `more` by name."""
        remaining = iter(tensors)
        leaves = [next(remaining) if leaf is _Data else leaf for leaf in self.leaves]
        positional, keywords = tree_unflatten(leaves, self.layout)
        return function(*positional, **keywords, **more)


def _as_tensor(leaf: Any) -> Any:
    leaf = unmasked(leaf, "the model's data")
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fiub":
        return leaf
    kind = torch.get_default_dtype() if leaf.dtype.kind == "f" else None
    # a copy: arrays may be read-only, in another byte order, or written to later
    return torch.tensor(leaf.astype(leaf.dtype.newbyteorder("=")), dtype=kind)
