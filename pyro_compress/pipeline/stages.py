"""Stages of training on the grid, with more and more weight on the length of the code, as far as validation allows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.pipeline.acceptance import within
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.validation import Judge

Tune = Callable[..., Decision]
Say = Callable[[str], None]


def fine_tune_stages(
    decision: Decision, judge: Judge, tune: Tune, settings: DecisionSettings, reference: np.ndarray, say: Say
) -> Decision:
    """Stages of rising rate weight γ, each from where the last one ended; stops at the first that costs too much.

    As long as none was within the tolerance, the one with the lowest error stands, or what was there before, and up to
    `lower_stages` follow with half the smallest γ so far, from where the first began.  Then come `further_stages`, if
    one was within it: each from where the last one ended that was kept, at twice its γ while nothing has been refused,
    and between its γ and the refused one, at their geometric mean, after that.
    """
    ladder = _Ladder(decision, judge, tune, settings, reference, say)
    current = decision
    for rate_weight in settings.rate_weights:
        current = ladder.stage(current, rate_weight)
        if ladder.refused is not None:
            break
    lower = min(settings.rate_weights, default=0.0)
    for _ in range(settings.lower_stages):
        if ladder.kept is not None or not lower:
            break
        lower /= 2
        ladder.lower(decision, lower)
    for _ in range(settings.further_stages):
        further = ladder.next_rate_weight()
        if further is None:
            break
        ladder.stage(ladder.accepted, further)
    return ladder.accepted


@dataclass
class _Ladder:
    """What stands so far.

    Attributes:
        accepted: the decision that stands.
        kept, refused: the largest γ within the tolerance, None as long as none was, and the smallest above it that was
            not.
    """

    accepted: Decision
    judge: Judge
    tune: Tune
    settings: DecisionSettings
    reference: np.ndarray
    say: Say
    kept: float | None = None
    refused: float | None = None

    def __post_init__(self) -> None:
        self.rise = self.judge.rise(self.accepted, self.reference)[0]

    def stage(self, start: Decision, rate_weight: float) -> Decision:
        """Train from `start`; what comes of it stands if it is good, or better than what stood and was not."""
        tuned = self.tune(start, rate_weight=rate_weight)
        rise, standard_error = self.judge.rise(tuned, self.reference)
        kept, total = tuned.weights_left()
        good = within(rise, self.settings.stage_tolerance_points)
        # at the same error the later one has the shorter code
        better = self.kept is None and rise <= self.rise
        self.say(
            f"on the grid with rate weight {rate_weight:.3g}: {100 * kept / total:.2f} % of the weights, error "
            f"{self.judge.unit.rise(rise, standard_error)}; "
            f"{'kept' if good else 'too much, but less than what was there' if better else 'refused'}"
        )
        if good:
            self.kept = rate_weight
        elif self.kept is not None:
            self.refused = rate_weight
        if good or better:
            self.accepted, self.rise = tuned, rise
        return tuned

    def lower(self, start: Decision, rate_weight: float) -> None:
        """A stage of half the γ that was too much."""
        self.stage(start, rate_weight)
        if self.kept is not None:
            self.refused = 2 * rate_weight

    def next_rate_weight(self) -> float | None:
        """Of a further stage; None where no stage was within the tolerance, or the kept one has no γ to go up from."""
        if not self.kept:
            return None
        return 2 * self.kept if self.refused is None else math.sqrt(self.kept * self.refused)
