"""Which stage on the grid stands, by its rise of the validation error; the judge and the fine-tuning are made up."""

from typing import Any

import numpy as np
import pytest

from pyro_compress.pipeline import search
from pyro_compress.pipeline.decision_settings import DecisionSettings


class Stage:
    """A decision by its place among the stages, 0 before the first."""

    def __init__(self, place: int) -> None:
        self.place = place

    def weights_left(self) -> tuple[int, int]:
        return 1, 1


def next_stage(decision: Any, rate_weight: float) -> Any:
    return Stage(decision.place + 1)


class MadeUpJudge:
    """Knows the rise of every stage, with a standard error of 0.05 points."""

    def __init__(self, rises: list[float]) -> None:
        self.rises = rises

    def rise(self, decision: Stage, reference: np.ndarray) -> tuple[float, float]:
        return self.rises[decision.place], 0.05


@pytest.mark.parametrize(
    ("rises", "stands", "said"),
    [
        ([0.3, 0.0, 0.1, 0.05], 3, ["kept", "kept", "kept"]),
        ([0.3, 0.0, 0.2, 0.0], 1, ["kept", "refused"]),  # what comes after a stage that costs too much is not tried
        ([0.3, 0.2, 0.1, 0.2], 2, ["too much", "kept", "refused"]),
        ([0.1, 0.4, 0.3, 0.2], 0, ["refused", "refused", "refused"]),  # rounding alone errs least
        ([0.5, 0.3, 0.25, 0.4], 2, ["too much", "too much", "refused"]),  # more zeros and fewer errors
        ([0.3, 0.3, 0.4, 0.3], 3, ["too much", "refused", "too much"]),
    ],
)
def test_the_last_stage_within_the_tolerance_stands_or_else_the_best(
    rises: list[float], stands: int, said: list[str]
) -> None:
    lines: list[str] = []
    settings = DecisionSettings(rate_weights=(0.5, 1.0, 2.0), stage_tolerance_points=0.1)
    start: Any = Stage(0)
    judge: Any = MadeUpJudge(rises)
    found: Any = search._fine_tune_stages(start, judge, next_stage, settings, np.zeros(1), lines.append)
    assert found.place == stands
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line
