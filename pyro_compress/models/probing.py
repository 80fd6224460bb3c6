"""Running a network on a few examples, to see that it takes them one by one as well as together.

Batches have any number of examples, the last of an epoch often one, and a file describes what becomes of one example.
So what a network returns for an example may depend on nothing else in its batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from pyro_compress.models.module_calls import calls_noted

# Not 1 and no usual size, so that a batch axis cannot be mistaken for another one: 7 is the side of many last maps.
BATCH = 11
# sizes that a batch axis is lost in, or mistaken for another one
FEW = (1, 2)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def examples(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Inputs, (examples, *input_shape), where the network is; the same at every call.

    They are as many as no axis of an example has entries.
    Tokens where it looks these up in an embedding, else standard normal numbers.
    """
    tokens = _tokens(network, input_shape)
    if tokens is not None and _rows(network, tokens) is not None:
        return tokens
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(_count(input_shape), *input_shape, generator=generator, dtype=torch.float32, device="cpu")
    return drawn.to(device)


def _count(input_shape: tuple[int, ...]) -> int:
    return next(number for number in count(BATCH, 2) if number not in input_shape)


def rows_looked_up(network: nn.Module, input_shape: tuple[int, ...]) -> list[int] | None:
    """Of every embedding that is called with the network's inputs its number of rows: below the least, tokens are.

    Returns:
        None where the network holds no embedding or does not take tokens.
    """
    tokens = _tokens(network, input_shape)
    return None if tokens is None else _rows(network, tokens)


def _rows(network: nn.Module, tokens: Tensor) -> list[int] | None:
    values, rows = tokens.flatten().sort().values, list[int]()

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or given[0].numel() != len(values):
            return
        if bool((given[0].flatten().sort().values == values).all()):
            rows.append(module.num_embeddings)

    try:
        with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=[]), calls_noted(note, before=True):
            network(tokens.clone())
    except Exception:  # of whatever kind: what is wrong with it, who runs it on examples says
        return None
    return rows


def _tokens(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor | None:
    """Drawn below the number of rows of every embedding; None where there is none."""
    rows = [m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    if not rows:
        return None
    size, generator = (_count(input_shape), *input_shape), torch.Generator().manual_seed(0)
    drawn = torch.randint(min(rows), size, generator=generator, device="cpu")
    return drawn.to(next(parameter.device for parameter in network.parameters()))


def are_rows(part: Any, whole: Any) -> bool:
    """Whether a result for the first examples is the first rows of the result for more, up to rounding."""
    if not isinstance(part, Tensor) or not isinstance(whole, Tensor):
        return type(part) is type(whole)
    if part.ndim != whole.ndim or not part.ndim or part.shape[1:] != whole.shape[1:] or len(part) >= len(whole):
        return False
    rows = whole[: len(part)]
    finite = rows[torch.isfinite(rows)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(part, rows, rtol=1e-3, atol=1e-3 * largest, equal_nan=True)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
