"""What shape of one example leaves a layer, and what a layer expects."""

from collections.abc import Sequence

from pyro_compress.network.further_layers import FurtherLayer, fit_together, shape_after, together
from pyro_compress.network.layers import (
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    BatchNorm,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    FixedAffine,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Pair,
    PReLU,
    Recall,
    Referring,
    Select,
    Unflatten,
    Upsample,
    describe,
)


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
        expect(fit_together(shape, earlier), f"the shape {earlier}, or axes of 1 for one of them")
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
