"""Adam as operations of a recorded step, so that a compiler joins them to those that make the gradient.

    m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²,    θ ← θ − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)

(Kingma & Ba 2015.)  The numbers stay where `torch.optim.Adam` keeps them, which may go on from there.  Its own step
visits every vector from Python and reads gradients that were just written; for small networks that is a tenth of a
step.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# of an optimizer's group, at which its step is the one above
_PLAIN = {"weight_decay": 0, "amsgrad": False, "maximize": False, "differentiable": False}


class Adam:
    """The step of a `torch.optim.Adam` that `is_plain`, for vectors in the order of its groups, one in each.

    Args:
        optimizer: see above; what it remembers is made if it has not moved yet.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        for (vector,) in self._held():
            if not optimizer.state[vector]:
                average, square = torch.zeros_like(vector), torch.zeros_like(vector)
                counter = torch.zeros((), device=vector.device)
                optimizer.state[vector] = {"step": counter, "exp_avg": average, "exp_avg_sq": square}

    @staticmethod
    def is_plain(optimizer: torch.optim.Optimizer) -> bool:
        """Whether that is Adam as it was published, with one vector per group."""
        return type(optimizer) is torch.optim.Adam and all(
            all(group[name] == value for name, value in _PLAIN.items()) and len(group["params"]) == 1
            for group in optimizer.param_groups
        )

    def moments(self) -> list[Tensor]:
        """m and v of every vector, in turn."""
        states = (self._optimizer.state[vector] for (vector,) in self._held())
        return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]

    def numbers(self) -> list[Tensor]:
        """η / (1 − β₁ᵗ) and √(1 − β₂ᵗ) of every vector, in turn, for the step that comes; counts it."""
        found = []
        for group in self._optimizer.param_groups:
            (vector,), (first, second) = group["params"], group["betas"]
            self._optimizer.state[vector]["step"] += 1
            count = float(self._optimizer.state[vector]["step"])
            found += [torch.tensor(group["lr"] / (1 - first**count)), torch.tensor((1 - second**count) ** 0.5)]
        return found

    def move(
        self,
        vectors: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moments: Sequence[Tensor],
        numbers: Sequence[Tensor],
    ) -> None:
        """The step, in place, with `moments()` and `numbers()`."""
        for place, (vector, gradient, group) in enumerate(
            zip(vectors, gradients, self._optimizer.param_groups, strict=True)
        ):
            (first, second), (average, square) = group["betas"], moments[2 * place : 2 * place + 2]
            rate, root = numbers[2 * place : 2 * place + 2]
            average.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            vector.sub_(rate * average / (square.sqrt() / root + group["eps"]))

    def _held(self) -> Iterator[list[Tensor]]:
        return (group["params"] for group in self._optimizer.param_groups)
