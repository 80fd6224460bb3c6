"""Modules of layers over positions, which are images of height 1."""

import torch
from torch import Tensor, nn

from pyro_compress.errors import ArtifactError
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
        return x.reshape(len(x), *self.view).permute(self.order).reshape(len(x), *self.size)


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
        return y.transpose(2, 3).reshape(len(x), self.values, *x.shape[2:])


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
    """A row of features for every token: whole numbers, of whatever type.

    Raises:
        ArtifactError: what it is called with is no token.
    """

    def __init__(self, layer: seq.Embedding) -> None:
        super().__init__(layer)
        self.not_tokens, self.weight = layer.not_tokens, nn.Parameter(torch.zeros(layer.tokens, layer.features))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.long()
        if bool(((tokens < 0) | (tokens >= len(self.weight)) | (tokens != x)).any()):
            raise ArtifactError(self.not_tokens(x.min().item(), x.max().item()))
        return nn.functional.embedding(tokens, self.weight).transpose(1, 2)[:, :, None]


class Recurrent(_Described):
    """The states of a recurrent layer, place after place."""

    def __init__(self, layer: seq.Recurrent) -> None:
        super().__init__(layer)
        self.kind, self.hidden, self.reverse = layer.kind, layer.hidden, layer.reverse
        self.weight = nn.Parameter(torch.zeros(layer.gates * layer.hidden, layer.hidden))
        self.bias = nn.Parameter(torch.zeros(layer.hidden)) if layer.bias else None

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.hidden)
        states = []
        for place in reversed(x[:, :, 0].unbind(2)) if self.reverse else x[:, :, 0].unbind(2):
            h, c = self._next(place, nn.functional.linear(h, self.weight), h, c)
            states.append(h)
        return torch.stack(states[::-1] if self.reverse else states, 2)[:, :, None]

    def _next(self, x: Tensor, fed: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c of the next step, given W h."""
        match self.kind:
            case "lstm":
                i, f, g, o = (x + fed).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                return o.sigmoid() * c.tanh(), c
            case "gru":
                (x_r, x_z, x_n), (r, z, n) = x.chunk(3, 1), fed.chunk(3, 1)
                z = (x_z + z).sigmoid()
                n = n if self.bias is None else n + self.bias
                return (1 - z) * (x_n + (x_r + r).sigmoid() * n).tanh() + z * h, c
            case "rnn_tanh":
                return (x + fed).tanh(), c
        return (x + fed).relu(), c
