"""Quantizers on tensors: the same indices and values as `network/quantizers.py` finds in float32."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_compress.network.quantizers import Affine, Codebook, Quantizer


@dataclass(frozen=True, eq=False)
class Rounding:
    """Q on one device.

    Attributes:
        spacing: Δ, of a shape that goes with the tensor's.
        limits: the least and the largest index of an affine quantizer, else None.
        edges, book: of a codebook, where the nearest level changes, and the levels with zero; None for grids.
    """

    spacing: Tensor
    limits: tuple[Tensor, Tensor] | None = None
    edges: Tensor | None = None
    book: Tensor | None = None

    @staticmethod
    def of(quantizer: Quantizer, like: Tensor) -> "Rounding":
        """For tensors of the shape of another, on its device."""

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(like)

        spacing = on_device(quantizer.spacing(like.ndim))
        if isinstance(quantizer, Affine):
            least, largest = quantizer.limits(like.ndim)
            return Rounding(spacing, (on_device(least), on_device(largest)))
        if isinstance(quantizer, Codebook):
            return Rounding(spacing, None, on_device(quantizer.edges), on_device(quantizer.book))
        return Rounding(spacing)

    def __call__(self, value: Tensor) -> Tensor:
        """Q(value)."""
        if self.edges is None or self.book is None:
            # a division by a tensor: by a number, some devices multiply with a rounded reciprocal
            indices = torch.round(value / self.spacing)
            return (indices if self.limits is None else indices.clamp(*self.limits)) * self.spacing
        return self.book[torch.bucketize(value.contiguous(), self.edges)]

    def straight(self, value: Tensor, gradient: Tensor) -> Tensor:
        """∂L/∂θ of ∂L/∂Q(θ): passed on as it is, but for values that are clipped."""
        if self.limits is None:
            return gradient
        indices = torch.round(value / self.spacing)
        return gradient * ((indices >= self.limits[0]) & (indices <= self.limits[1]))
