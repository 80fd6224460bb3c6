"""What the tests of structured removal share: decisions on networks, and masked and reduced networks that run."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.network.architecture import walk
from pyro_compress.network.further_layers import (
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Squeeze,
    Standardize,
    View,
)
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
)
from pyro_compress.network.quantizers import Uniform
from pyro_compress.network.sequence_layers import (
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.network.stored import StoredNetwork

ACTIVATIONS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "relu": lambda x, slope: F.relu(x),
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "tanh": lambda x, slope: torch.tanh(x),
    "sigmoid": lambda x, slope: torch.sigmoid(x),
    "softplus": lambda x, slope: F.softplus(x),
    "gelu": lambda x, slope: F.gelu(x),
    "silu": lambda x, slope: F.silu(x),
    "relu6": lambda x, slope: F.relu6(x),
    "hardswish": lambda x, slope: F.hardswish(x),
    "hardsigmoid": lambda x, slope: F.hardsigmoid(x),
    "mish": lambda x, slope: F.mish(x),
    "gelu_tanh": lambda x, slope: F.gelu(x, approximate="tanh"),
    "softsign": lambda x, slope: F.softsign(x),
    "times": lambda x, slope: slope * x,
    "plus": lambda x, slope: x + slope,
    "at_least": lambda x, slope: x.clamp(min=slope),
    "at_most": lambda x, slope: x.clamp(max=slope),
}


def run(network: StoredNetwork, x: torch.Tensor) -> torch.Tensor:
    """A reduced network, layer by layer, in float64."""
    tensors = {name: torch.from_numpy(tensor.dense()).double() for name, tensor in network.tensors.items()}

    def after(layer: Layer, x: torch.Tensor, earlier: torch.Tensor | None) -> torch.Tensor:
        match layer:
            case Add() | Recall():
                assert earlier is not None
                return earlier if isinstance(layer, Recall) else x + earlier
            case Concatenate() | Multiply():
                assert earlier is not None
                return x * earlier if isinstance(layer, Multiply) else torch.cat([earlier, x], 1)
            case View():
                return x.reshape(*x.shape[:2], *layer.size)
            case Pad():
                sides = [side for pair in zip(layer.before, layer.after, strict=True) for side in pair]
                return F.pad(x, [*sides[2:], *sides[:2]], layer.mode.replace("zeros", "constant"))
            case Standardize(by_place=True):
                each = x.reshape(len(x), layer.groups, -1, math.prod(x.shape[2:]))
                centred = each - each.mean(2, keepdim=True) if layer.centred else each
                return (centred / (centred.square().mean(2, keepdim=True) + layer.eps).sqrt()).reshape(x.shape)
            case Squeeze():
                return x.squeeze(1)
            case Softmax(log=log):
                return F.log_softmax(x, 1) if log else F.softmax(x, 1)
            case Rearrange():
                turned = x.reshape(len(x), *layer.view).permute(0, *(1 + axis for axis in layer.order))
                return turned.reshape(len(x), *layer.size)
            case Crop():
                (top, left), (height, width) = layer.before, layer.size
                return x[:, :, top : top + height, left : left + width]
            case Attention():
                return attended(layer, x)
            case Recurrent():
                return states(layer, tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias"), x)
            case PositionBias():
                return x + tensors[f"{layer.name}.value"].T.reshape(x.shape[1:])
            case ConstantPositions():
                own = tensors[f"{layer.name}.value"].T[:, None].expand(len(x), -1, -1, -1)
                return torch.cat([x, own] if layer.behind else [own, x], 3)
            case Embedding():
                return tensors[f"{layer.name}.weight"][x.long()].transpose(1, 2)[:, :, None]
            case Standardize():
                if layer.centred:
                    return F.group_norm(x, layer.groups, eps=layer.eps)
                each = x.reshape(len(x), layer.groups, -1)
                return F.rms_norm(each, each.shape[2:], eps=layer.eps).reshape(x.shape)
            case Resize():
                aligned = {"bilinear": False, "aligned": True}.get(layer.mode)
                mode = layer.mode if aligned is None else "bilinear"
                return F.interpolate(x, layer.size, mode=mode, align_corners=aligned)
            case AdaptiveMaxPool2d():
                return F.adaptive_max_pool2d(x, layer.output_size)
            case Linear():
                return F.linear(x, tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias"))
            case Conv2d():
                weight, bias = tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias")
                return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
            case ConvTranspose2d():
                weight, bias = tensors[f"{layer.name}.weight"], tensors.get(f"{layer.name}.bias")
                sizes = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
                return F.conv_transpose2d(x, weight, bias, *sizes)
            case Upsample():
                return F.interpolate(x, scale_factor=layer.factor, mode="nearest")
            case Unflatten():
                return x.reshape(len(x), x.shape[1] // math.prod(layer.size), *layer.size)
            case ChannelAffine():
                shape = (1, -1) + (1,) * (x.ndim - 2)
                scale, shift = tensors[f"{layer.name}.scale"], tensors[f"{layer.name}.shift"]
                return x * scale.reshape(shape) + shift.reshape(shape)
            case Activation():
                return ACTIVATIONS[layer.kind](x, layer.slope)
            case PReLU():
                return F.prelu(x, tensors[f"{layer.name}.slope"])
            case MaxPool2d():
                return F.max_pool2d(x, layer.kernel_size, layer.stride, layer.padding)
            case AvgPool2d():
                return F.avg_pool2d(x, layer.kernel_size, layer.stride, layer.padding)
            case AdaptiveAvgPool2d():
                return F.adaptive_avg_pool2d(x, layer.output_size)
            case Flatten():
                return x.flatten(1)
            case Select():
                return x[:, list(layer.indices)]
        raise AssertionError(layer)

    *_, result = walk(network.architecture.layers, x.double(), after)
    return result


def attended(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention, head by head."""
    keys, parts = layer.keys(x.shape[1]), []
    q, k, v = x.flatten(2).split((keys, keys, layer.values), 1)
    for each in zip(q.chunk(layer.heads, 1), k.chunk(layer.heads, 1), v.chunk(layer.heads, 1), strict=True):
        scores = layer.scale * each[0].transpose(1, 2) @ each[1]
        if layer.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
        parts.append(each[2] @ scores.softmax(2).transpose(1, 2))
    return torch.cat(parts, 1).reshape(len(x), layer.values, *x.shape[2:])


