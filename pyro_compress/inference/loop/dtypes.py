"""The type of the numbers that are made while a model runs."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from pyro_compress.models.bayesian import BayesianNetwork

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Numbers that are made within are of that type where nobody says another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_network_type(function: F) -> F:
    """Decorate a function that takes a model: numbers that are made for a `BayesianNetwork` are float32, as it is.

    Any other model keeps torch's default type, in which its author writes.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        is_network = any(isinstance(value, BayesianNetwork) for value in (*arguments, *keywords.values()))
        with default_dtype(torch.float32) if is_network else nullcontext():
            return function(*arguments, **keywords)

    return run  # type: ignore[return-value]
