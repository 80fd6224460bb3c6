"""How the axes of a result, as the network has them, lie in the output that describes it.

Layers take the channels first.  A network may permute, split and join its axes as it likes; such an operation moves no
number here, but changes what is known of where the axes lie.
"""

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import prod
from typing import Any

import torch

from pyro_compress.models.tracing.rules import RefusedError, Shape


@dataclass(frozen=True)
class Layout:
    """Axes as products of factors.

    Attributes:
        factors: extents above 1 in the order of memory, that of the batch first; their product is all numbers.
        axes: for each axis, the batch's among them, the places of its factors here, the slowest first.
    """

    factors: Shape
    axes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(shape: Shape, memory: Shape) -> "Layout":
        """Of axes that lie in the order of memory, seen as `memory` by layers; both with the batch axis."""
        return Layout((prod(shape),), ((0,),)).reshaped(memory).reshaped(shape)

    @property
    def shape(self) -> Shape:
        return tuple(prod(self.factors[factor] for factor in axis) for axis in self.axes)

    @property
    def in_order(self) -> bool:
        """Whether the axes lie in the order of memory."""
        return list(chain.from_iterable(self.axes)) == list(range(len(self.factors)))

    @property
    def batch_first(self) -> bool:
        return self.axes[0] == (0,)

    def permuted(self, order: Any) -> "Layout":
        """With its axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def reshaped(self, shape: Shape) -> "Layout":
        """With its axes joined and split, all numbers staying in the axes' order.

        Raises:
            RefusedError: an axis would hold a part of a factor that does not divide it.
        """
        left: list[tuple[int, ...]] = [(factor,) for factor in chain.from_iterable(self.axes)]
        size: dict[tuple[int, ...], int] = {(factor,): extent for factor, extent in enumerate(self.factors)}
        axes: list[list[tuple[int, ...]]] = []
        for extent in shape:
            axis: list[tuple[int, ...]] = []
            while extent > 1:
                factor = left.pop(0)
                if size[factor] > extent:
                    if size[factor] % extent:
                        raise RefusedError(f"reshapes {self.shape} to {shape} (batch axis first)")
                    whole = size.pop(factor)
                    size |= {(*factor, 0): extent, (*factor, 1): whole // extent}
                    left.insert(0, (*factor, 1))
                    factor = (*factor, 0)
                if extent % size[factor]:
                    raise RefusedError(f"reshapes {self.shape} to {shape} (batch axis first)")
                extent //= size[factor]
                axis.append(factor)
            axes.append(axis)
        memory = sorted(size)
        place = {factor: number for number, factor in enumerate(memory)}
        return Layout(tuple(size[f] for f in memory), tuple(tuple(place[f] for f in axis) for axis in axes))

    def moved(self, order: list[int]) -> "Layout":
        """The same axes where the factors lie in another order in memory."""
        place = {factor: number for number, factor in enumerate(order)}
        return Layout(
            tuple(self.factors[factor] for factor in order),
            tuple(tuple(place[factor] for factor in axis) for axis in self.axes),
        )

    def normal(self) -> "Layout":
        """With factors joined that lie side by side in memory and in an axis."""
        follows = {first for axis in self.axes for first, second in pairwise(axis) if second == first + 1}
        groups: list[list[int]] = []
        for factor in range(len(self.factors)):
            if factor - 1 in follows:
                groups[-1].append(factor)
            else:
                groups.append([factor])
        place = {group[0]: number for number, group in enumerate(groups)}
        axes = tuple(tuple(place[factor] for factor in axis if factor in place) for axis in self.axes)
        return Layout(tuple(prod(self.factors[f] for f in group) for group in groups), axes)

    def exchanged(self, axis: int, first: int, count: int, extent: int) -> "Layout":
        """Where `count` factors from `first` on, which are those of one axis, have become one of another extent."""
        new = (extent,) if extent > 1 else ()
        less = count - len(new)
        axes = [tuple(f - less if f >= first + count else f for f in each) for each in self.axes]
        axes[axis] = (first,) if new else ()
        return Layout((*self.factors[:first], *new, *self.factors[first + count :]), tuple(axes))

    def without_axis(self, axis: int) -> "Layout":
        """Without an axis of extent 1."""
        return replace(self, axes=(*self.axes[:axis], *self.axes[axis + 1 :]))

    def in_memory(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with these axes as one with the factors as axes."""
        order = list(chain.from_iterable(self.axes))
        seen = tensor.reshape([self.factors[factor] for factor in order])
        return seen.permute([order.index(factor) for factor in range(len(order))])