def states(layer: Recurrent, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """torch's own layer, which takes every gate as it comes."""
    if layer.hidden == 0:
        return x
    mode = {"lstm": nn.LSTM, "gru": nn.GRU}.get(layer.kind, nn.RNN)
    options = {"nonlinearity": layer.kind.removeprefix("rnn_")} if mode is nn.RNN else {}
    module = mode(len(weight), layer.hidden, batch_first=True, **options).double()
    own = torch.zeros(len(weight), dtype=torch.double)
    if bias is not None:
        own[-layer.hidden :] = bias
    values = {"weight_ih_l0": torch.eye(len(own)), "weight_hh_l0": weight, "bias_ih_l0": 0 * own, "bias_hh_l0": own}
    module.load_state_dict(values)
    series = x[:, :, 0].transpose(1, 2)
    with torch.no_grad():
        found = module(series.flip(1) if layer.reverse else series)[0].transpose(1, 2)
    return (found.flip(2) if layer.reverse else found)[:, :, None]


def inputs(network: nn.Module, shape: tuple[int, ...], count: int, generator: np.random.Generator) -> torch.Tensor:
    """Standard normal, or tokens for a network that embeds them, float32."""
    if isinstance(next(network.children(), None), nn.Embedding):
        return torch.from_numpy(generator.integers(0, 7, size=(count, *shape))).float()
    return torch.from_numpy(generator.normal(size=(count, *shape))).float()


def masked(network: nn.Module, decision: Decision, x: torch.Tensor) -> torch.Tensor:
    """The original network with the decision's stored numbers and statistics, in float64 (evaluation mode)."""
    state = {name: torch.from_numpy(site.stored()) for name, site in decision.sites.items()}
    state |= {name: torch.from_numpy(buffer) for name, buffer in decision.buffers.items()}
    network = copy.deepcopy(network)
    network.load_state_dict({**network.state_dict(), **state})
    with torch.no_grad():
        outputs: torch.Tensor = network.eval().double()(x.double())
    return outputs


def decide(network: nn.Module, masks: dict[str, np.ndarray] | None = None, step: float | None = None) -> Decision:
    """Store the network's own numbers where `masks` (default: everywhere) says so."""
    sites = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().numpy().copy()
        mask = (masks or {}).get(name, np.ones(value.shape, dtype=bool))
        bits = np.where(mask, FLOAT_BITS if step is None else 16, 0).astype(np.uint8)
        sites[name] = SiteDecision(value, np.zeros_like(value), bits, None if step is None else Uniform(step))
    buffers = {name: b.numpy().copy() for name, b in network.named_buffers() if "running" in name}
    return Decision(sites, buffers)


def in_float32(site: SiteDecision) -> SiteDecision:
    """The same numbers on no grid."""
    return replace(site, quantizer=None, bits=np.where(site.kept(), FLOAT_BITS, 0).astype(np.uint8))


def randomise(network: nn.Module, generator: np.random.Generator) -> None:
    """Numbers of size one everywhere, so that every constant and every border effect would show."""
    for parameter in network.parameters():
        parameter.data = torch.from_numpy(generator.normal(size=parameter.shape)).float()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.from_numpy(generator.normal(size=buffer.shape)))
        elif name.endswith("running_var"):
            buffer.copy_(torch.from_numpy(generator.uniform(0.5, 2, size=buffer.shape)))


def random_masks(network: nn.Module, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Whole rows and columns gone, more weights inside the rest, some biases; sometimes a whole layer."""
    masks = {}
    for name, parameter in network.named_parameters():
        mask = generator.random(parameter.shape) < generator.choice([0.05, 0.3, 0.9])
        if parameter.ndim > 1:
            rows = generator.random(parameter.shape[0]) < generator.choice([0.3, 0.7])
            columns = generator.random(parameter.shape[1]) < generator.choice([0.3, 0.7])
            spread = (1,) * (parameter.ndim - 2)
            mask &= rows.reshape(-1, 1, *spread) & columns.reshape(1, -1, *spread)
            mask &= generator.random() > 0.05
        masks[name] = mask
    return masks


def put(network: nn.Module, numbers: dict[str, Any]) -> None:
    """Overwrite parameters and buffers by name (a number fills the whole tensor)."""
    state = network.state_dict()
    for name, values in numbers.items():
        state[name].copy_(torch.tensor(values))


def clear(network: nn.Module, name: str, *index: Any) -> None:
    network.state_dict()[name][index] = 0
