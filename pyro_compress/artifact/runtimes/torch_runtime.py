"""Stored network → torch module: the smaller dense network, ready to run or to be trained further."""

import torch
from torch import Tensor, nn

from pyro_compress.artifact.runtimes.torch_modules import (
    Add,
    ChannelAffine,
    Concatenate,
    Function,
    Layers,
    Multiply,
    Pad,
    PReLU,
    Recall,
    Residual,
    Select,
    Softmax,
    SparseLinear,
    Squeeze,
    Standardize,
    View,
)
from pyro_compress.artifact.runtimes.torch_sequences import (
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.errors import ArtifactError
from pyro_compress.network import further_layers as further
from pyro_compress.network import layers as kinds
from pyro_compress.network import sequence_layers as seq
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes, tied_weights

# From here on a sparse product was no slower than a dense one for a single example, and 2 to 10 times faster for 8
# examples and more, on one thread of an x86 CPU.
SPARSE_LEAST_NUMBERS = 2**17
SPARSE_LARGEST_SHARE = 0.05


def to_torch(network: StoredNetwork, *, sparse: bool = False) -> nn.Sequential:
    """The network as `nn.Sequential` in evaluation mode: (batch, *input_shape) → (batch, *output shape), float32.

    Args:
        network: what a file holds.
        sparse: store dense layers whose weights are mostly zero as sparse tensors where that is faster (few zeros, or
            few weights at all, and it is slower).  Such a layer is a `SparseLinear`, which cannot be trained.

    Raises:
        ArtifactError: a layer that has no module.  The network raises one where it is given examples of another shape.
    """
    layers = network.architecture.layers
    modules = [_module(layer) for layer in layers]
    channels_last = not any(
        kinds.breaks_channels_last(layer, transposed=isinstance(layer, kinds.ConvTranspose2d))
        for layer in layers
        if isinstance(layer, kinds.Conv2d | kinds.ConvTranspose2d)
    )
    # modules of a layer that is used again have the same parameters, and so have layers that share a weight
    parameters: dict[str, nn.Parameter] = {}
    tied = tied_weights(network)
    for layer, module in zip(layers, modules, strict=True):
        for name, shape in tensor_shapes(Architecture((), (layer,))).items():
            local, owner = name.rpartition(".")[2], parameters.get(tied.get(name, name))
            if owner is not None and owner.shape == shape:
                parameters[name] = owner
            if name not in parameters:
                parameters[name], value = module.get_parameter(local), _tensor(network.tensors[name])
                if value.ndim == 4 and channels_last:
                    # filters in this layout make convolutions and pooling on CPUs up to twice as fast
                    value = torch.empty_like(value, memory_format=torch.channels_last).copy_(value)
                parameters[name].data = value
            setattr(module, local, parameters[name])
    if sparse:
        modules = [_sparse(module) for module in modules]
    refers = any(isinstance(layer, kinds.Referring) for layer in layers)
    found = Residual(modules, layers) if refers else Layers(*modules)
    found.input_shape = network.architecture.input_shape
    found.by_last_axis = all(isinstance(layer, kinds.Linear | kinds.Activation) for layer in layers)
    return found.eval()


def _sparse(module: nn.Module) -> nn.Module:
    """A dense layer as a sparse one if that is faster, anything else as it is."""
    if not isinstance(module, nn.Linear) or module.weight.numel() < SPARSE_LEAST_NUMBERS:
        return module
    share = int(module.weight.count_nonzero()) / module.weight.numel()
    return SparseLinear(module.weight, module.bias) if share <= SPARSE_LARGEST_SHARE else module


def _tensor(stored: StoredTensor) -> Tensor:
    return torch.from_numpy(stored.dense().copy())


def _module(layer: kinds.Layer) -> nn.Module:
    match layer:
        case kinds.Linear():
            return nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, layer.bias)
        case kinds.Conv2d():
            return nn.utils.skip_init(
                nn.Conv2d,
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
        case kinds.ConvTranspose2d():
            return nn.utils.skip_init(
                nn.ConvTranspose2d,
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                output_padding=layer.output_padding,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
        case kinds.ChannelAffine():
            return ChannelAffine(layer.channels)
        case kinds.MaxPool2d():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
        case kinds.AvgPool2d():
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        case kinds.AdaptiveAvgPool2d():
            return nn.AdaptiveAvgPool2d(layer.output_size)
        case kinds.Upsample():
            return nn.Upsample(scale_factor=layer.factor, mode="nearest")
        case kinds.Flatten():
            return nn.Flatten()
        case kinds.Unflatten():
            return nn.Unflatten(1, (-1, *layer.size))
        case kinds.Select():
            return Select(layer.indices)
        case further.View():
            return View(layer.size)
        case further.Pad():
            return Pad(layer)
        case further.Standardize():
            return Standardize(layer.groups, layer.eps, layer.centred, layer.by_place)
        case further.Squeeze():
            return Squeeze()
        case further.Softmax():
            return Softmax(layer.log)
        case further.Resize():
            if layer.mode.startswith("nearest"):
                return nn.Upsample(layer.size, mode=layer.mode)
            return nn.Upsample(layer.size, mode="bilinear", align_corners=layer.mode == "aligned")
        case further.AdaptiveMaxPool2d():
            return nn.AdaptiveMaxPool2d(layer.output_size)
        case further.Concatenate():
            return Concatenate()
        case further.Multiply():
            return Multiply()
        case kinds.Add():
            return Add()
        case kinds.Recall():
            return Recall()
        case kinds.Activation():
            return activation_module(layer)
        case kinds.PReLU():
            return PReLU(layer.slopes)
        case seq.Rearrange():
            return Rearrange(layer)
        case seq.Crop():
            return Crop(layer)
        case seq.Attention():
            return Attention(layer)
        case seq.PositionBias():
            return PositionBias(layer)
        case seq.ConstantPositions():
            return ConstantPositions(layer)
        case seq.Embedding():
            return Embedding(layer)
        case seq.Recurrent():
            return Recurrent(layer)
    raise ArtifactError(f"there is no module for {kinds.describe(layer)}")


def activation_module(layer: kinds.Activation) -> nn.Module:
    """The elementwise function of an activation.

    Raises:
        ArtifactError: there is no module for it.
    """
    if layer.kind == "leaky_relu":
        return nn.LeakyReLU(layer.slope)
    if layer.kind == "elu":
        return nn.ELU(layer.slope)
    if layer.kind == "gelu_tanh":
        return nn.GELU("tanh")
    if layer.kind in ("times", "plus", "at_least", "at_most"):
        return Function(layer.kind, layer.slope)
    plain = {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "relu6": nn.ReLU6,
        "hardswish": nn.Hardswish,
        "hardsigmoid": nn.Hardsigmoid,
        "mish": nn.Mish,
        "softsign": nn.Softsign,
    }
    if layer.kind not in plain:
        raise ArtifactError(f"there is no module for the activation '{layer.kind}'")
    return plain[layer.kind]()
