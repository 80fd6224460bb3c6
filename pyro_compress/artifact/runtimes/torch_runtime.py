"""Stored network → torch module: the smaller dense network, ready to run or to be trained further."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_compress.errors import ArtifactError
from pyro_compress.network import architecture as arch
from pyro_compress.network import further_layers as further
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes

# From here on a sparse product was no slower than a dense one for a single example, and 2 to 10 times faster for 8
# examples and more, on one thread of an x86 CPU.
SPARSE_LEAST_NUMBERS = 2**17
SPARSE_LARGEST_SHARE = 0.05


class Select(nn.Module):
    """Keeps entries of axis 1: x (batch, n, ...) → x[:, indices] (batch, len(indices), ...)."""

    indices: Tensor

    def __init__(self, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("indices", torch.tensor(indices, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.indices)

    def extra_repr(self) -> str:
        return f"{len(self.indices)} indices"


class ChannelAffine(nn.Module):
    """y[:, c] = scale[c] · x[:, c] + shift[c] over axis 1, what a batch normalisation computes at inference time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in range(x.dim() - 2)))
        return x * self.scale.view(shape) + self.shift.view(shape)


class PReLU(nn.Module):
    """y = x where x > 0, else slope · x: one slope, or one for each entry of axis 1."""

    def __init__(self, slopes: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(slopes))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.prelu(x, self.slope)


class Function(nn.Module):
    """One of the elementwise functions that torch has no module of."""

    def __init__(self, kind: str, slope: float) -> None:
        super().__init__()
        self.kind, self.slope = kind, slope

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "times":
                return x * self.slope
            case "plus":
                return x + self.slope
            case "at_least":
                return x.clamp(min=self.slope)
        return x.clamp(max=self.slope)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.slope:g}"


class SparseLinear(nn.Module):
    """y = x Wᵀ + b with W as compressed sparse rows, for inference only."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch says once per process that this layout is in beta state
            warnings.filterwarnings("ignore", message="Sparse CSR", category=UserWarning)
            self.register_buffer("weight", weight.detach().to_sparse_csr())
        column = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        self.register_buffer("bias", column[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.weight, x.T).T

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"in_features={inputs}, out_features={outputs}, nonzero={self.weight.values().numel()}"


class Add(nn.Module):
    """The sum of what reaches it and an earlier result of the same shape."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return x + earlier


class Recall(nn.Module):
    """An earlier result in place of what reaches it."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return earlier


class Concatenate(nn.Module):
    """An earlier result and what reaches it, along axis 1."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return torch.cat([earlier, x], 1)


class Multiply(nn.Module):
    """The product of what reaches it and an earlier result."""

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        return x * earlier


