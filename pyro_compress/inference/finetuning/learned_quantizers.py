"""Quantizers whose own numbers are trained: levels of a codebook, steps of a grid.

With w = Q(θ), of which weight i has index q_i, and L the loss,

    levels   ∂L/∂c_k = Σ_{i: q_i = k} ∂L/∂w_i              all weights that share a level move it (Han et al. 2016)
    steps    ∂L/∂Δ   = Σ_i ∂L/∂w_i · (q_i − θ_i / Δ)       learned step size quantisation (LSQ, Esser et al. 2020);
                                                           q_i alone where an affine quantizer clips

Each weight takes the index that is nearest to θ_i, which is trained too, or keeps the one that it starts with: then θ
stays, and the derivative by Δ is Σ_i ∂L/∂w_i q_i.  A codebook's zero stays zero.  Levels are trained in units of their
mean magnitude and steps by their logarithm, so that one rate of Adam suits all; LSQ's own scale of the gradient,
1 / √(weights · largest index), is one that Adam does not see.

The length of the code, Σ ln(|θ_i| / Δ + ½) nats up to a constant, has a derivative by ln Δ as well, which is
−Σ |θ_i| / (|θ_i| + Δ/2) over the weights that are kept: coarser steps are cheaper.  So it is of the file's own
prices ℓ(|θ_i| / Δ), where it is −Σ ℓ'(|θ_i| / Δ) |θ_i| / Δ.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_compress.inference.finetuning.code_prices import CodePrices, slope_of
from pyro_compress.network.quantizers import Affine, Codebook, PerChannel, Quantizer, Uniform


class LearnedQuantizer(ABC):
    """Q of one tensor of shape S, with numbers that an optimizer moves.

    Attributes:
        numbers: (numbers,), what is trained.
        assigned: S, the index that each weight keeps, or None where θ decides.
    """

    numbers: Tensor
    assigned: Tensor | None

    @staticmethod
    def of(quantizer: Quantizer, value: Tensor, *, assigned: bool) -> "LearnedQuantizer":
        """Starting at a quantizer, on the device of the values; these keep their indices if `assigned`."""
        kind = LearnedLevels if isinstance(quantizer, Codebook) else LearnedSteps
        return kind(quantizer, value, assigned=assigned)  # type: ignore[arg-type]

    @abstractmethod
    def __call__(self, value: Tensor) -> Tensor:
        """Q(θ)."""

    @abstractmethod
    def backward(self, value: Tensor, gradient: Tensor) -> Tensor:
        """From ∂L/∂Q(θ), S, zero where a weight is pruned: leaves the gradient of `numbers`, returns that of θ."""

    @abstractmethod
    def quantizer(self) -> Quantizer:
        """What the numbers have become."""


class LearnedLevels(LearnedQuantizer):
    """The levels of a codebook."""

    def __init__(self, codebook: Codebook, value: Tensor, *, assigned: bool) -> None:
        levels = torch.tensor(codebook.levels).to(value)
        self._unit = levels.abs().mean() if len(levels) else torch.ones(()).to(value)
        self.numbers = levels / self._unit
        self.assigned = self._places(value) if assigned else None

    def _book(self) -> Tensor:
        """All levels in the order of `numbers`, and zero."""
        return torch.cat([self.numbers * self._unit, self.numbers.new_zeros(1)])

    def _places(self, value: Tensor) -> Tensor:
        """Where in `_book` the nearest level is; as `Codebook.index` finds it."""
        book, order = self._book().sort()
        middle = ((book[1:].double() + book[:-1].double()) / 2).to(book)
        edges = torch.minimum(middle, torch.nextafter(book[1:], book[:-1]))
        return order[torch.bucketize(value.contiguous(), edges)]

    def __call__(self, value: Tensor) -> Tensor:
        return self._book()[self._places(value) if self.assigned is None else self.assigned]

    def backward(self, value: Tensor, gradient: Tensor) -> Tensor:
        places = self._places(value) if self.assigned is None else self.assigned
        sums = gradient.new_zeros(len(self.numbers) + 1).index_add_(0, places.flatten(), gradient.flatten())
        self.numbers.grad = sums[:-1] * self._unit
        return gradient if self.assigned is None else torch.zeros_like(gradient)

    def quantizer(self) -> Codebook:
        levels = np.unique(self._book().cpu().numpy().astype(np.float32))
        return Codebook(tuple(levels[levels != 0].tolist()))


class LearnedSteps(LearnedQuantizer):
    """The step of a grid, or those of its channels; bits and zero points of an affine one stay."""

    def __init__(self, quantizer: Uniform | PerChannel | Affine, value: Tensor, *, assigned: bool) -> None:
        self._quantizer = quantizer
        self._start = torch.from_numpy(quantizer.spacing(value.ndim)).to(value)
        self._limits: tuple[Tensor | float, ...] = (-torch.inf, torch.inf)
        if isinstance(quantizer, Affine):
            self._limits = tuple(torch.from_numpy(limit).to(value) for limit in quantizer.limits(value.ndim))
        self.numbers = torch.zeros_like(self._start).flatten()
        self.assigned = None
        self.assigned = self._indices(value, self._start) if assigned else None

    def _step(self) -> Tensor:
        """Of a shape that goes with the tensor's."""
        return self._start * self.numbers.exp().view_as(self._start)

    def _indices(self, value: Tensor, step: Tensor) -> Tensor:
        if self.assigned is not None:
            return self.assigned
        return torch.round(value / step).clamp(*self._limits)  # type: ignore[arg-type]

    def __call__(self, value: Tensor) -> Tensor:
        step = self._step()
        return self._indices(value, step) * step

    def backward(self, value: Tensor, gradient: Tensor) -> Tensor:
        step = self._step()
        by_step = indices = self._indices(value, step)
        of_value = torch.zeros_like(gradient)
        if self.assigned is None:
            inside = torch.round(value / step) == indices
            by_step, of_value = indices - inside * value / step, gradient * inside
        self.numbers.grad = (gradient * by_step * step).sum_to_size(step.shape).flatten()
        return of_value

    def rate_backward(self, value: Tensor, kept: Tensor, weight: float, prices: CodePrices | None = None) -> Tensor:
        """Adds `weight` times the gradient of the code's length to that of `numbers`, after `backward`; returns θ's."""
        step = self._step()
        slope = slope_of(value, step, prices)
        assert self.numbers.grad is not None
        self.numbers.grad.sub_((value.abs() * slope * kept).sum_to_size(step.shape).flatten(), alpha=weight)
        return weight * torch.sign(value) * slope

    def quantizer(self) -> Uniform | PerChannel | Affine:
        steps = tuple(self._step().flatten().tolist())
        held = self._quantizer.grid if isinstance(self._quantizer, Affine) else self._quantizer
        grid = Uniform(steps[0]) if isinstance(held, Uniform) else PerChannel(steps)
        return replace(self._quantizer, grid=grid) if isinstance(self._quantizer, Affine) else grid
