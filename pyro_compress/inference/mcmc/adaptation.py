"""What Hamiltonian samplers learn in the warm-up, each chain for itself: a step size and a mass matrix.

The step size follows dual averaging (Hoffman & Gelman 2014, section 3.2), the inverse mass matrix is the covariance
of the draws in windows that double in length, as Stan sets them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyro_compress.errors import InferenceError

# Hoffman & Gelman (2014), section 3.2.1: γ, t₀, κ
SHRINKAGE, STABILISATION, FORGETTING = 0.05, 10.0, 0.75
# Stan's warm-up of 1,000: 75 to get there, windows from 25 on, 50 for the last step size
FIRST, WINDOW, LAST = 75, 25, 50


class DualAveraging:
    """ln ε that brings the mean acceptance statistic a to its target δ.

    H ← (1 − 1/(t + t₀)) H + (δ − a)/(t + t₀);  ln ε = μ − √t/γ H;  ln ε̄ ← t^−κ ln ε + (1 − t^−κ) ln ε̄

    Args:
        step_size: ε₀; μ = ln 10 ε₀.
        target: δ.
    """

    def __init__(self, step_size: float, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: float) -> None:
        """Begin anew at that step size."""
        self.aim, self.log_step, self.log_mean = math.log(10 * step_size), math.log(step_size), 0.0
        self.error, self.count = 0.0, 0

    def learn(self, acceptance: float) -> None:
        """Take in the acceptance statistic of one transition."""
        self.count += 1
        gain = 1.0 / (self.count + STABILISATION)
        self.error = (1 - gain) * self.error + gain * (self.target - acceptance)
        self.log_step = self.aim - math.sqrt(self.count) / SHRINKAGE * self.error
        weight = self.count**-FORGETTING
        self.log_mean = weight * self.log_step + (1 - weight) * self.log_mean


@dataclass
class Welford:
    """Mean and scatter of rows that come one by one (Welford 1962).

    Attributes:
        mean: (D,) float64.
        scatter: Σ (x − mean)², (D,), or Σ (x − mean)(x − mean)ᵀ, (D, D).
        count: rows so far.
    """

    mean: np.ndarray
    scatter: np.ndarray
    count: int = 0

    @staticmethod
    def of(width: int, dense: bool) -> "Welford":
        return Welford(np.zeros(width), np.zeros((width, width) if dense else width))

    def add(self, row: np.ndarray) -> None:
        self.count += 1
        before = row - self.mean
        self.mean = self.mean + before / self.count
        after = row - self.mean
        self.scatter = self.scatter + (before * after if self.scatter.ndim == 1 else np.outer(before, after))

    def covariance(self) -> np.ndarray:
        """The sample covariance, drawn towards 0.001 where rows are few, as Stan draws it."""
        share = self.count / (self.count + 5.0)
        found = share * self.scatter / (self.count - 1)
        small = 1e-3 * (1 - share)
        return found + small if found.ndim == 1 else found + small * np.eye(len(found))


def windows(warmup: int) -> Iterator[tuple[int, int]]:
    """(first, end) of the windows of a warm-up after each of which the mass matrix changes; Stan's, doubling."""
    first, window, last = FIRST, WINDOW, LAST
    if warmup < 20:
        return
    if first + window + last > warmup:
        first, last = int(0.15 * warmup), int(0.1 * warmup)
        window = warmup - first - last
    while first < warmup - last:
        end = first + window
        # what would be left is too short for the next, twice as long
        if end + 2 * window > warmup - last:
            end = warmup - last
        yield first, end
        first, window = end, 2 * window


class Adaptation:
    """Step size and mass of one chain.

    Momenta are whitened: with M⁻¹ = S Sᵀ a leapfrog step is q += ε S r, r += ε Sᵀ ∇, r ~ N(0, I).

    Args:
        width: D.
        warmup: transitions over which to learn.
        step_size: ε at the start; None looks for one before the first transition.
        target: acceptance statistic aimed at; 0 leaves ε as it is.
        mass: 'diagonal', 'dense' or 'identity'.

    Attributes:
        step_size: ε in force.
        scale: S, (D,) or lower triangular (D, D), float64.
        search_due: the next transition should begin with a rough search for ε.
    """

    def __init__(self, width: int, warmup: int, step_size: float | None, target: float, mass: str) -> None:
        self.warmup, self.target, self.mass = warmup, target, mass
        self.windows = () if mass == "identity" else tuple(windows(warmup))
        self.step_size = 1.0 if step_size is None else step_size
        self.search_due = step_size is None
        self.averaging = DualAveraging(self.step_size, target)
        self.scale = np.eye(width) if mass == "dense" else np.ones(width)
        self.moments = Welford.of(width, mass == "dense")
        self.count = 0

    @property
    def is_learning_mass(self) -> bool:
        """Whether a change of the mass matrix is still to come."""
        return bool(self.windows) and self.count < self.windows[-1][1]

    def found(self, step_size: float) -> None:
        """Begin at the step size that a search ended at."""
        self.step_size, self.search_due = step_size, False
        self.averaging.restart(step_size)

    def learn(self, acceptance: float, position: np.ndarray) -> bool:
        """Take in one transition of the warm-up; nothing after it.

        Args:
            acceptance: its mean acceptance probability.
            position: (D,), where it ended.

        Returns:
            Whether the mass matrix has changed.
        """
        if self.count >= self.warmup:
            return False
        self.count += 1
        if self.target > 0:
            self.averaging.learn(acceptance if math.isfinite(acceptance) else 0.0)
            self.step_size = math.exp(self.averaging.log_step)
        changed = self._learn_mass(position)
        if self.count == self.warmup and self.target > 0 and self.averaging.count:
            self.step_size = math.exp(self.averaging.log_mean)
        return changed

    def _learn_mass(self, position: np.ndarray) -> bool:
        if any(first < self.count <= end for first, end in self.windows):
            self.moments.add(position.astype(np.float64))
        if not any(self.count == end for _, end in self.windows) or self.moments.count < 2:
            return False
        covariance = self.moments.covariance()
        if not np.isfinite(covariance).all():
            raise InferenceError("the chain's positions have run away: is the posterior proper?")
        self.scale = np.sqrt(covariance) if covariance.ndim == 1 else np.linalg.cholesky(covariance)
        self.moments = Welford.of(len(position), self.mass == "dense")
        self.search_due = self.target > 0
        return True

    def capture(self) -> dict[str, Any]:
        """Tensors and numbers."""
        averaging = self.averaging
        return {
            "step_size": self.step_size,
            "search_due": self.search_due,
            "count": self.count,
            "averaging": [averaging.aim, averaging.log_step, averaging.log_mean, averaging.error, averaging.count],
            "scale": torch.from_numpy(self.scale.copy()),
            "mean": torch.from_numpy(self.moments.mean.copy()),
            "scatter": torch.from_numpy(self.moments.scatter.copy()),
            "rows": self.moments.count,
        }

    def restore(self, captured: dict[str, Any]) -> None:
        """Take over what `capture` gave."""
        self.step_size, self.search_due = captured["step_size"], captured["search_due"]
        self.count = captured["count"]
        averaging = self.averaging
        averaging.aim, averaging.log_step, averaging.log_mean, averaging.error, averaging.count = captured["averaging"]
        self.scale = captured["scale"].numpy().copy()
        self.moments = Welford(
            captured["mean"].numpy().copy(), captured["scatter"].numpy().copy(), int(captured["rows"])
        )
