"""What a network computes, as plain data: layers in order, over one example's input shape.

This is the one description that tracing (`models/tracing/`), structured removal (`analysis/decisions/structure.py`),
the file format (`artifact/`) and the runtimes share.  It imports no torch, so that a decoder on a small device
can read it.  Layers that hold numbers carry the dotted name of the module they came from;
their tensors are named `NAME.weight`, `NAME.bias` (for `ChannelAffine`: `NAME.scale`, `NAME.shift`; for `PReLU`:
`NAME.slope`; for what holds numbers of its own for each position `NAME.value`).

A layer with numbers may be used again: equal layers of one name, whose tensors are there once.

Each layer takes the output of the one before it.  Output 0 is the input, output i what the i-th layer gives (from 1
on), and the layers in `Referring` refer back to an earlier output by that number.  With them a residual network is a
sequence too; `walk` carries any value through it, and every walk over layers is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol, TypeVar, Union

from pyro_compress.network.further_layers import (
    Concatenate,
    FurtherLayer,
    Multiply,
    fit_together,
    shape_after,
    together,
)
from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.sequence_layers import ConstantPositions, Embedding, PositionBias, Recurrent

Pair = tuple[int, int]
T = TypeVar("T")


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
    and their variance 1.  Appears in traced networks only: structured removal turns it into a `ChannelAffine`.
    """

    name: str
    channels: int
    eps: float
    affine: bool
    bias: bool = True
    running: bool = True


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
    """Add output number `source` to the output before this layer: of one shape, or one is (channels, 1, 1)."""

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


