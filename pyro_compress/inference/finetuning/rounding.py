"""Quantizers on tensors: the same indices and values as `network/quantizers.py` finds in float32."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_compress.network.quantizers import Codebook, Quantizer


@dataclass(frozen=True, eq=False)
class Rounding:
    """Q on one device.

    Attributes:
        spacing: Δ, of a shape that goes with the tensor's.
        edges, book: of a codebook, where the nearest level changes, and the levels with zero; None for grids.
    """

    spacing: Tensor
    edges: Tensor | None = None
    book: Tensor | None = None

    @staticmethod
    def of(quantizer: Quantizer, like: Tensor) -> "Rounding":
        """For tensors of the shape of another, on its device."""
        spacing = torch.from_numpy(quantizer.spacing(like.ndim)).to(like)
        if not isinstance(quantizer, Codebook):
            return Rounding(spacing)
        return Rounding(spacing, *(torch.from_numpy(each).to(like) for each in (quantizer.edges, quantizer.book)))

    def __call__(self, value: Tensor) -> Tensor:
        """Q(value)."""
        if self.edges is None or self.book is None:
            # a division by a tensor: by a number, some devices multiply with a rounded reciprocal
            return torch.round(value / self.spacing) * self.spacing
        return self.book[torch.bucketize(value.contiguous(), self.edges)]
