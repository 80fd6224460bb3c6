"""The settings of a decision: what `pipeline.search` is told, and what a run keeps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyro_compress.analysis.decisions.affine import RANGES
from pyro_compress.analysis.decisions.pruning import NETWORK, check_ranking
from pyro_compress.analysis.decisions.unit_ranking import UNIT_RANKINGS, hidden_layers
from pyro_compress.analysis.decisions.weight_sharing import MOST_LEVELS, STARTS
from pyro_compress.analysis.modes.moments import ALIGN_BY, MOMENTS
from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.models.precision import PRECISIONS, SINGLE
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.name_patterns import by_name
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.draw_moments import STORED
from pyro_compress.pipeline.fine_tuning import MOVES, RATES
from pyro_compress.pipeline.kinds import AUTOMATIC, check_kind
from pyro_compress.pipeline.quantizing import AFFINE, BY_VARIANCE, FIXED, QUANTIZERS

WITHOUT_INTEGERS = ("codebook", "float32")
REFINE_BY = ("variance", "fisher")


@dataclass(frozen=True)
class DecisionSettings:
    """How a posterior is turned into a decision.

    Args:
        group_threshold, log_alpha, snr, remove_percent: cuts, see `analysis.decisions.pruning.prune`.  Where none of
            the last three is given, the prior's own cut; of priors that judge no single weights, the largest SNR cut of
            a ladder that validation allows.
        remove_by, remove_over: which weights `remove_percent` takes, 'snr' or 'magnitude', of the 'network' or of every
            'layer': `by` and `over` of `prune`.
        multiply_adds: share of the multiply-adds of a forward pass that may stay: before all else, units go that cost
            the least evidence for what they save, see `analysis.decisions.units.prune_units`.  None removes no units
            for speed.
        remove_units_percent: share of the units of every hidden layer, or by patterns of names of layers, that goes
            before all else, in place of `multiply_adds`: see `analysis.decisions.unit_ranking`.
        rank_units_by: which go first: 'l1' (if None), 'l2', 'mean-activation' or 'activation-frequency'.
        moments, align_by: of draws, see `analysis.modes.moments.one_mode`; without draws they are not looked at.
        stored: 'mean' or 'best-draw' of draws, or 'auto', the one with fewer validation errors.
        quantizer: which family of grids weights are rounded to, see `pipeline.quantizing`: `power_of_two`, `uniform` or
            `per_channel`, whose steps follow from the posterior variance and c; `int8`, `int8_per_channel`, `int4` or
            `int4_per_channel`, integers with a zero point; `codebook`, shared values found by k-means; `float32`, no
            grid.  The default leaves tensors alone of which the method says what may be stored.
        c: share of the posterior variance that rounding may add, and what takes its place for point estimates, see
            `analysis.decisions.bits.bit_widths`; found on validation if None.
        levels: of a codebook, how many values the weights of a layer share (16 if None), or by patterns of parameter
            names, for example {"conv*": 256, "fc*": 32}.
        level_start: of a codebook, where k-means starts: 'density' (if None), 'linear' or 'random', see
            `analysis.decisions.weight_sharing.lloyd_max`.
        range_by: of integers with a zero point, which range they span: 'min_max' (if None) or 'least_squares', see
            `analysis.decisions.affine`.
        tolerance_points: rise of validation error, in percentage points, that the SNR cut, and then rounding,
            may cost (the rule of `pipeline.acceptance`); fine-tuning wins most of it back.
        tolerance_nats: what takes the place of both tolerances in points for an autoencoder: nats per example that the
            bound may lose.
        fine_tune_epochs: epochs on the grid per stage; 0 stores rounded posterior means.
        rate_weights: γ of each stage, rising; the last stage within `stage_tolerance_points` is kept.
        lower_stages: how many come where none of those was within it: γ is halved until one is.
        further_stages: how many come after those: γ doubles until a stage is refused, then it is sought between that
            and the last one kept, see `pipeline.stages`.
        stage_tolerance_points: rise of validation error over the reference that a stage may cost.
        fine_tune_batch_size, fine_tune_learning_rate: of the fine-tuning.
        fine_tune_precision: of the network's products and convolutions in it, 'single' or 'bfloat16'.
        fine_tune_rate: what γ weighs: 'log-uniform', the code length under that prior on the grid; or 'code', the nats
            that the file's own entropy coder asks for each integer where it stands (`artifact.writing.code_length`).
        fine_tune_averaging: share of the steps of a stage, the last ones, whose weights are averaged before they are
            rounded; 0 takes those of the last step.
        teacher_draws: fine-tuning learns the posterior predictive mean of that many draws; 0 takes the labels.
        fine_tune_moves: what fine-tuning trains of weights that have a quantizer: `weights`, the numbers that are
            rounded; `quantizer`, the levels or steps, while each weight keeps its place; or `both`.
        fine_tune_noise: sd of the noise on the weights in fine-tuning, in posterior sds.
        refine: whether weights move, at the end, to integers that cost fewer bits, as far as that adds no error on
            validation data: see `artifact.writing.rate_distortion`.
        refine_by: what says how far a weight may move: `variance`, the posterior's, or `fisher`, the information that
            the training data have of it where fine-tuning ended (`inference.finetuning.fisher`).
        kind: of the file: 'runnable', with layers; 'weights', the tensors alone, which go into the network's module, so
            that no unit is removed; or 'automatic', weights where the network cannot be traced.
    """

    group_threshold: float | None = None
    log_alpha: float | None = None
    snr: float | None = None
    remove_percent: float | None = None
    remove_by: str | None = None
    remove_over: str = NETWORK
    multiply_adds: float | None = None
    remove_units_percent: float | Mapping[str, float] | None = None
    rank_units_by: str | None = None
    moments: str = "auto"
    align_by: str = "auto"
    stored: str = "auto"
    quantizer: str = "power_of_two"
    c: float | None = None
    levels: int | Mapping[str, int] | None = None
    level_start: str | None = None
    range_by: str | None = None
    tolerance_points: float = 0.2
    tolerance_nats: float = 1.0
    fine_tune_epochs: int = 10
    rate_weights: tuple[float, ...] = (0.5, 1.0, 2.0)
    lower_stages: int = 2
    further_stages: int = 0
    stage_tolerance_points: float = 0.1
    fine_tune_batch_size: int = 128
    fine_tune_learning_rate: float = 1e-3
    fine_tune_precision: str = SINGLE
    fine_tune_rate: str = RATES[0]
    fine_tune_averaging: float = 0.0
    teacher_draws: int = 0
    fine_tune_moves: str = "weights"
    fine_tune_noise: float = 0.0
    refine: bool = True
    refine_by: str = "variance"
    kind: str = AUTOMATIC

    def __post_init__(self) -> None:
        check_options(self, DecisionError)
        check_kind(self.kind)
        words = {
            "moments": MOMENTS,
            "align_by": ALIGN_BY,
            "stored": STORED,
            "quantizer": QUANTIZERS,
            "fine_tune_moves": MOVES,
            "fine_tune_precision": PRECISIONS,
            "fine_tune_rate": RATES,
            "refine_by": REFINE_BY,
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise DecisionError(f"{name} is one of {', '.join(known)}, found '{getattr(self, name)}'")
        self._check_units()
        self._check_stages()
        self._check_training()
        self._check_quantizer()
        if self.fine_tune_moves != MOVES[0]:
            self._check_moves()
        if self.fine_tune_rate != RATES[0] and self.quantizer in WITHOUT_INTEGERS:
            raise DecisionError(
                f"fine_tune_rate='{self.fine_tune_rate}' asks what integers cost, and quantizer='{self.quantizer}' "
                f"stores none: take fine_tune_rate='{RATES[0]}', or another quantizer"
            )

    def _check_units(self) -> None:
        check_ranking(self.remove_percent, self.remove_by, self.remove_over, names=("remove_by", "remove_over"))
        if self.multiply_adds is not None and not 0 < self.multiply_adds <= 1:
            raise DecisionError(f"multiply_adds is a share above 0 and at most 1, found {self.multiply_adds}")
        if self.rank_units_by is not None and self.rank_units_by not in UNIT_RANKINGS:
            raise DecisionError(unknown_name("ranking of units", self.rank_units_by, UNIT_RANKINGS))
        if self.remove_units_percent is None and self.rank_units_by is not None:
            raise DecisionError("rank_units_by says which units remove_units_percent takes: give it too")
        if self.remove_units_percent is not None and self.multiply_adds is not None:
            raise DecisionError("remove_units_percent and multiply_adds both say which units go: give one of them")

    def _check_stages(self) -> None:
        if (
            self.fine_tune_epochs < 0
            or min(self.tolerance_points, self.tolerance_nats, self.stage_tolerance_points) < 0
        ):
            raise DecisionError("fine_tune_epochs and tolerances must not be negative")
        if self.lower_stages < 0:
            raise DecisionError(f"lower_stages is at least 0, found {self.lower_stages}")
        if self.further_stages < 0 or (self.further_stages and not self.fine_tune_epochs):
            raise DecisionError(
                f"further_stages is at least 0, and stages take fine_tune_epochs; found {self.further_stages} with "
                f"{self.fine_tune_epochs} epochs"
            )
        if (self.c is not None and self.c < 0) or min(self.rate_weights, default=0) < 0:
            raise DecisionError(f"c and rate_weights must not be negative, found {self.c} and {self.rate_weights}")
        if list(self.rate_weights) != sorted(self.rate_weights):
            raise DecisionError(f"rate_weights must rise from stage to stage, found {self.rate_weights}")

    def _check_training(self) -> None:
        if self.teacher_draws < 0 or self.fine_tune_noise < 0:
            raise DecisionError(
                f"teacher_draws and fine_tune_noise must not be negative, found {self.teacher_draws} and "
                f"{self.fine_tune_noise}"
            )
        if not 0 <= self.fine_tune_averaging <= 1:
            raise DecisionError(
                "fine_tune_averaging is the share of a stage's steps that is averaged, from 0 to 1; found "
                f"{self.fine_tune_averaging}"
            )
        if self.fine_tune_batch_size < 1 or not 0 < self.fine_tune_learning_rate < math.inf:
            raise DecisionError(
                "fine_tune_batch_size is at least 1 and fine_tune_learning_rate above 0, found "
                f"{self.fine_tune_batch_size} and {self.fine_tune_learning_rate}"
            )

    def in_nats(self) -> "DecisionSettings":
        """The same with `tolerance_nats` for tolerances: a nat is a hundred points of an error that is in nats.

        Raises:
            DecisionError: the posterior predictive is asked to teach, which is of supervised networks.
        """
        if self.teacher_draws:
            raise DecisionError(
                f"teacher_draws={self.teacher_draws}: an autoencoder's decoder learns from the examples, leave them out"
            )
        points = 100 * self.tolerance_nats
        return replace(self, tolerance_points=points, stage_tolerance_points=points)

    def check_units(self, found: Architecture | Unlayered) -> None:
        """That units can go where some are to, by what is known of a network before it is fitted.

        Raises:
            DecisionError: the file will hold weights, or units are to be ranked in layers that are no chain.
        """
        if self.multiply_adds is None and self.remove_units_percent is None:
            return
        if isinstance(found, Unlayered):
            raise DecisionError(
                f"no unit can be removed from a file of weights, and this will be one because {found.reason}: leave "
                "out multiply_adds and remove_units_percent"
            )
        if self.remove_units_percent is not None:
            by_name("remove_percent", self.remove_units_percent, hidden_layers(found), "hidden layer", DecisionError)

    def _check_moves(self) -> None:
        """A quantizer that is trained must be one that can move, in training that takes place."""
        asked = f"fine_tune_moves='{self.fine_tune_moves}'"
        if self.quantizer in FIXED:
            can = ", ".join(each for each in QUANTIZERS if each not in FIXED)
            raise DecisionError(f"{asked} moves levels or steps, and quantizer='{self.quantizer}' has none: take {can}")
        if self.fine_tune_epochs == 0:
            raise DecisionError(f"{asked} asks for training, and fine_tune_epochs=0 for none: leave one of them out")
        if self.fine_tune_moves == "quantizer" and any(self.rate_weights):
            raise DecisionError(
                f"{asked} leaves every weight its place, so that no rate weight can make the code shorter: give "
                f"rate_weights=(0.0,), found {self.rate_weights}"
            )

    def _check_quantizer(self) -> None:
        """Options of another quantizer than the one that is taken would be ignored, so they are refused."""
        only = {
            "c": (self.c, BY_VARIANCE),
            "levels": (self.levels, ("codebook",)),
            "level_start": (self.level_start, ("codebook",)),
            "range_by": (self.range_by, tuple(AFFINE)),
        }
        for name, (value, quantizers) in only.items():
            if value is not None and self.quantizer not in quantizers:
                raise DecisionError(
                    f"{name}={value!r} says nothing of quantizer='{self.quantizer}': leave it out, or take quantizer="
                    + " or ".join(f"'{each}'" for each in quantizers)
                )
        if self.level_start not in (None, *STARTS):
            raise DecisionError(f"level_start is one of {', '.join(STARTS)}, found '{self.level_start}'")
        if self.range_by not in (None, *RANGES):
            raise DecisionError(f"range_by is one of {', '.join(RANGES)}, found '{self.range_by}'")
        counts = self.levels.values() if isinstance(self.levels, Mapping) else (self.levels,)
        for count in counts:
            if count is not None and not 2 <= count <= MOST_LEVELS:
                raise DecisionError(
                    f"a codebook has 2 to {MOST_LEVELS} levels beside zero, found levels={self.levels!r}: with one "
                    "there is nothing to choose"
                )
