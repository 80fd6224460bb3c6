"""The layers that an `Architecture` is made of, as plain data; further kinds of them are in `further_layers.py` and
`sequence_layers.py`.

Layers that hold numbers carry the dotted name of the module they came from; their tensors are named `NAME.weight`,
`NAME.bias` (for `ChannelAffine`: `NAME.scale`, `NAME.shift`; for `PReLU`: `NAME.slope`; for what holds numbers of its
own for each position `NAME.value`).
"""

from dataclasses import dataclass, fields
from typing import Protocol, Union

from pyro_compress.network.further_layers import Concatenate, FurtherLayer, Multiply
from pyro_compress.network.sequence_layers import ConstantPositions, Embedding, PositionBias, Recurrent

Pair = tuple[int, int]


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b over the last axis, W of shape (out_features, in_features)."""

    name: str
    in_features: int
    out_features: int
    bias: bool


@dataclass(frozen=True)
class Conv2d:
    """Cross-correlation with zero padding, W of shape (out_channels, in_channels / groups, *kernel_size)."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    bias: bool


@dataclass(frozen=True)
class ConvTranspose2d:
    """The transpose of a `Conv2d` as a matrix, W of shape (in_channels, out_channels / groups, *kernel_size).

    Every input place adds its channels times a kernel to the outputs from place times stride on; `padding` rows and
    columns are then cut off on all four sides and `output_padding` ones added at the lower right.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int
    bias: bool


class _Convolution(Protocol):
    """What the convolutions here and torch's own have in common."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def kernel_size(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> tuple[int, ...]: ...


def breaks_channels_last(convolution: _Convolution, *, transposed: bool = False) -> bool:
    """Whether torch must not see a network channels last because of this convolution, ours or one of torch's.

    The gradient of a strided 1 × 1 filter over fewer than 8 channels that lie last writes beyond its memory
    (torch 2.14.1 on CPUs, where the stride leaves the last row out), which aborts whoever trains the module.  What is
    a gradient for a convolution is the forward pass of a transposed one, over its outputs.
    """
    channels = convolution.out_channels if transposed else convolution.in_channels
    return convolution.kernel_size == (1, 1) and convolution.stride != (1, 1) and channels < 8


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over axis 1; tensors NAME.weight, .bias, .running_mean, .running_var.

    Where it has no running statistics it stands behind a `Standardize`, whose weight and bias it holds: their mean is 0
    and their variance 1.  Without `gain` it has no weight.  With `one` NAME.weight, or the bias where there is none, is
    a single number for all channels, as a factor of a branch; such a layer has either.  What counts is a `function` of
    that, steps of `activations.OF_PARAMETERS` with their slopes, one after the other.
    Appears in traced networks only: structured removal turns it into a `ChannelAffine`.
    """

    name: str
    channels: int
    eps: float
    affine: bool
    bias: bool = True
    running: bool = True
    one: bool = False
    gain: bool = True
    function: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ChannelAffine:
    """y[:, c] = scale[c] · x[:, c] + shift[c]: a batch normalisation at inference time."""

    name: str
    channels: int


@dataclass(frozen=True)
class FixedAffine:
    """y[:, c] = scale[c] · x[:, c] + shift[c] with numbers of no parameter, such as means and deviations of the data.

    Appears in traced networks only: structured removal turns it into a `ChannelAffine`.
    """

    name: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def then(self, later: "FixedAffine") -> "FixedAffine":
        """Both as one."""
        scale = tuple(b * a for a, b in zip(self.scale, later.scale, strict=True))
        shift = tuple(b * a + c for a, b, c in zip(self.shift, later.scale, later.shift, strict=True))
        return FixedAffine(self.name, scale, shift)


@dataclass(frozen=True)
class Activation:
    """An elementwise function: one of `ACTIVATIONS`; `artifact/FORMAT.md`, part 4, has their formulas.

    `slope` is used by leaky_relu, by elu (its alpha), and as the other operand of times (slope · x), plus (x + slope),
    at_least (max(x, slope)) and at_most (min(x, slope)).
    """

    kind: str
    slope: float = 0.0


@dataclass(frozen=True)
class PReLU:
    """y = x where x > 0, else NAME.slope · x; `slopes` is 1, or the number of entries along axis 1, each with its own.

    The module that it comes from calls the tensor NAME.weight.
    """

    name: str
    slopes: int


@dataclass(frozen=True)
class MaxPool2d:
    kernel_size: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class AvgPool2d:
    """Mean over windows; padded zeros count."""

    kernel_size: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True)
class AdaptiveAvgPool2d:
    output_size: Pair


@dataclass(frozen=True)
class Upsample:
    """Every place becomes factor[0] × factor[1] equal ones: nearest-neighbour interpolation by whole factors."""

    factor: Pair


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) → (C·H·W), row major."""


