"""Adam as operations of a recorded step, so that a compiler joins them to those that make the gradient.

    m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²,    θ ← θ − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)

(Kingma & Ba 2015.)  The numbers stay where `torch.optim.Adam` keeps them, which may go on from there.  Its own step
visits every vector from Python and reads gradients that were just written; for small networks that is a tenth of a
step.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# of an optimizer's groups, at which its step is the one above
_PLAIN = {"weight_decay": 0, "amsgrad": False, "maximize": False, "differentiable": False}


class Adam:
    """The step of a `torch.optim.Adam` that `is_plain`, for vectors in the order in which its groups hold them.

    Args:
        optimizer: see above; what it remembers is made if it has not moved yet, and must not be replaced later on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        states = []
        for _, _, vector in self._held():
            state = optimizer.state[vector]
            if not state:
                state.update(exp_avg=torch.zeros_like(vector), exp_avg_sq=torch.zeros_like(vector))
                state["step"] = torch.zeros((), device=vector.device)
            states.append(state)
        self._moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        # side by side, since counting each by itself takes longer than the rest of the bookkeeping
        self._counters = torch.stack([state["step"] for state in states])
        for state, counter in zip(states, self._counters.unbind(), strict=True):
            state["step"] = counter

    @staticmethod
    def is_plain(optimizer: torch.optim.Optimizer) -> bool:
        """Whether that is Adam as it was published."""
        return type(optimizer) is torch.optim.Adam and all(
            all(group[name] == value for name, value in _PLAIN.items()) for group in optimizer.param_groups
        )

    @property
    def count(self) -> int:
        """Of `numbers`."""
        return 2 * len(self._optimizer.param_groups)

    def moments(self) -> list[Tensor]:
        """m and v of every vector, in turn."""
        return self._moments

    def numbers(self) -> list[Tensor]:
        """η / (1 − β₁ᵗ) and √(1 − β₂ᵗ) of every group, in turn, for the step that comes; counts it."""
        count, found = self._next_count(), []
        for group in self._optimizer.param_groups:
            first, second = group["betas"]
            found += [group["lr"] / (1 - first**count), (1 - second**count) ** 0.5]
        return [*torch.tensor(found).unbind()]

    def _next_count(self) -> float:
        # every step moves every vector, so they all have come as far
        if self._counters.device.type != "cpu":
            self._counters.add_(1)
            return float(self._counters[0])
        # not by torch, which takes tens of microseconds for a few numbers in between large operations
        counters = self._counters.numpy()
        counters += 1
        return float(counters[0])

    def move(
        self,
        vectors: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moments: Sequence[Tensor],
        numbers: Sequence[Tensor],
    ) -> None:
        """The step, in place, with `moments()` and `numbers()`."""
        for place, (vector, gradient, (of, group, _)) in enumerate(zip(vectors, gradients, self._held(), strict=True)):
            (first, second), (average, square) = group["betas"], moments[2 * place : 2 * place + 2]
            rate, root = numbers[2 * of : 2 * of + 2]
            average.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            vector.sub_(rate * average / (square.sqrt() / root + group["eps"]))

    def _held(self) -> Iterator[tuple[int, dict[str, Any], Tensor]]:
        """(place of the group, group, vector) for all vectors."""
        for place, group in enumerate(self._optimizer.param_groups):
            for vector in group["params"]:
                yield place, group, vector
