"""What a likelihood's error is in: the one place that says how errors are printed and what their keys are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorUnit:
    """A unit of errors, and of what they rise by.

    Attributes:
        name: in keys of results, `error_after_percent`.
        sign: behind numbers, '%'.
        scale: what an error is multiplied by.
        digits: after the point.
        rise_sign: behind differences, 'points' of percentages.
        noun: what people call it.
    """

    name: str
    sign: str
    scale: float
    digits: int
    rise_sign: str
    noun: str = "error"

    def key(self, what: str) -> str:
        """'error_after' as a key of results.json."""
        return f"{what}_{self.name}"

    def text(self, error: float) -> str:
        """An error as it is printed: '1.62 %', '0.5134 nats'."""
        return self.shown(self.scale * error)

    def shown(self, value: float) -> str:
        """The same of a number that is in this unit already."""
        return f"{value:.{self.digits}f} {self.sign}"

    def from_points(self, points: float) -> float:
        """A hundredfold difference, as tolerances are counted, in this unit."""
        return points * self.scale / 100

    def rise(self, points: float, standard_error: float | None = None) -> str:
        """A difference of errors, in points, with its sign: '+0.12 ± 0.05 points'."""
        spread = "" if standard_error is None else f" ± {self.from_points(standard_error):.{self.digits}f}"
        return f"{self.from_points(points):+.{self.digits}f}{spread} {self.rise_sign}"


PERCENT = ErrorUnit("percent", "%", 100.0, 2, "points")
NATS = ErrorUnit("nats", "nats", 1.0, 4, "nats")
NATS_OF_BOUND = ErrorUnit("nats", "nats", 1.0, 2, "nats", noun="negative ELBO")
UNITS = {unit.name: unit for unit in (PERCENT, NATS)}


def unit_of(results: Mapping[str, Any]) -> ErrorUnit:
    """The unit that `results` name by `error_unit`; percent where they name none."""
    return NATS_OF_BOUND if "generative" in results else UNITS[results.get("error_unit", PERCENT.name)]
