"""Running a network on a few examples, to see that it takes them one by one as well as together.

Batches have any number of examples, the last of an epoch often one, and a file describes what becomes of one example.
So what a network returns for an example may depend on nothing else in its batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Not 1 and no usual size, so that a batch axis cannot be mistaken for another one.
BATCH = 7
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
    """Standard normal inputs, (BATCH, *input_shape), where the network is; the same at every call.

    A network of vectors that holds an embedding takes tokens: whole numbers, int64, below those of every embedding.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    tokens = min((m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding)), default=0)
    if tokens and len(input_shape) == 1:
        return torch.randint(tokens, (BATCH, *input_shape), generator=generator, device="cpu").to(device)
    drawn = torch.randn(BATCH, *input_shape, generator=generator, dtype=torch.float32, device="cpu")
    return drawn.to(device)


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