@dataclass(frozen=True)
class Architecture:
    """Layers in order and the shape of one example (no batch axis) that they accept.

    Attributes:
        code: of a decoder, what its input is; None of all other networks.
        aliases: of a traced network, tensors whose parameter has another name in the module, as (tensor, parameter).
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    code: InputCode | None = None
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def tokens(self) -> int | None:
        """Where the input is whole numbers that an `Embedding` takes: below which."""
        taking = [layer for layer, number in zip(self.layers, _taken(self.layers), strict=True) if number == 0]
        return min((layer.tokens for layer in taking if isinstance(layer, Embedding)), default=None)

    def parameter(self, tensor: str) -> str:
        """The module's name of a tensor."""
        return dict(self.aliases).get(tensor, tensor)

    def weighted(self) -> tuple[Weighted, ...]:
        """The dense and convolution layers in order; one that is used again is there once."""
        return tuple(dict.fromkeys(layer for layer in self.layers if isinstance(layer, Weighted)))

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Of every layer with a name, where it is used, by that."""
        found: dict[str, list[int]] = {}
        for position, layer in enumerate(self.layers):
            if isinstance(layer, Named):
                found.setdefault(layer.name, []).append(position)
        return found

    @property
    def reused(self) -> frozenset[str]:
        """Names of the layers that are used several times."""
        return frozenset(name for name, places in self.places.items() if len(places) > 1)

    @property
    def tied(self) -> frozenset[str]:
        """The module's names of parameters that layers of several names have."""
        others = [parameter for _, parameter in self.aliases]
        own = {f"{name}.{kind}" for name in self.places for kind in ("weight", "bias")} - dict(self.aliases).keys()
        return frozenset(name for name in others if name in own or others.count(name) > 1)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one example before each layer, and after the last: len(layers) + 1 entries.

        Raises:
            ValueError: a layer does not accept the shape that reaches it; says which, and both shapes.
        """
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(output_shape(layer, shapes))
        return tuple(shapes)


def _taken(layers: Sequence[Layer]) -> Iterator[int]:
    """Number of the output that each layer takes, through those that recall one."""
    number = 0
    for position, layer in enumerate(layers):
        yield number
        number = layer.source if isinstance(layer, Recall) else position + 1


def last_references(layers: Sequence[Layer]) -> dict[int, int]:
    """Which outputs are referred back to: number of the output → position of the last layer that does."""
    return {layer.source: position for position, layer in enumerate(layers) if isinstance(layer, Referring)}


def walk(layers: Sequence[Layer], start: T, after: Callable[[Layer, T, T | None], T]) -> Iterator[T]:
    """Carry a value through the layers: gives what reaches each of them, then what leaves the last.

    Outputs that are referred back to are kept until the last reference, all others are let go.

    Args:
        layers: whose references point backwards, as `Architecture.shapes` checks.
        start: the value of the input.
        after: (layer, value before it, value of the output that it refers to or None) → value after it.
    """
    last, value = last_references(layers), start
    held: dict[int, T] = {}
    for position, layer in enumerate(layers):
        yield value
        if position in last:
            held[position] = value
        value = after(layer, value, held[layer.source] if isinstance(layer, Referring) else None)
        if isinstance(layer, Referring) and last[layer.source] == position:
            del held[layer.source]
    yield value


def output_shape(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of one example after a layer, given those of all outputs so far, the input first.

    Raises:
        ValueError: the layer does not accept the shape that reaches it, or refers to an output that is not there.
    """
    shape, position = shapes[-1], len(shapes) - 1

    def expect(good: bool, wanted: str) -> None:
        if not good:
            raise ValueError(f"layer {position} ({describe(layer)}) expects {wanted}, but {shape} reaches it")

    earlier: tuple[int, ...] | None = None
    if isinstance(layer, Referring):
        if not 0 <= layer.source < position:
            raise ValueError(f"layer {position} ({describe(layer)}) refers to no output before output {position}")
        earlier = shapes[layer.source]
        if isinstance(layer, Recall):
            return earlier
    if isinstance(layer, Add) and earlier is not None:
        expect(fit_together(shape, earlier), f"the shape {earlier}")
        return together(shape, earlier)
    if isinstance(layer, FurtherLayer):
        return shape_after(layer, shape, earlier, expect)
    if isinstance(layer, Linear):
        expect(len(shape) == 1 and shape[0] == layer.in_features, f"a vector of {layer.in_features}")
        return (layer.out_features,)
    if isinstance(layer, Conv2d):
        expect(len(shape) == 3 and shape[0] == layer.in_channels, f"(channels={layer.in_channels}, height, width)")
        size = _window(shape[1:], layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        expect(min(size) > 0, "an input at least as large as its kernel")
        return (layer.out_channels, *size)
    if isinstance(layer, ConvTranspose2d):
        expect(len(shape) == 3 and shape[0] == layer.in_channels, f"(channels={layer.in_channels}, height, width)")
        size = _transposed_window(shape[1:], layer)
        expect(min(size) > 0, "an input that its padding leaves something of")
        return (layer.out_channels, *size)
    if isinstance(layer, Upsample):
        expect(len(shape) == 3, "(channels, height, width)")
        return (shape[0], shape[1] * layer.factor[0], shape[2] * layer.factor[1])
    if isinstance(layer, MaxPool2d | AvgPool2d):
        expect(len(shape) == 3, "(channels, height, width)")
        size = _window(shape[1:], layer.kernel_size, layer.stride, layer.padding, (1, 1))
        expect(min(size) > 0, "an input at least as large as its window")
        return (shape[0], *size)
    if isinstance(layer, AdaptiveAvgPool2d):
        expect(len(shape) == 3, "(channels, height, width)")
        return (shape[0], *layer.output_size)
    if isinstance(layer, BatchNorm | ChannelAffine):
        expect(len(shape) in (1, 3) and shape[0] == layer.channels, f"{layer.channels} channels")
        return shape
    if isinstance(layer, FixedAffine):
        expect(len(shape) in (1, 3) and shape[0] == len(layer.scale), f"{len(layer.scale)} channels")
        return shape
    if isinstance(layer, PReLU):
        expect(bool(shape) and layer.slopes in (1, shape[0]), f"{layer.slopes} entries along its first axis")
        return shape
    if isinstance(layer, Flatten):
        size_all = 1
        for extent in shape:
            size_all *= extent
        return (size_all,)
    if isinstance(layer, Unflatten):
        area = layer.size[0] * layer.size[1]
        expect(len(shape) == 1 and shape[0] % area == 0, f"a vector of channels × {layer.size[0]} × {layer.size[1]}")
        return (shape[0] // area, *layer.size)
    if isinstance(layer, Select):
        least = max(layer.indices, default=-1) + 1
        expect(least <= shape[0], f"at least {least} entries")
        return (len(layer.indices), *shape[1:])
    return shape


def _window(size: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    out = [
        (extent + 2 * pad - dil * (k - 1) - 1) // step + 1
        for extent, k, step, pad, dil in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    return (out[0], out[1])


def _transposed_window(size: tuple[int, ...], layer: ConvTranspose2d) -> Pair:
    """The inverse of `_window`: the smallest input of such a convolution that has this output, plus output_padding."""
    out = [
        (extent - 1) * step - 2 * pad + dil * (k - 1) + more + 1
        for extent, k, step, pad, dil, more in zip(
            size, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.output_padding, strict=True
        )
    ]
    return (out[0], out[1])


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
