"""A layer's weight as a matrix, and two layers whose weights are its factors.

With W ≈ U Σ Vᵀ cut at rank r the two take √Σ Vᵀ and U √Σ, so that both have weights of one size, and nothing stands
between them.  No other two layers of these shapes are nearer in the sum of squares, Σ_{i>r} σ_i² (Eckart & Young 1936).

    dense        W (outputs, inputs):  inputs → r → outputs
    channel      W (filters, channels · height · width):  k × k to r channels, then 1 × 1  (Zhang et al. 2015)
    spatial      W (filters · width, channels · height):  k × 1 to r channels, then 1 × k  (Jaderberg et al. 2014, in
                 the closed form of Tai et al. 2016)

The bias goes to the second layer, stride, padding and dilation to the axis that they belong to.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SCHEMES = ("channel", "spatial")


@dataclass(frozen=True, eq=False)
class Factors:
    """The singular value decomposition of a layer's weight, W = U Σ Vᵀ as a matrix of outputs × inputs.

    Attributes:
        layer: `nn.Linear` or `nn.Conv2d` with one group.
        scheme: of a convolution.
        left: float64, U, (rows, full rank).
        values: float64, σ, (full rank,), falling.
        right: float64, Vᵀ, (full rank, columns).
    """

    layer: nn.Linear | nn.Conv2d
    scheme: str
    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    @staticmethod
    def of(layer: nn.Linear | nn.Conv2d, scheme: str) -> "Factors":
        """Decompose a layer's weight."""
        weight = layer.weight.detach().cpu().double()
        if isinstance(layer, nn.Conv2d):
            # spatial: filters and columns of the window on one side, channels and its rows on the other
            weight = weight.flatten(1) if scheme == "channel" else weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
        return Factors(layer, scheme, *torch.linalg.svd(weight, full_matrices=False))

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return len(self.left), self.right.shape[1]

    @property
    def full_rank(self) -> int:
        """The largest rank that the matrix can have."""
        return len(self.values)

    def weights(self, rank: int) -> int:
        """Weights of the two layers, without biases."""
        return rank * sum(self.shape)

    def layers(self, rank: int) -> nn.Sequential:
        """The two layers, `first` and `second`, on the device of the layer and in its mode; frozen if it is."""
        root = self.values[:rank].sqrt()
        left, right = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        pair = self._dense(rank) if isinstance(self.layer, nn.Linear) else self._convolutions(self.layer, rank)
        if isinstance(self.layer, nn.Conv2d) and self.scheme == "spatial":
            left = left.reshape(self.layer.out_channels, -1, rank).transpose(1, 2)
        with torch.no_grad():
            for made, numbers in zip(pair, (right, left), strict=True):
                made.weight.copy_(numbers.reshape(made.weight.shape))
                made.weight.requires_grad_(self.layer.weight.requires_grad)
            if self.layer.bias is not None:
                pair[1].bias.copy_(self.layer.bias)
                pair[1].bias.requires_grad_(self.layer.bias.requires_grad)
        found = nn.Sequential(OrderedDict(zip(("first", "second"), pair, strict=True)))
        return found.to(self.layer.weight.device).train(self.layer.training)

    def _dense(self, rank: int) -> tuple[Any, Any]:
        rows, columns = self.shape
        bias = self.layer.bias is not None
        return (
            nn.utils.skip_init(nn.Linear, columns, rank, bias=False),
            nn.utils.skip_init(nn.Linear, rank, rows, bias=bias),
        )

    def _convolutions(self, layer: nn.Conv2d, rank: int) -> tuple[Any, Any]:
        whole: dict[str, Any] = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        nothing = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        axes = [{key: _along(value, axis, nothing[key]) for key, value in whole.items()} for axis in (0, 1)]
        first, second = (whole, nothing) if self.scheme == "channel" else axes
        return (
            nn.utils.skip_init(nn.Conv2d, layer.in_channels, rank, bias=False, **first),
            nn.utils.skip_init(nn.Conv2d, rank, layer.out_channels, bias=layer.bias is not None, **second),
        )


def _along(value: Any, axis: int, other: int) -> Any:
    """An option of a convolution along one axis of the window; 'same' and 'valid' are said of both."""
    if isinstance(value, str):
        return value
    return (value[0], other) if axis == 0 else (other, value[1])
