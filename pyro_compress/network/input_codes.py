"""What the input of a decoder is: a code z of some width K, and the distribution p(z) that it is drawn from.

A file says so in its header (`artifact/FORMAT.md`, 2.5), so that whoever has it can generate.  numpy only.
"""

import math
from dataclasses import dataclass

import numpy as np

GAUSSIAN, DIRICHLET, LOGISTIC_NORMAL = KINDS = ("gaussian", "dirichlet", "logistic-normal")
"""N(0, I); Dirichlet(α, …, α); softmax(h, 0) with h ~ N(0, s² I) of K − 1 numbers."""


@dataclass(frozen=True)
class InputCode:
    """p(z).

    Args:
        kind: one of `KINDS`.
        parameter: α of the Dirichlet, s of the logistic-normal, finite and above 0; None of the Gaussian.

    Raises:
        ValueError: no such kind, or a parameter that it does not take.
    """

    kind: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"codes are {', '.join(KINDS)}, found '{self.kind}'")
        if (self.parameter is None) != (self.kind == GAUSSIAN):
            raise ValueError(f"a {self.kind} code with the parameter {self.parameter}: all but gaussian ones have one")
        if self.parameter is not None and not 0 < self.parameter < math.inf:
            raise ValueError(f"the parameter of a {self.kind} code is above 0 and finite, found {self.parameter}")

    @property
    def least_width(self) -> int:
        """Numbers that a code has at least."""
        return 1 if self.kind == GAUSSIAN else 2

    def draw(self, width: int, count: int, generator: "np.random.Generator") -> np.ndarray:
        """`count` codes of p(z), float32 of shape (count, width)."""
        # the annotation is a string: numpy.random is not loaded where a file is only read
        if self.kind == GAUSSIAN:
            z = generator.standard_normal((count, width))
        elif self.kind == DIRICHLET:
            z = generator.dirichlet(np.full(width, self.parameter), count)
        else:
            assert self.parameter is not None
            h = np.zeros((count, width))
            h[:, :-1] = self.parameter * generator.standard_normal((count, width - 1))
            z = np.exp(h - h.max(1, keepdims=True))
            z /= z.sum(1, keepdims=True)
        return np.asarray(z, np.float32)

    def __str__(self) -> str:
        """As people read it."""
        return {
            GAUSSIAN: "z ~ N(0, I)",
            DIRICHLET: f"z ~ Dirichlet({self.parameter:g}, …)" if self.parameter else "",
            LOGISTIC_NORMAL: f"z = softmax(h, 0), h ~ N(0, {self.parameter:g}² I)" if self.parameter else "",
        }[self.kind]
