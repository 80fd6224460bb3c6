"""Modules of layers over positions, which are images of height 1."""

import torch
from torch import Tensor, nn

from pyro_compress.network import sequence_layers as seq


class _Described(nn.Module):
    """Shows the layer that it is made of."""

    def __init__(self, layer: seq.SequenceLayer) -> None:
        super().__init__()
        self._layer = layer

    def extra_repr(self) -> str:
        return repr(self._layer)


class Rearrange(_Described):
    """All numbers of an example in another order."""

    def __init__(self, layer: seq.Rearrange) -> None:
        super().__init__(layer)
        self.view, self.size = layer.view, layer.size
        self.order = (0, *(1 + axis for axis in layer.order))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.view).permute(self.order).reshape(-1, *self.size)


class Crop(_Described):
    """Some rows and columns."""

    def __init__(self, layer: seq.Crop) -> None:
        super().__init__(layer)
        (top, left), (height, width) = layer.before, layer.size
        self.rows, self.columns = slice(top, top + height), slice(left, left + width)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.rows, self.columns]


class Attention(_Described):
    """softmax(scale · qᵀk) v of every head, q, k and v one after the other along axis 1."""

    def __init__(self, layer: seq.Attention) -> None:
        super().__init__(layer)
        self.heads, self.values, self.scale, self.causal = layer.heads, layer.values, layer.scale, layer.causal

    def forward(self, x: Tensor) -> Tensor:
        keys = (x.shape[1] - self.values) // 2
        parts = x.flatten(2).split((keys, keys, self.values), 1)
        # (batch, heads, places, features)
        q, k, v = (part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return y.transpose(2, 3).reshape(-1, self.values, *x.shape[2:])


class PositionBias(_Described):
    """A number for every place and channel, added."""

    def __init__(self, layer: seq.PositionBias) -> None:
        super().__init__(layer)
        self.value = nn.Parameter(torch.zeros(layer.positions, layer.channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value.T.reshape(x.shape[1:])


class ConstantPositions(_Described):
    """Positions with numbers of their own beside all others."""

    def __init__(self, layer: seq.ConstantPositions) -> None:
        super().__init__(layer)
        self.value, self.behind = nn.Parameter(torch.zeros(layer.count, layer.channels)), layer.behind

    def forward(self, x: Tensor) -> Tensor:
        own = self.value.T[None, :, None].expand(len(x), -1, -1, -1)
        return torch.cat([x, own] if self.behind else [own, x], 3)


class Embedding(_Described):
    """A row of features for every token: whole numbers, of whatever type."""

    def __init__(self, layer: seq.Embedding) -> None:
        super().__init__(layer)
        self.weight = nn.Parameter(torch.zeros(layer.tokens, layer.features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x.long(), self.weight).transpose(1, 2)[:, :, None]
