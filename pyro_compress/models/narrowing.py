"""A narrower copy of a network: what does not matter any more is left out of its modules.

Modules keep their names and the user's own forward pass, so a narrower network takes the same priors.  A module that
reads fewer entries than reach it picks them in front of its forward pass.  Sums, products and concatenations are the
forward pass's own, so both sides of a sum have to be left with the same entries.
"""

import copy
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import nn

from pyro_compress.models.checking import OwnHook
from pyro_compress.models.precision import called
from pyro_compress.models.probing import examples
from pyro_compress.network.architecture import Architecture, walk
from pyro_compress.network.further_layers import Concatenate, Multiply
from pyro_compress.network.layers import (
    Add,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    PReLU,
    Recall,
    Unflatten,
    Weighted,
    groups_of,
    is_depthwise,
)
from pyro_compress.network.liveness import Signal, products_per_link, signals
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.units import ENTRY_BY_ENTRY, entries_left, units_of

Index = tuple[np.ndarray, ...]

# layers beside dense ones and convolutions
BETWEEN = (*ENTRY_BY_ENTRY, Add, Multiply, Recall, Concatenate, Flatten)
# what outputs of a narrower network may differ by from those of the whole one with zeros, in units of the largest
CLOSE = 1e-3


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A narrower network.

    Attributes:
        network: with the numbers of the original one.
        index: per parameter and buffer of its layers, and per axis, which entries of the original are left; what is
            not named is whole.
    """

    network: nn.Module
    index: Mapping[str, Index]

    def take(self, name: str, original: np.ndarray) -> np.ndarray:
        """What is left of an original tensor."""
        return original[np.ix_(*self.index[name])] if name in self.index else original

    def put_back(self, name: str, left: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of the original shape, zero where nothing is left."""
        if name not in self.index:
            return left
        whole = np.zeros(shape, dtype=left.dtype)
        whole[np.ix_(*self.index[name])] = left
        return whole


def can_narrow(architecture: Architecture) -> bool:
    """Whether `narrowed` serves a network of these layers, as traced, whose forward pass `follows_sizes`.

    It does for dense layers, convolutions of one group or depthwise, batch norms, PReLUs and what treats every entry
    alike, along sums, products and concatenations.  It does not where a sum's side is the network's input, a
    concatenation or a flattened image as such, since those have more entries than are kept and the sum is no module
    that could pick them.  Nor does it where a module is used again.
    """
    as_they_are = architecture.aliases or architecture.reused
    return not as_they_are and all(map(_is_served, architecture.layers)) and _sums_fit(architecture)


def follows_sizes(network: nn.Module, architecture: Architecture) -> bool:
    """Whether the forward pass serves narrower modules: it does not where sizes are written into it (`view(-1, 800)`).

    It is tried: without one unit of every layer the outputs have to be those of zeros in its place.

    Args:
        network: a module.
        architecture: of it, such that `can_narrow`.
    """
    values = _without_last_units(network, architecture)
    whole = copy.deepcopy(network).eval()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(torch.from_numpy(values[name]))
        buffers = {name: buffer.cpu().numpy() for name, buffer in network.named_buffers()}
        numbers = Numbers(values, buffers, adds_biases=False)
        flow = signals(architecture, numbers)
        device = next(network.parameters()).device
        x = examples(network, architecture.input_shape)[:2]
        try:
            found = folded(whole, architecture, flow, numbers)
            expected, made = (called(partial(module, x), device) for module in (whole, found.network))
            return made.shape == expected.shape and _is_close(made, expected)
        except Exception:
            # a forward pass is a user's, and may raise anything where sizes are others
            return False


