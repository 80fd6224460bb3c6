"""A narrower copy of a network: what does not matter any more is left out of its modules.

Modules keep their names and the user's own forward pass, so a narrower network takes the same priors.  A module that
reads fewer entries than reach it picks them in front of its forward pass.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import nn

from pyro_compress.models.checking import OwnHook
from pyro_compress.network.architecture import Architecture, BatchNorm, Conv2d, Flatten, Linear
from pyro_compress.network.liveness import Numbers, Signal, is_plain_chain, products_per_link

Index = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A narrower network.

    Attributes:
        network: with the numbers of the original one.
        index: per parameter and buffer of its layers, and per axis, which entries of the original are left.
    """

    network: nn.Module
    index: dict[str, Index]


def can_narrow(architecture: Architecture) -> bool:
    """Chains without grouped or transposed convolutions, in which a bias takes over what a constant unit gave.

    A bias is not needed where nothing constant can come from: in the first layer.
    """
    return is_plain_chain(architecture) and all(layer.bias for layer in architecture.weighted()[1:])


def narrowed(network: nn.Module, architecture: Architecture, kept: Sequence[np.ndarray]) -> Narrowed:
    """Leave out of every layer what it need not read or make.

    Args:
        network: the original one, which is not touched.
        architecture: of it, such that `can_narrow`.
        kept: boolean, which entries of axis 1 are kept, before each layer and after the last, as `liveness` says.
    """
    network = copy.deepcopy(network)
    index: dict[str, Index] = {}
    present = np.ones(architecture.input_shape[0], dtype=bool)
    for position, layer in enumerate(architecture.layers):
        before, after = kept[position], kept[position + 1]
        if isinstance(layer, Flatten):
            present = np.repeat(present, after.size // present.size)
        if not isinstance(layer, Linear | Conv2d | BatchNorm):
            continue
        module = network.get_submodule(layer.name)
        if not np.array_equal(present, before):
            chosen = torch.from_numpy(np.flatnonzero(before[present])).to(next(module.parameters()).device)
            module.register_forward_pre_hook(_Select(chosen))
        rows, columns, present = np.flatnonzero(after), np.flatnonzero(before), after
        axes = {"weight": (rows, columns)} if isinstance(layer, Linear | Conv2d) else {}
        for local, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not tensor.ndim:
                continue
            left = [*axes.get(local, (rows,))]
            index[f"{layer.name}.{local}"] = chosen_axes = (*left, *map(np.arange, tensor.shape[len(left) :]))
            part = tensor.detach()[np.ix_(*chosen_axes)].clone()
            setattr(module, local, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)
        _note_sizes(module, len(rows), len(columns))
    return Narrowed(network, index)


def folds(architecture: Architecture, flow: Sequence[Signal], numbers: Numbers) -> dict[str, np.ndarray]:
    """What the bias of every dense layer and convolution takes over from constants that are left out, by its name."""
    found = {}
    for layer, before in zip(architecture.layers, flow[:-1], strict=True):
        if isinstance(layer, Linear | Conv2d):
            left_out = np.isfinite(before.constant) & ~before.kept
            taken = numbers.gains(layer) @ np.where(left_out, before.constant, 0)
            if taken.any():
                found[f"{layer.name}.bias"] = taken
    return found


def multiply_adds(architecture: Architecture, kept: Sequence[np.ndarray]) -> int:
    """Products of a forward pass of one example through what is kept."""
    links = [
        int(kept[position].sum()) * int(kept[position + 1].sum())
        for position, layer in enumerate(architecture.layers)
        if isinstance(layer, Linear | Conv2d)
    ]
    return sum(map(mul, links, products_per_link(architecture)))


class _Select(OwnHook):
    def __init__(self, chosen: torch.Tensor) -> None:
        self.chosen = chosen

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = arguments
        return (x.index_select(1, self.chosen), *rest)


def _note_sizes(module: nn.Module, outputs: int, inputs: int) -> None:
    sizes = {"out_features": outputs, "in_features": inputs, "out_channels": outputs, "in_channels": inputs}
    for name, size in {**sizes, "num_features": outputs}.items():
        if hasattr(module, name):
            setattr(module, name, size)
