"""Operations that others say: gates by halves, channels and pixels in another order, one number for a whole image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing.axes import permuted, reshaped
from pyro_compress.models.tracing.positions import layout_of, settled
from pyro_compress.models.tracing.rules import RefusedError, Shape
from pyro_compress.models.tracing.sequences import LayerSequence, Result, entries
from pyro_compress.network.further_layers import Concatenate, Multiply
from pyro_compress.network.layers import Activation, FixedAffine, Upsample


def gated(sequence: LayerSequence, result: Result, dim: int = -1) -> Result:
    """One half of the channels times the sigmoid of the other (gated linear units, Dauphin et al. 2017)."""
    shape = result.shape
    if dim % len(shape) != 1:
        raise RefusedError(f"works along axis {dim}, supported is axis 1, the channels")
    result, half = settled(sequence, result), shape[1] // 2
    values, gates = (entries(sequence, result, range(at, at + half)) for at in (0, half))
    numbers = (values, sequence.behind(gates, Activation("sigmoid")))
    return Result(sequence.combined(Multiply, *sorted(numbers)), (shape[0], half, *shape[2:]))


def channels_shuffled(sequence: LayerSequence, result: Result, groups: int) -> Result:
    """Channel number g · n + k of n in each group becomes k · groups + g."""
    batch, channels, *places = result.shape
    split = reshaped(sequence, result, (batch, groups, channels // groups, *places))
    turned = permuted(sequence, split, torch.transpose, (1, 2), {})
    return reshaped(sequence, turned, result.shape)


def pixels_shuffled(sequence: LayerSequence, result: Result, upscale_factor: int) -> Result:
    """(C r², H, W) → (C, r H, r W): channels become pixels (Shi et al. 2016)."""
    r, (batch, channels, height, width) = upscale_factor, _image(result)
    split = reshaped(sequence, result, (batch, channels // r**2, r, r, height, width))
    turned = permuted(sequence, split, torch.permute, ((0, 1, 4, 2, 5, 3),), {})
    return reshaped(sequence, turned, (batch, channels // r**2, r * height, r * width))


def pixels_unshuffled(sequence: LayerSequence, result: Result, downscale_factor: int) -> Result:
    """(C, r H, r W) → (C r², H, W)."""
    r, (batch, channels, height, width) = downscale_factor, _image(result)
    split = reshaped(sequence, result, (batch, channels, height // r, r, width // r, r))
    turned = permuted(sequence, split, torch.permute, ((0, 1, 3, 5, 2, 4),), {})
    return reshaped(sequence, turned, (batch, channels * r**2, height // r, width // r))


def expanded(sequence: LayerSequence, result: Result, after: Shape) -> Result:
    """One number for all places of an image."""
    if after == result.shape:
        return result
    same = len(after) == 4 and result.shape == (*after[:2], 1, 1)
    if not same or layout_of(sequence, result).axes[-2:] != ((), ()):
        raise RefusedError(f"expands {result.shape} to {after}, supported are (channels, 1, 1) to an image")
    result = settled(sequence, result)
    return Result(sequence.behind(result.number, Upsample((after[2], after[3]))), after)


def channels_padded(
    sequence: LayerSequence, result: Result, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Result | None:
    """Zeros beside the channels, as in shortcuts without weights (He et al. 2016); None where others are padded."""
    # pairs go from the last axis to the first
    axis = len(result.shape) - 2
    before, behind = pad[2 * axis : 2 * axis + 2] if len(pad) == 2 * axis + 2 else (0, 0)
    if mode != "constant" or value or any(pad[: 2 * axis]) or min(before, behind) < 0 or not before + behind:
        return None
    result = settled(sequence, result)
    number, channels = sequence.image(result.number), result.shape[1]
    result = replace(result, number=number)
    for count, first in ((before, True), (behind, False)):
        left = count
        while left:
            some = min(left, channels)
            zeros = sequence.behind(entries(sequence, result, range(some)), _zeros(sequence, some))
            number = sequence.combined(Concatenate, *((zeros, number) if first else (number, zeros)))
            left -= some
    return Result(number, (result.shape[0], channels + before + behind, *result.shape[2:]))


def _zeros(sequence: LayerSequence, count: int) -> FixedAffine:
    return FixedAffine(sequence.new_name("zeros"), (0.0,) * count, (0.0,) * count)


def _image(result: Result) -> Shape:
    if len(result.shape) != 4:
        raise RefusedError(f"takes the shape {result.shape}, supported are images")
    return result.shape


# of one result, by a function's own arguments or a module's fields
SHUFFLES: dict[Any, tuple[Callable[..., Result], str]] = {
    **dict.fromkeys((F.glu, nn.GLU), (gated, "dim")),
    **dict.fromkeys((torch.channel_shuffle, F.channel_shuffle, nn.ChannelShuffle), (channels_shuffled, "groups")),
    **dict.fromkeys((torch.pixel_shuffle, F.pixel_shuffle, nn.PixelShuffle), (pixels_shuffled, "upscale_factor")),
    **dict.fromkeys(
        (torch.pixel_unshuffle, F.pixel_unshuffle, nn.PixelUnshuffle), (pixels_unshuffled, "downscale_factor")
    ),
}
EXPANSIONS: frozenset[Any] = frozenset(("expand", "expand_as", torch.broadcast_to, "broadcast_to"))
# over axes they give the largest numbers and where these stand
MAXIMA: frozenset[Any] = frozenset((torch.max, "max"))
