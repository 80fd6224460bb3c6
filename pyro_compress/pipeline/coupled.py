"""Channels that can only leave a network together, because a residual connection or a depthwise convolution ties them.

Which ones is read from the dependency graph of Torch-Pruning (Fang et al. 2023, DepGraph: Towards Any Structural
Pruning, CVPR), an optional package.  Its groups say what a decision has to switch off so that `compress` makes the
network narrower; what can leave without changing the outputs is worked out from the decision's numbers
(`network/liveness.py`), since the graph knows nothing of constants.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.errors import DecisionError, NetworkError
from pyro_compress.extras import needs
from pyro_compress.models.tracing.tracer import trace


@dataclass(frozen=True, eq=False)
class Part:
    """Where a parameter holds coupled channels: entry `entries[i]` of its axis belongs to channel `channels[i]`."""

    name: str
    axis: int
    entries: np.ndarray
    channels: np.ndarray

    def of(self, channels: np.ndarray) -> np.ndarray:
        """Entries along the axis that belong to some channels."""
        return self.entries[np.isin(self.channels, channels)]


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """Channels number 0 to size − 1 of one group.

    Attributes:
        size: number of channels.
        makers: parameters that make them: filters and their biases, batch norms, depthwise filters.
        readers: weights that read them.
    """

    size: int
    makers: tuple[Part, ...]
    readers: tuple[Part, ...]

    def magnitude(self, decision: Decision) -> np.ndarray:
        """float64 (size,): root of the sum of squares of all weights (not biases) that make or read a channel.

        The group norm of DepGraph, over what the decision stores.
        """
        total = np.zeros(self.size)
        for part in (*self.makers, *self.readers):
            stored = decision.sites[part.name].stored().astype(np.float64)
            if stored.ndim > 1:
                squares = np.moveaxis(stored, part.axis, 0).reshape(stored.shape[part.axis], -1)[part.entries] ** 2
                np.add.at(total, part.channels, squares.sum(axis=1))
        return np.sqrt(total)

    def off(self, decision: Decision, channels: Iterable[int]) -> Decision:
        """The decision with some channels at zero bits in all that makes or reads them.

        Raises:
            DecisionError: a channel is not in the group, or a parameter is not in the decision.
        """
        wanted = np.unique(np.asarray(list(channels), np.int64))
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.size:
            raise DecisionError(f"channels {wanted.min()} to {wanted.max()} given, the group has 0 to {self.size - 1}")
        bits: dict[str, np.ndarray] = {}
        for part in (*self.makers, *self.readers):
            if part.name not in decision.sites:
                raise DecisionError(f"site {part.name} is missing from the decision: make it for this network")
            left = bits.setdefault(part.name, decision.sites[part.name].bits.copy())
            np.moveaxis(left, part.axis, 0)[part.of(wanted)] = 0
        return decision.with_sites({name: replace(decision.sites[name], bits=left) for name, left in bits.items()})


def coupled_channels(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[CoupledChannels, ...]:
    """The groups of channels of a network, in the order in which a dependency graph finds them.

    Channels of grouped convolutions that are not depthwise, and network outputs, are left out: they always stay.

    Args:
        network: left as it is.
        input_shape: of one example.

    Raises:
        NetworkError: the network is not supported, or the package torch-pruning is not there.
    """
    trace(network, input_shape)
    try:
        import torch_pruning
    except ImportError as error:
        raise NetworkError(needs("finding coupled channels", "torch_pruning")) from error
    network = copy.deepcopy(network).cpu().eval()
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, example_inputs=torch.zeros(2, *input_shape))
    names = {module: name for name, module in network.named_modules()}
    groups = (_coupled(group, names, graph) for group in graph.get_all_groups())
    return tuple(group for group in groups if group is not None)


def _coupled(group: Any, names: dict[nn.Module, str], graph: Any) -> CoupledChannels | None:
    makers, readers = [], []
    for item in group:
        module = item.dep.target.module
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        grouped = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups > 1
        # of a transposed convolution's weight, but for a depthwise one's, inputs come first
        makes, reads = (1, 0) if isinstance(module, nn.ConvTranspose2d) and not grouped else (0, 1)
        if grouped and not module.groups == module.in_channels == module.out_channels:
            return None
        made = grouped or graph.is_out_channel_pruning_fn(item.dep.handler)
        entries, channels = np.array(item.idxs), np.array(item.root_idxs)
        for kind, parameter in module.named_parameters(recurse=False):
            if made:
                axis = makes if parameter.ndim > 1 else 0
                makers.append(Part(f"{names[module]}.{kind}", axis, entries, channels))
            elif parameter.ndim > 1:
                readers.append(Part(f"{names[module]}.{kind}", reads, entries, channels))
    if not makers or not readers:
        return None
    return CoupledChannels(1 + max(int(part.channels.max()) for part in makers), tuple(makers), tuple(readers))
