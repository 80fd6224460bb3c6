"""Which stage on the grid stands, by its rise of the validation error; the judge and the fine-tuning are made up."""

from typing import Any

import numpy as np
import pytest

from pyro_compress.errors import DecisionError
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.stages import fine_tune_stages
from pyro_compress.posterior.error_unit import PERCENT


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

    unit = PERCENT

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
    settings = DecisionSettings(rate_weights=(0.5, 1.0, 2.0), lower_stages=0, stage_tolerance_points=0.1)
    start: Any = Stage(0)
    judge: Any = MadeUpJudge(rises)
    found: Any = fine_tune_stages(start, judge, next_stage, settings, np.zeros(1), lines.append)
    assert found.place == stands
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("most", "given", "tried", "stands"),
    [
        (3.0, (0.5, 1.0), [0.5, 1.0, 2.0, 4.0, 8**0.5], 8**0.5),  # doubled, refused, halved in logarithms
        (1.5, (1.0, 2.0), [1.0, 2.0, 2**0.5, 2**0.75, 2**0.625], 2**0.5),
        (9.0, (1.0, 2.0), [1.0, 2.0, 4.0, 8.0, 16.0], 8.0),
        (0.4, (0.5, 1.0), [0.5, 1.0, 0.25, 2**-1.5, 2**-1.25, 2**-1.375], 2**-1.375),  # halved, then sought between
        (0.2, (0.5, 1.0), [0.5, 1.0, 0.25, 0.125, 2**-2.5, 2**-2.25, 2**-2.375], 2**-2.375),
        (0.1, (0.5, 1.0), [0.5, 1.0, 0.25, 0.125], None),  # nothing was good enough to start from
        (0.4, (0.0,), [0.0], None),
    ],
)
def test_further_stages_look_for_the_largest_rate_weight_that_validation_allows(
    most: float, given: tuple[float, ...], tried: list[float], stands: float | None
) -> None:
    seen: list[tuple[Any, float]] = []

    class Tuned(Stage):
        def __init__(self, rate_weight: float) -> None:
            super().__init__(0)
            self.rate_weight = rate_weight

    class Steep:
        unit = PERCENT

        def rise(self, decision: Any, reference: np.ndarray) -> tuple[float, float]:
            return (0.0 if 0 < decision.rate_weight <= most else 1.0), 0.05

    def tune(decision: Any, rate_weight: float) -> Any:
        seen.append((decision, rate_weight))
        return Tuned(rate_weight)

    start, judge = Tuned(0.0), Steep()
    settings = DecisionSettings(rate_weights=given, further_stages=3)
    found: Any = fine_tune_stages(start, judge, tune, settings, np.zeros(1), lambda line: None)  # type: ignore[arg-type]
    assert [rate_weight for _, rate_weight in seen] == pytest.approx(tried)
    if stands is not None:
        assert found.rate_weight == pytest.approx(stands)
        # lower ones from where all began, others from the last one that was kept
        lower = sum(each in tried and min(given) / each in (2, 4) for _, each in seen)
        assert all(decision is start for decision, _ in seen[len(given) :][:lower])
        for decision, rate_weight in seen[len(given) + lower :]:
            assert 0 < decision.rate_weight <= min(most, rate_weight)


def test_further_stages_without_training_are_refused() -> None:
    with pytest.raises(DecisionError, match="stages take fine_tune_epochs"):
        DecisionSettings(further_stages=2, fine_tune_epochs=0)
