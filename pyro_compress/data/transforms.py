"""A user's own change of examples, such as one of torchvision's transforms, drawn anew for every batch."""

import contextlib
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_compress.config.factories import call_factory
from pyro_compress.data.generators import noise_of
from pyro_compress.errors import DataError

Transform: TypeAlias = Callable[[Tensor], Any]
"""From one example to a changed one of the same shape and type."""

OPTION = "augmentation.transform"


@lru_cache
def transform_of(spec: str) -> Transform:
    """What `module:factory` returns.

    Raises:
        DataError: it is not found, fails, or returns nothing that can be called.
    """
    found = call_factory(spec, OPTION, DataError)
    if not callable(found):
        raise DataError(
            f"{OPTION} {spec} returned a {type(found).__name__}, expected a function of one example, such as "
            "torchvision's transforms"
        )
    return found


def name_of(transform: Transform | str) -> str:
    """What reports call it."""
    if isinstance(transform, str):
        return transform
    return str(getattr(transform, "__name__", type(transform).__name__))


def transformed(transform: Transform | str, examples: Tensor, seed: int) -> Tensor:
    """Every example (n, *shape) changed by itself.

    What the transform draws from torch, from numpy's global generator or from `random` is of this seed alone, and
    those are put back.

    Raises:
        DataError: it fails, or an example comes out with another shape or type.
    """
    change = transform_of(transform) if isinstance(transform, str) else transform
    with noise_of(seed, examples.device), _other_noise_of(seed):
        try:
            found = [change(example) for example in examples.clone()]
        except Exception as failure:
            raise DataError(
                f"{OPTION} {name_of(transform)} failed on an example of shape {tuple(examples.shape[1:])} with "
                f"{type(failure).__name__}: {failure}"
            ) from failure
    for one in found:
        if not isinstance(one, Tensor) or one.shape != examples.shape[1:] or one.dtype != examples.dtype:
            kind = f"{one.dtype} {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise DataError(
                f"{OPTION} {name_of(transform)} made {kind} of an example {examples.dtype} "
                f"{tuple(examples.shape[1:])}: it has to keep type and shape"
            )
    return torch.stack([one.detach() for one in found])


@contextlib.contextmanager
def _other_noise_of(seed: int) -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
