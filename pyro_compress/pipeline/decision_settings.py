"""The settings of a decision: what `pipeline.search` is told, and what a run keeps."""

import math
from dataclasses import dataclass

from pyro_compress.analysis.modes.moments import ALIGN_BY, MOMENTS
from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import DecisionError
from pyro_compress.pipeline.draw_moments import STORED


@dataclass(frozen=True)
class DecisionSettings:
    """How a posterior is turned into a decision.

    Args:
        group_threshold, log_alpha, snr, remove_percent: cuts, see `analysis.decisions.pruning.prune`.  Where none of
            the last three is given, the largest SNR cut of a ladder that validation allows is taken.
        multiply_adds: share of the multiply-adds of a forward pass that may stay: before all else, units go that cost
            the least evidence for what they save, see `analysis.decisions.units.prune_units`.  None removes no units
            for speed.
        moments, align_by: of draws, see `analysis.modes.moments.one_mode`; without draws they are not looked at.
        stored: 'mean' or 'best-draw' of draws, or 'auto', the one with fewer validation errors.
        c: share of the posterior variance that rounding may add; found on validation if None.
        tolerance_points: rise of validation error, in percentage points, that the SNR cut, and then rounding,
            may cost (the rule of `pipeline.acceptance`); fine-tuning wins most of it back.
        fine_tune_epochs: epochs on the grid per stage; 0 stores rounded posterior means.
        rate_weights: γ of each stage, rising; the last stage within `stage_tolerance_points` is kept.
        stage_tolerance_points: rise of validation error over the reference that a stage may cost.
        fine_tune_batch_size, fine_tune_learning_rate: of the fine-tuning.
        teacher_draws: fine-tuning learns the posterior predictive mean of that many draws; 0 takes the labels.
        fine_tune_noise: sd of the noise on the weights in fine-tuning, in posterior sds.
        refine: whether weights move, at the end, to integers that cost fewer bits, as far as that adds no error on
            validation data: see `artifact.writing.rate_distortion`.
    """

    group_threshold: float | None = None
    log_alpha: float | None = None
    snr: float | None = None
    remove_percent: float | None = None
    multiply_adds: float | None = None
    moments: str = "auto"
    align_by: str = "auto"
    stored: str = "auto"
    c: float | None = None
    tolerance_points: float = 0.2
    fine_tune_epochs: int = 10
    rate_weights: tuple[float, ...] = (0.5, 1.0, 2.0)
    stage_tolerance_points: float = 0.1
    fine_tune_batch_size: int = 128
    fine_tune_learning_rate: float = 1e-3
    teacher_draws: int = 0
    fine_tune_noise: float = 0.0
    refine: bool = True

    def __post_init__(self) -> None:
        check_options(self, DecisionError)
        words = {"moments": MOMENTS, "align_by": ALIGN_BY, "stored": STORED}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise DecisionError(f"{name} is one of {', '.join(known)}, found '{getattr(self, name)}'")
        if self.fine_tune_epochs < 0 or self.tolerance_points < 0 or self.stage_tolerance_points < 0:
            raise DecisionError("fine_tune_epochs and tolerances must not be negative")
        if self.teacher_draws < 0 or self.fine_tune_noise < 0:
            raise DecisionError(
                f"teacher_draws and fine_tune_noise must not be negative, found {self.teacher_draws} and "
                f"{self.fine_tune_noise}"
            )
        if self.multiply_adds is not None and not 0 < self.multiply_adds <= 1:
            raise DecisionError(f"multiply_adds is a share above 0 and at most 1, found {self.multiply_adds}")
        if self.fine_tune_batch_size < 1 or not 0 < self.fine_tune_learning_rate < math.inf:
            raise DecisionError(
                "fine_tune_batch_size is at least 1 and fine_tune_learning_rate above 0, found "
                f"{self.fine_tune_batch_size} and {self.fine_tune_learning_rate}"
            )
        if (self.c is not None and self.c < 0) or min(self.rate_weights, default=0) < 0:
            raise DecisionError(f"c and rate_weights must not be negative, found {self.c} and {self.rate_weights}")
        if list(self.rate_weights) != sorted(self.rate_weights):
            raise DecisionError(f"rate_weights must rise from stage to stage, found {self.rate_weights}")
