"""Plain training as anyone would write it, in a few ways, of which the fastest is what ours is held against.

    as it is            the torch module, `F.cross_entropy`, `backward`, fused Adam
    channels last       the same with filters, and so all that they write, channels last
    compiled            network and loss by `torch.compile`, which compiles the way back as well
    pooling not compiled  as before, with max pooling by torch's own kernels, which are faster than inductor's loops

and both of the last with channels last.  Which of them is fastest differs from network to network and from machine to
machine, so it is found in the run that compares with it.
"""

import logging
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Factory = Callable[[], nn.Module]
AS_IT_IS = "as it is"


class Plain:
    """A network that fused Adam trains.

    Args:
        network: trained in place.
        compiled: whether network and loss are; in the first step of every batch shape.
    """

    def __init__(self, network: nn.Module, compiled: bool = False) -> None:
        def loss(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(network(x), y)

        self._loss: Callable[[Tensor, Tensor], Tensor] = torch.compile(loss, dynamic=False) if compiled else loss
        self._optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step on a batch; its loss."""
        self._optimizer.zero_grad()
        loss = self._loss(x, y)
        loss.backward()
        self._optimizer.step()
        return loss.item()


def candidates(factory: Factory) -> Iterator[tuple[str, Plain]]:
    """(how it is written, the training) for every way in which a network of that kind can be trained plainly."""
    # the caches of compiled functions are shared, and full ones run what they are given as it is
    torch.compiler.reset()
    logging.getLogger("torch._logging._internal").setLevel(logging.ERROR)
    kinds = {type(module) for module in factory().modules()}
    layouts = {"": torch.contiguous_format}
    if nn.Conv2d in kinds:
        layouts["channels last"] = torch.channels_last
    for layout, memory_format in layouts.items():

        def network(memory_format: torch.memory_format = memory_format) -> nn.Module:
            return factory().to(memory_format=memory_format)

        yield layout or AS_IT_IS, Plain(network())
        yield _named(layout, "compiled"), Plain(network(), compiled=True)
        if nn.MaxPool2d in kinds:
            pooled = Plain(_pooled_by_torch(network()), compiled=True)
            yield _named(layout, "compiled, pooling not"), pooled


def _named(layout: str, how: str) -> str:
    return f"{layout}, {how}" if layout else how


class _PooledByTorch(nn.Module):
    """Max pooling that `torch.compile` leaves alone."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self._pool = pool

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._pool(x)
        return found


def _pooled_by_torch(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(network, name, _PooledByTorch(child))
        else:
            _pooled_by_torch(child)
    return network