class View(nn.Module):
    """The numbers of every entry along axis 1 in another shape."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], *self.size)

    def extra_repr(self) -> str:
        return f"{self.size}"


class Standardize(nn.Module):
    """Every group of entries along axis 1 less its mean, divided by its deviation."""

    def __init__(self, groups: int, eps: float, centred: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.centred = groups, eps, centred

    def forward(self, x: Tensor) -> Tensor:
        groups = x.reshape(len(x), self.groups, -1)
        for _ in range(further.CENTRINGS * self.centred):
            groups = groups - groups.mean(2, keepdim=True)
        return (groups * torch.rsqrt(groups.square().mean(2, keepdim=True) + self.eps)).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps:g}, centred={self.centred}"


class Pad(nn.Module):
    """Rows and columns around an image."""

    def __init__(self, layer: further.Pad) -> None:
        super().__init__()
        (above, left), (below, right) = layer.before, layer.after
        self.sides, self.mode = (left, right, above, below), layer.mode.replace("zeros", "constant")

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.sides, self.mode)

    def extra_repr(self) -> str:
        return f"{self.sides}, {self.mode}"


class Residual(nn.Sequential):
    """Modules in order, of which those of `architecture.Referring` take the result of an earlier one too."""

    def __init__(self, modules: Sequence[nn.Module], layers: Sequence[arch.Layer]) -> None:
        super().__init__(*modules)
        self._layers = tuple(layers)

    def forward(self, x: Tensor) -> Tensor:
        modules = iter(self)

        def after(_: arch.Layer, value: Tensor, earlier: Tensor | None) -> Tensor:
            module = next(modules)
            result: Tensor = module(value) if earlier is None else module(value, earlier)
            return result

        for value in arch.walk(self._layers, x, after):  # noqa: B007 (the last one counts)
            pass
        return value


def to_torch(network: StoredNetwork, *, sparse: bool = False) -> nn.Sequential:
    """The network as `nn.Sequential` in evaluation mode: (batch, *input_shape) → (batch, *output shape), float32.

    Args:
        network: what a file holds.
        sparse: store dense layers whose weights are mostly zero as sparse tensors where that is faster (few zeros, or
            few weights at all, and it is slower).  Such a layer is a `SparseLinear`, which cannot be trained.

    Raises:
        ArtifactError: a layer that has no module.
    """
    layers = network.architecture.layers
    modules = [_module(layer) for layer in layers]
    channels_last = not any(
        arch.breaks_channels_last(layer, transposed=isinstance(layer, arch.ConvTranspose2d))
        for layer in layers
        if isinstance(layer, arch.Conv2d | arch.ConvTranspose2d)
    )
    for layer, module in zip(layers, modules, strict=True):
        for name in tensor_shapes(arch.Architecture((), (layer,))):
            parameter, value = module.get_parameter(name.rpartition(".")[2]), _tensor(network.tensors[name])
            if value.ndim == 4 and channels_last:
                # filters in this layout make convolutions and pooling on CPUs up to twice as fast
                value = torch.empty_like(value, memory_format=torch.channels_last).copy_(value)
            parameter.data = value
    if sparse:
        modules = [_sparse(module) for module in modules]
    refers = any(isinstance(layer, arch.Referring) for layer in layers)
    return (Residual(modules, layers) if refers else nn.Sequential(*modules)).eval()


def _sparse(module: nn.Module) -> nn.Module:
    """A dense layer as a sparse one if that is faster, anything else as it is."""
    if not isinstance(module, nn.Linear) or module.weight.numel() < SPARSE_LEAST_NUMBERS:
        return module
    share = int(module.weight.count_nonzero()) / module.weight.numel()
    return SparseLinear(module.weight, module.bias) if share <= SPARSE_LARGEST_SHARE else module


def _tensor(stored: StoredTensor) -> Tensor:
    return torch.from_numpy(stored.dense().copy())


def _module(layer: arch.Layer) -> nn.Module:
    match layer:
        case arch.Linear():
            return nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, layer.bias)
        case arch.Conv2d():
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
        case arch.ConvTranspose2d():
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
        case arch.ChannelAffine():
            return ChannelAffine(layer.channels)
        case arch.MaxPool2d():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
        case arch.AvgPool2d():
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        case arch.AdaptiveAvgPool2d():
            return nn.AdaptiveAvgPool2d(layer.output_size)
        case arch.Upsample():
            return nn.Upsample(scale_factor=layer.factor, mode="nearest")
        case arch.Flatten():
            return nn.Flatten()
        case arch.Unflatten():
            return nn.Unflatten(1, (-1, *layer.size))
        case arch.Select():
            return Select(layer.indices)
        case further.View():
            return View(layer.size)
        case further.Pad():
            return Pad(layer)
        case further.Standardize():
            return Standardize(layer.groups, layer.eps, layer.centred)
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
        case arch.Add():
            return Add()
        case arch.Recall():
            return Recall()
        case arch.Activation():
            return activation_module(layer)
        case arch.PReLU():
            return PReLU(layer.slopes)
    raise ArtifactError(f"there is no module for {arch.describe(layer)}")


def activation_module(layer: arch.Activation) -> nn.Module:
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
