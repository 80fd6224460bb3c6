"""Whether running a network changes its own numbers, which a description would miss."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from pyro_compress.errors import NetworkError, UnstorableError
from pyro_compress.network.layers import Layer


@contextmanager
def unwritten(network: nn.Module) -> Iterator[None]:
    """Within this context the network is run in evaluation mode; whatever that writes into it is taken back.

    Raises:
        UnstorableError: a forward pass wrote into a parameter or buffer, which no layer does.
    """
    before = [(*each, each[-1].detach().clone()) for each in _own(network)]
    written: list[str] = []
    try:
        yield
    finally:
        for what, holder, local, tensor, numbers in before:
            if holder[local] is tensor and torch.equal(tensor, numbers):
                continue
            written.append(what)
            holder[local] = tensor
            if tensor.shape == numbers.shape:
                tensor.data.copy_(numbers)
            else:
                tensor.data = numbers
    if written:
        raise UnstorableError(
            f"the forward pass writes into {written[0]}, which no layer does: do that once, outside of it"
        )


def _own(network: nn.Module) -> list[tuple[str, dict[str, Any], str, torch.Tensor]]:
    """What a network's numbers are called, and the dictionary and key that hold them."""
    return [
        (f"{kind} {prefix}.{local}" if prefix else f"{kind} {local}", held, local, tensor)
        for prefix, module in network.named_modules()
        for kind, held in (("parameter", module._parameters), ("buffer", module._buffers))
        for local, tensor in held.items()
        if tensor is not None
    ]


def refuse_moving(
    network: nn.Module,
    x: torch.Tensor,
    graph: fx.Graph,
    layers: Sequence[Layer],
    described: Callable[[nn.Module], Sequence[Layer]],
) -> None:
    """Numbers of buffers are taken as they are, so training must not move them.

    What it moves is no obstacle where the layers are the same afterwards: counters, statistics of norms.

    Args:
        graph: of the forward pass.
        layers: that the network is described by.
        described: those of another network of its class.

    Raises:
        UnstorableError: they are others after a forward pass in training mode.
    """
    norms = {name for name, module in network.named_modules() if isinstance(module, _NormBase)}
    taken = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    # a norm reads its statistics by name, unless something else reads them too
    watched = {
        name: buffer
        for name, buffer in network.named_buffers()
        if name in taken or name.rpartition(".")[0] not in norms
    }
    if not watched:
        return
    trained = copy.deepcopy(network).train()
    # what cannot be trained is not moved further than that
    with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(Exception):
        trained(x.clone())
    after = dict(trained.named_buffers())
    moved = [name for name, before in watched.items() if name in after and not torch.equal(before, after[name])]
    if not moved:
        return
    try:
        same = list(described(trained)) == list(layers)
    except NetworkError:
        same = False
    if not same:
        raise UnstorableError(f"the forward pass moves buffer {moved[0]} in training, and a file has it as a number")