def narrowed(network: nn.Module, architecture: Architecture, kept: Sequence[np.ndarray]) -> Narrowed:
    """Leave out of every layer what it need not read or make.

    Args:
        network: the original one, which is not touched.
        architecture: of it, such that `can_narrow`.
        kept: boolean, which entries of axis 1 are kept, before each layer and after the last, as `liveness` says.
    """
    network = copy.deepcopy(network)
    index: dict[str, Index] = {}
    sides = pairwise(kept)

    def after(layer: Layer, present: np.ndarray, earlier: np.ndarray | None) -> np.ndarray:
        before, behind = next(sides)
        match layer:
            case Concatenate():
                assert earlier is not None
                return np.concatenate([earlier, present])
            case Recall():
                assert earlier is not None
                return earlier
            case Flatten():
                return np.repeat(present, behind.size // present.size)
            case Add() | Multiply():
                assert earlier is not None
                return present if present.size == behind.size else earlier
        if not _is_along_entries(layer):
            return present
        module = network.get_submodule(layer.name)
        if not np.array_equal(present, before):
            chosen = torch.from_numpy(np.flatnonzero(before[present])).to(next(module.parameters()).device)
            module.register_forward_pre_hook(_Select(chosen))
        rows, columns = np.flatnonzero(behind), np.flatnonzero(before)
        for local, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not tensor.ndim:
                continue
            left = _axes(layer, rows, columns) if local == "weight" else (rows,)
            index[f"{layer.name}.{local}"] = chosen_axes = (*left, *map(np.arange, tensor.shape[len(left) :]))
            part = tensor.detach()[np.ix_(*chosen_axes)].clone()
            if isinstance(tensor, nn.Parameter):
                part = nn.Parameter(part, requires_grad=tensor.requires_grad)
            setattr(module, local, part)
        _note_sizes(module, len(rows), len(columns), depthwise=is_depthwise(layer))
        return behind

    deque(walk(architecture.layers, np.ones(architecture.input_shape[0], dtype=bool), after), maxlen=0)
    return Narrowed(network, index)


def folded(network: nn.Module, architecture: Architecture, flow: Sequence[Signal], numbers: Numbers) -> Narrowed:
    """`narrowed` to what is kept, with the constants that are left out in the biases of those that read them."""
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    with torch.no_grad():
        for name, taken in folds(architecture, flow, numbers).items():
            bias = found.network.get_parameter(name)
            bias.add_(torch.from_numpy(taken[found.index[name][0]]).to(bias))
    return found


def folds(architecture: Architecture, flow: Sequence[Signal], numbers: Numbers) -> dict[str, np.ndarray]:
    """What the bias of every dense layer and convolution takes over from constants that are left out, by its name."""
    found = {}
    for layer, before in zip(architecture.layers, flow[:-1], strict=True):
        if isinstance(layer, Weighted) and groups_of(layer) == 1 and layer.bias:
            left_out = np.isfinite(before.constant) & ~before.kept
            taken = numbers.gains(layer) @ np.where(left_out, before.constant, 0)
            if taken.any():
                found[f"{layer.name}.bias"] = taken
    return found


def multiply_adds(architecture: Architecture, kept: Sequence[np.ndarray]) -> int:
    """Products of a forward pass of one example through what is kept."""
    products = iter(products_per_link(architecture))
    found = 0
    for position, layer in enumerate(architecture.layers):
        if isinstance(layer, Weighted):
            before, after = (int(kept[number].sum()) for number in (position, position + 1))
            found += next(products) * after * (1 if is_depthwise(layer) else before)
    return found


def _is_served(layer: Layer) -> bool:
    match layer:
        case Unflatten(size=size):
            return math.prod(size) == 1
        case Linear() | Conv2d() | ConvTranspose2d():
            return groups_of(layer) == 1 or is_depthwise(layer)
    return isinstance(layer, BETWEEN)


def _is_along_entries(layer: Layer) -> TypeGuard[Weighted | BatchNorm | PReLU]:
    """Whether the layer's module has numbers for every entry."""
    if isinstance(layer, BatchNorm):
        return not layer.one
    return isinstance(layer, Weighted) or (isinstance(layer, PReLU) and layer.slopes > 1)


def _axes(layer: Layer, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """What is left of the first axes of a module's weight."""
    if not isinstance(layer, Weighted) or is_depthwise(layer):
        return (rows,)
    return (columns, rows) if isinstance(layer, ConvTranspose2d) else (rows, columns)


def _sums_fit(architecture: Architecture) -> bool:
    """Whether no side of a sum or product may have more entries than are kept."""
    fits, shapes = True, iter(architecture.shapes())

    def after(layer: Layer, more: bool, earlier: bool | None) -> bool:
        nonlocal fits
        shape = next(shapes)
        match layer:
            case Add() | Multiply():
                fits &= not (more or earlier)
                return False
            case Concatenate():
                return True
            case Recall():
                return bool(earlier)
            case Flatten():
                return more or math.prod(shape[1:]) > 1
        return more and not _is_along_entries(layer)

    deque(walk(architecture.layers, True, after), maxlen=0)
    return fits


def _is_close(made: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((made - expected).abs().max() <= CLOSE * expected.abs().max().clamp_min(CLOSE))


def _without_last_units(network: nn.Module, architecture: Architecture) -> Mapping[str, np.ndarray]:
    """The network's parameters, zero in what makes or reads the last unit of each layer."""
    values = {name: parameter.detach().cpu().numpy().copy() for name, parameter in network.named_parameters()}
    units = units_of(architecture)
    stays = np.ones(len(units.free), dtype=bool)
    for position, layer in enumerate(architecture.layers):
        last = units.of[position + 1][-1]
        if isinstance(layer, Weighted) and units.free[last] and len(units.of[position + 1]) > 1:
            stays[last] = False
    for name, mask in entries_left(architecture, units, stays).items():
        # layers may be without bias, and norms without numbers
        if name in values:
            values[name] *= mask.reshape(*mask.shape, *(1,) * (values[name].ndim - mask.ndim))
    return values


class _Select(OwnHook):
    def __init__(self, chosen: torch.Tensor) -> None:
        self.chosen = chosen

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = arguments
        return (x.index_select(1, self.chosen), *rest)


def _note_sizes(module: nn.Module, outputs: int, inputs: int, *, depthwise: bool) -> None:
    sizes = {"out_features": outputs, "in_features": inputs, "out_channels": outputs, "in_channels": inputs}
    sizes |= {"num_features": outputs, "num_parameters": outputs} | ({"groups": outputs} if depthwise else {})
    for name, size in sizes.items():
        if hasattr(module, name):
            setattr(module, name, size)
