"""Convolutions of traced networks as layers; one over positions (Conv1d) is one over images of height 1."""

from typing import Any

from torch import nn

from pyro_compress.models.tracing.rules import Layers, Rule, Shape, as_pair
from pyro_compress.network.further_layers import Pad, Pair
from pyro_compress.network.layers import Conv2d, ConvTranspose2d


def _sizes(module: Any, *names: str) -> list[Pair]:
    dims = module.weight.ndim - 2
    return [as_pair(getattr(module, name), dims, 0 if "padding" in name else 1) for name in names]


def _conv(module: Any, name: str, before: Shape) -> Layers:
    """What pads otherwise than with as many zeros on both sides is a layer in front."""
    kernel, stride, dilation = _sizes(module, "kernel_size", "stride", "dilation")
    first: Pair = (0, 0)
    if module.padding == "same":
        total = [dil * (size - 1) for dil, size in zip(dilation, kernel, strict=True)]
        first = total[0] // 2, total[1] // 2
        last = total[0] - first[0], total[1] - first[1]
    elif module.padding == "valid":
        last = first
    else:
        first = last = _sizes(module, "padding")[0]
    bias, padded = module.bias is not None, Layers()
    if first != last or (module.padding_mode != "zeros" and any(first)):
        padded, first = [Pad(first, last, module.padding_mode)], (0, 0)
    sizes = (kernel, stride, first, dilation)
    return [*padded, Conv2d(name, module.in_channels, module.out_channels, *sizes, module.groups, bias)]


def _conv_transpose(module: Any, name: str, before: Shape) -> Layers:
    kernel, stride, padding, more, dilation = _sizes(
        module, "kernel_size", "stride", "padding", "output_padding", "dilation"
    )
    sizes = (kernel, stride, padding, more, dilation)
    channels = module.in_channels, module.out_channels
    return [ConvTranspose2d(name, *channels, *sizes, module.groups, module.bias is not None)]


MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.ConvTranspose1d: _conv_transpose,
    nn.ConvTranspose2d: _conv_transpose,
}
