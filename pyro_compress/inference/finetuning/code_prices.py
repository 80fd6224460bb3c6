"""What integers cost in the file, as a price that training on the grid can descend.

    ℓ_j(θ) = a_j |θ| / Δ                              up to the first integer,
    ℓ_j(θ) = a_j + Σ_{k<n} b_k + b_n (|θ| / Δ − n)    between the integers n ≥ 1 and n + 1,

in nats more than a zero takes: a_j is what ±1 at the place of weight j costs above 0, and b_k what k + 1 costs above k.
Between integers the price is a straight line, and nothing is rounded, so that its derivative by θ, a_j / Δ or b_n / Δ,
says what the next integer towards zero would save.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CodePrices:
    """Prices of the integers of one tensor of shape S.

    Attributes:
        one: S, a, nats of ±1 above 0.
        further: (K,), b_1 … b_K, nats of k + 1 above k; beyond K as the last.
    """

    one: Tensor
    further: Tensor

    def __call__(self, steps: Tensor) -> Tensor:
        """ℓ of θ/Δ, S, in nats."""
        size = steps.abs()
        floor = size.floor().long().clamp(max=len(self.further))
        before = torch.cat([self.further.new_zeros(2), self.further.cumsum(0)])[floor]
        return torch.where(floor > 0, self.one + before + self.slope(steps) * (size - floor), self.one * size)

    def slope(self, steps: Tensor) -> Tensor:
        """dℓ/d|θ/Δ| at θ/Δ, S."""
        floor = steps.abs().floor().long().clamp(max=len(self.further))
        return torch.where(floor > 0, self.further[(floor - 1).clamp(min=0)], self.one)


def slope_of(value: Tensor, spacing: Tensor, prices: CodePrices | None) -> Tensor:
    """d/d|θ| of the length of the code in nats: of ln(|θ| / Δ + ½) without prices."""
    return 1 / (value.abs() + spacing / 2) if prices is None else prices.slope(value / spacing) / spacing
