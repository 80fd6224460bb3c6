"""A module as the layers that a file would hold, with the module's own numbers."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import NetworkError
from pyro_compress.models.probing import FEW, evaluating, examples
from pyro_compress.models.tracing.moving import unwritten
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import BatchNorm, ChannelAffine, Conv2d, FixedAffine, Layer, Named, PReLU
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.parameter_names import added_bias, aliased, in_layer
from pyro_compress.network.sequence_layers import Recurrent
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes

# As a share of the largest output: sums in another order come nowhere near it, another function does.
TOLERANCE, ROUNDING = 0.001, 1e-6
# of the numbers that a network is run with a second time, as a share of their mean size
MOVED = 0.3


def as_it_is(network: nn.Module, input_shape: tuple[int, ...]) -> StoredNetwork:
    """A module's layers and float32 numbers, with nothing removed; a batch norm is its scale and shift."""
    return _with_numbers(network, trace(network, input_shape))


def checked(network: nn.Module, input_shape: tuple[int, ...]) -> Architecture:
    """The layers of a module, after they were run beside it on a few examples: with its numbers, and with others.

    A file is made of layers, so a mistake in a rule of `models/tracing/` would be a file of another network.  With
    other numbers it is seen where a description holds what the forward pass computes from them, or where zeros hid it.

    Raises:
        NetworkError: it cannot be described, or its layers compute something else.
    """
    architecture = trace(network, input_shape)
    x = examples(network, input_shape)[: FEW[-1]]
    for one in (network, _moved(network)):
        with unwritten(one), evaluating(one), torch.no_grad():
            # before the run, which may write into the network
            layers = to_torch(_with_numbers(one, architecture))
            # a network may change its input in place
            expected = one(x.clone()).cpu()
            found = layers(x.cpu())
        difference, largest = (float(part.abs().max()) for part in (found - expected, expected))
        if difference > TOLERANCE * largest + ROUNDING:
            raise NetworkError(
                "the layers that the network is described by compute something else: outputs of up to "
                f"{largest:.3g} differ by {difference:.3g}; please report this"
            )
    return architecture


def _moved(network: nn.Module) -> nn.Module:
    """A copy with other numbers of the same size, of which none is zero."""
    moved, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            size = float(parameter.abs().mean()) if parameter.numel() else 0.0
            noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
            parameter.add_(noise, alpha=MOVED * (size or 1.0))
    return moved


def _with_bias_in_front(layer: Recurrent, front: Layer, values: dict[str, np.ndarray]) -> Recurrent:
    """A recurrent layer without the biases that are added to what the layer in front makes, which holds them then."""
    if not layer.bias:
        return layer
    assert isinstance(front, Conv2d)
    bias, added = values[f"{layer.name}.bias"], added_bias(layer)
    values[f"{front.name}.bias"] = values[f"{front.name}.bias"] + np.where(added, bias, 0)
    values[f"{layer.name}.bias"] = bias[~added]
    return replace(layer, bias=bool((~added).any()))


def _with_numbers(network: nn.Module, architecture: Architecture) -> StoredNetwork:
    values: dict[str, np.ndarray] = {name: p.detach().cpu().numpy() for name, p in network.named_parameters()}
    buffers = {name: buffer.cpu().numpy() for name, buffer in network.named_buffers()}
    values |= {name: in_layer(values[parameter], shape) for name, parameter, shape in aliased(architecture)}
    numbers, layers = Numbers(values, buffers), list[Layer]()
    done: dict[str, Layer] = {}
    for original in architecture.layers:
        layer = original
        if isinstance(layer, Named) and layer.name in done:
            layers.append(done[layer.name])
            continue
        if isinstance(layer, BatchNorm):
            values |= zip((f"{layer.name}.scale", f"{layer.name}.shift"), numbers.affine(layer), strict=True)
            layer = ChannelAffine(layer.name, layer.channels)
        if isinstance(layer, FixedAffine):
            values |= {f"{layer.name}.{kind}": np.array(getattr(layer, kind)) for kind in ("scale", "shift")}
            layer = ChannelAffine(layer.name, len(layer.scale))
        if isinstance(layer, Recurrent):
            layer = _with_bias_in_front(layer, layers[-1], values)
        if isinstance(layer, PReLU):
            values[f"{layer.name}.slope"] = values[f"{layer.name}.weight"]
        layers.append(layer)
        if isinstance(original, Named):
            done[original.name] = layer
    found = Architecture(architecture.input_shape, tuple(layers))
    # the weight of a Conv1d has no axis for the height
    tensors = {
        name: StoredTensor(floats=values[name].astype(np.float32).reshape(shape))
        for name, shape in tensor_shapes(found).items()
    }
    return StoredNetwork(found, tensors)
