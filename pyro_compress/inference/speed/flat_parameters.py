"""Trained tensors laid end to end: small ones of one learning rate in one vector, of which they are views.

A step of Adam pays for every tensor that it visits, and a guide has dozens of small ones.  Laid out like this a step
visits as many as there are learning rates, and a recorded step takes and returns as many.  Large tensors stay alone, in
vectors of their own: what makes their gradient then moves them as well, where a joined one would be written and read
once more.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# of torch.optim, those that treat every number by itself: they may see vectors in place of the parameters
ELEMENTWISE = frozenset(
    {"adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"}
)
# numbers from which on writing and reading them once more costs more than visiting one tensor more
LARGE = 16384


@dataclass(frozen=True, eq=False)
class VectorSlice:
    """Where a parameter lies.

    Attributes:
        parameter: a view of the vector.
        start: of its numbers, in the order in which they lie in memory.
    """

    parameter: nn.Parameter
    start: int

    @property
    def axes(self) -> list[int]:
        """Of the parameter, from the one whose numbers lie farthest apart to the one where they are neighbours."""
        strides, shape = self.parameter.stride(), self.parameter.shape
        # an axis of length one lies anywhere: it comes last of those that tie, so that its stride stays
        return sorted(range(self.parameter.ndim), key=lambda axis: (-strides[axis], -shape[axis]))

    def view(self, vector: Tensor) -> Tensor:
        """The parameter's part of a vector of the same layout, in the parameter's shape and strides."""
        shape, axes = self.parameter.shape, self.axes
        part = vector[self.start : self.start + self.parameter.numel()].view([shape[axis] for axis in axes])
        return part if axes == sorted(axes) else part.permute([axes.index(axis) for axis in range(len(axes))])

    def flat(self, value: Tensor) -> Tensor:
        """A value of the parameter's shape as the vector holds it."""
        return value.permute(self.axes).reshape(-1)


@dataclass(frozen=True, eq=False)
class Vector:
    """Parameters of one learning rate.

    Attributes:
        multiplier: of the base learning rate.
        whole: their numbers.
        places: of the parameters, end to end.
    """

    multiplier: float
    whole: nn.Parameter
    places: tuple[VectorSlice, ...]

    @staticmethod
    def of(multiplier: float, parameters: list[nn.Parameter]) -> "Vector":
        """Move the parameters into a new vector; they keep values and strides."""
        first = parameters[0]
        whole = torch.empty(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        places, start = [], 0
        for parameter in parameters:
            place = VectorSlice(parameter, start)
            view = place.view(whole)
            view.copy_(parameter.detach())
            parameter.data = view
            places.append(place)
            start += parameter.numel()
        return Vector(multiplier, nn.Parameter(whole), tuple(places))

    def joined(self, values: Iterable[Tensor | None]) -> Tensor:
        """One value per parameter, end to end; None is zero.  A view where there is one."""
        pairs = zip(self.places, values, strict=True)
        flat = [p.flat(torch.zeros_like(p.parameter) if v is None else v) for p, v in pairs]
        return flat[0] if len(flat) == 1 else torch.cat(flat)


class FlatParameters:
    """Vectors of trained tensors, and gradients of both kinds.

    Args:
        groups: mappings with 'params' and 'multiplier', as guides list them.
        by_element: whether the optimizer may see the vectors; else it sees the parameters.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], by_element: bool) -> None:
        # rate by rate, which is the order of the optimizer's groups
        by_rate: dict[float, list[nn.Parameter]] = {}
        for group in groups:
            by_rate.setdefault(group["multiplier"], []).extend(group["params"])
        self.vectors = tuple(Vector.of(rate, part) for rate, held in by_rate.items() for part in _parts(held))
        self._by_element = by_element

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of them, vector by vector."""
        return [place.parameter for vector in self.vectors for place in vector.places]

    def groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves."""
        return [
            {
                "params": [vector.whole] if self._by_element else [place.parameter for place in vector.places],
                "multiplier": vector.multiplier,
            }
            for vector in self.vectors
        ]

    def add_gradients(self, found: Iterable[Tensor]) -> None:
        """Add a gradient to every vector's."""
        for vector, gradient in zip(self.vectors, found, strict=True):
            vector.whole.grad = gradient if vector.whole.grad is None else vector.whole.grad.add_(gradient)

    def collect_gradients(self) -> None:
        """Bring gradients to where the optimizer looks for them: those of parameters from autograd, and of vectors."""
        for vector in self.vectors:
            parameters = [place.parameter for place in vector.places]
            if any(parameter.grad is not None for parameter in parameters):
                joined = vector.joined(parameter.grad for parameter in parameters)
                vector.whole.grad = joined if vector.whole.grad is None else vector.whole.grad.add_(joined)
            gradient = vector.whole.grad
            for place in vector.places:
                place.parameter.grad = None if self._by_element or gradient is None else place.view(gradient)

    def clear_gradients(self) -> None:
        """None everywhere."""
        for vector in self.vectors:
            vector.whole.grad = None
            for place in vector.places:
                place.parameter.grad = None

    def parts(self, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
        """What an optimizer over the vectors remembers of every parameter, in its shape, by the parameter's id."""
        found: dict[int, dict[str, Tensor]] = {}
        for vector in self.vectors:
            held = {key: value for key, value in optimizer.state[vector.whole].items() if _is_like(value, vector.whole)}
            for place in vector.places:
                found[id(place.parameter)] = {key: place.view(value) for key, value in held.items()}
        return found

    def remember(
        self,
        optimizer: torch.optim.Optimizer,
        parts: Mapping[int, Mapping[str, Tensor]],
        former: torch.optim.Optimizer,
    ) -> None:
        """Give a fresh optimizer over the vectors what a `former` one remembered.

        Args:
            optimizer: fresh.
            parts: as `FlatParameters.parts` gives them, cut to the parameters that there are now.
            former: over vectors of the same learning rates; its counters are taken over.
        """
        was = {group["multiplier"]: group["params"][0] for group in former.param_groups}
        for vector in self.vectors:
            old = was[vector.multiplier]
            state = {key: copy.deepcopy(value) for key, value in former.state[old].items() if not _is_like(value, old)}
            each = [parts[id(place.parameter)] for place in vector.places]
            for key in each[0]:
                # a copy: one that lies alone is joined to nothing
                state[key] = vector.joined(part[key] for part in each).clone()
            optimizer.state[vector.whole] = state


def _parts(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Each large one by itself, and the others together."""
    small = [parameter for parameter in parameters if parameter.numel() < LARGE]
    return [[one] for one in parameters if one.numel() >= LARGE] + ([small] if small else [])


def _is_like(value: Any, vector: Tensor) -> bool:
    """Whether an entry of an optimizer's state is one number per number of the vector."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == vector.shape


def is_elementwise(optimizer: Any) -> bool:
    """Whether an optimizer by that name treats every number by itself."""
    return isinstance(optimizer, str) and optimizer.lower() in ELEMENTWISE