@dataclass(frozen=True)
class Unflatten:
    """(C·H·W) → (C, H, W), row major; `size` is (H, W)."""

    size: Pair


@dataclass(frozen=True)
class Select:
    """Keep entries `indices` (strictly increasing) of axis 1: the inputs that pruning left.

    It lets a smaller network accept the original input shape.
    """

    indices: tuple[int, ...]


@dataclass(frozen=True)
class Add:
    """Add output number `source` to the output before this layer: each axis is equal, or 1 in one of them."""

    source: int


@dataclass(frozen=True)
class Recall:
    """Give output number `source` again: a branch begins there, and what came in between waits to be combined."""

    source: int


Layer = Union[
    Linear,
    Conv2d,
    ConvTranspose2d,
    BatchNorm,
    ChannelAffine,
    FixedAffine,
    Activation,
    PReLU,
    MaxPool2d,
    AvgPool2d,
    AdaptiveAvgPool2d,
    Upsample,
    Flatten,
    Unflatten,
    Select,
    Add,
    Recall,
    FurtherLayer,
]

# Layers that take an earlier output too.
Referring = Add | Recall | Concatenate | Multiply

# Layers whose one tensor is a matrix with a column for each of their channels.
Table = PositionBias | ConstantPositions | Embedding

# Layers with a weight and perhaps a bias.
Weighted = Linear | Conv2d | ConvTranspose2d

# Layers with numbers of their own.
Named = Weighted | BatchNorm | ChannelAffine | PReLU | Table | Recurrent

ACTIVATIONS = (
    *("relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "gelu", "silu", "relu6"),
    *("hardswish", "hardsigmoid", "mish", "gelu_tanh", "softsign", "times", "plus", "at_least", "at_most"),
)


def outputs_of(layer: Weighted) -> int:
    """Units of a dense layer, filters of a convolution."""
    return layer.out_features if isinstance(layer, Linear) else layer.out_channels


def groups_of(layer: Weighted) -> int:
    """Groups of a convolution, 1 for a dense layer."""
    return 1 if isinstance(layer, Linear) else layer.groups


def is_depthwise(layer: Layer) -> bool:
    """Whether each output channel reads exactly the input channel of its own number."""
    if not isinstance(layer, Conv2d | ConvTranspose2d):
        return False
    return layer.groups == layer.in_channels == layer.out_channels > 1


def weight_shape(layer: Weighted) -> tuple[int, ...]:
    """Of NAME.weight: outputs first, but of a transposed convolution inputs."""
    if isinstance(layer, Linear):
        return (layer.out_features, layer.in_features)
    first, second = layer.out_channels, layer.in_channels
    if isinstance(layer, ConvTranspose2d):
        first, second = second, first
    return (first, second // layer.groups, *layer.kernel_size)


def table_of(layer: Table) -> tuple[str, tuple[int, int]]:
    """Name and shape of the tensor of a layer that holds a row for each token or position."""
    match layer:
        case Embedding():
            return f"{layer.name}.weight", (layer.tokens, layer.features)
        case PositionBias():
            return f"{layer.name}.value", (layer.positions, layer.channels)
    return f"{layer.name}.value", (layer.count, layer.channels)


def describe(layer: Layer) -> str:
    """One layer as a short line for people: its type and fields."""
    if isinstance(layer, Select):
        return f"Select({len(layer.indices)} indices)"
    if isinstance(layer, FixedAffine):
        return f"FixedAffine(name={layer.name}, {len(layer.scale)} channels)"
    inside = ", ".join(f"{field.name}={getattr(layer, field.name)}" for field in fields(layer))
    return f"{type(layer).__name__}({inside})"
