"""A data set in memory, or on a disk and mapped.

A `DataSet` holds three parts.  `train` is what the posterior is fitted to, `validation` is what thresholds
and steps are chosen on, `test` is what results are measured on and nothing else.  Validation is a random,
stratified share of the TRAINING data, drawn with a seed of its own, so that it is the same for every run.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_compress.config.keyword_options import build
from pyro_compress.data.asking import Ask
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.data.binarisation import Binarisation
from pyro_compress.data.labels import IGNORED, UNLABELLED, labels_kept
from pyro_compress.data.on_disk import pieces
from pyro_compress.data.sources import WHOLE_NUMBERS
from pyro_compress.errors import DataError

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs and targets in memory, checked once.

    Inputs are float32 of shape (examples, *input_shape), or int64, at least 0: tokens, of which a network looks up
    embeddings.  With `classes` (the classes' names) targets are
    int64 of shape (examples,) and index them, or of shape (examples, *positions) with a label per position, -100
    where a position does not count; with `classes=None` targets are float32 of shape (examples,) or
    (examples, *outputs).  `size` is N where it is more than the examples held (a sample of a
    larger set), and `repeats` how often each of them is there, as by several draws of its code, of which N counts one;
    validation and test may be empty.  `train_teacher` holds float32 outputs of a teacher on the training
    inputs, in the form that the model takes (`models.teaching`); where inputs are drawn anew in every batch it is `ask`
    that gives them, of the inputs as they were drawn.  With a `binarisation` inputs and targets are drawn
    from probabilities, see `binarised`.  With `partly_labelled` a training label may be missing, -1.  With an
    `augmentation` training images are changed at random, see `augmented`.  Raises DataError where parts don't fit
    together, a label has no class, or a value is NaN or infinite.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...] | None
    size: int | None = None
    train_teacher: Tensor | None = None
    binarisation: Binarisation | None = None
    partly_labelled: bool = False
    augmentation: Augmentation | None = None
    ask: Ask | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if len(self.train_x) == 0:
            raise DataError(f"{self.name}: there are no training examples")
        if self.size is not None and self.size < self._given:
            raise DataError(
                f"{self.name}: N = {self.size} is less than the {self._given} training examples given; "
                "N counts the whole training set, not a batch"
            )
        for part, x, y in self._parts():
            least = UNLABELLED if self.partly_labelled and part == "train" else 0
            if x.dtype != self.train_x.dtype:
                raise DataError(f"{self.name}: {part}: inputs are {x.dtype}, the training inputs {self.train_x.dtype}")
            _check_part(f"{self.name}: {part}", x, y, self.input_shape, self.train_y.shape[1:], self.classes, least)
        if self.partly_labelled and self.classes is None:
            raise DataError(f"{self.name}: only class labels can be missing in part, and the targets are real numbers")
        if self.train_teacher is not None:
            shape = self.train_teacher.shape[1:]
            _check_part(f"{self.name}: teacher", self.train_x, self.train_teacher, self.input_shape, shape, None)
        if self.augmentation is not None:
            positions = () if self.classes is None else tuple(self.train_y.shape[1:])
            self.augmentation.check(self.train_x, self.name, positions)
        if self.train_teacher is not None and (self.drawn_anew or self.ask is not None):
            raise DataError(
                f"{self.name}: the teacher's outputs are of the training inputs as they are, and these are drawn anew "
                "in every batch: give data without a teacher to augmented(...) or binarised(...), and then the teacher "
                "itself to with_teacher(...), which asks it about every batch"
            )

    def _parts(self) -> list[tuple[Part, Tensor, Tensor]]:
        return [
            ("train", self.train_x, self.train_y),
            ("validation", self.validation_x, self.validation_y),
            ("test", self.test_x, self.test_y),
        ]

    @property
    def N(self) -> int:
        """The number of training examples that the likelihood is scaled to."""
        return self._given if self.size is None else self.size

    @property
    def _given(self) -> int:
        return -(-len(self.train_x) // self.repeats)

    @property
    def drawn_anew(self) -> bool:
        """Whether training inputs are others in every batch: augmented, or dynamically binarised."""
        return self.augmentation is not None or self.binarised_anew is not None

    @property
    def binarised_anew(self) -> Binarisation | None:
        """What training inputs are drawn by in every batch; None where they are not binarised, or once for all."""
        return self.binarisation if self.binarisation is not None and self.binarisation.is_dynamic else None

    @cached_property
    def reconstructs(self) -> bool:
        """Whether training targets are the inputs, as `reconstructing` makes them, and stay that where these change."""
        x, y = self.train_x, self.train_y
        return self.classes is None and y.numel() == x.numel() and torch.equal(x.reshape(y.shape), y)

    def drawn(self, x: Tensor, y: Tensor, *stream: int) -> tuple[Tensor, Tensor]:
        """A batch of training examples as whoever trains sees it: inputs augmented and binarised, and targets.

        Args:
            x, y: inputs and targets.
            stream: whole numbers that the draws depend on, and on nothing else: seed, epoch, number of the batch.
        """
        if self.augmentation is not None:
            x = self.augmentation.draw(x, *stream)
        if self.binarised_anew is not None:
            x = self.binarised_anew.draw(x, *stream)
            y = x.reshape(y.shape) if self.reconstructs else y
        return x, y

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, for example (1, 28, 28)."""
        return tuple(self.train_x.shape[1:])

    def part(self, name: Part) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one part; raises DataError where that part is empty."""
        x, y = {part: (x, y) for part, x, y in self._parts()}[name]
        if len(x) == 0:
            raise DataError(f"{self.name}: there are no {name} examples; give {name}= with the data")
        return x, y

    def binarised(self, kind: str, *, seed: int = 0) -> "DataSet":
        """The same with zeros and ones drawn for inputs in 0..1, each the probability of a 1.

        Args:
            kind: 'static' draws all parts once, 'dynamic' draws validation and test once and training examples anew
                each time that a fit sees them (Salakhutdinov & Murray 2008; Burda et al. 2016), `train_x` keeps the
                probabilities.  The name says which, since figures of one do not compare with those of another.
            seed: of the draws.

        Raises:
            DataError: no such binarisation, inputs that are no probabilities, or data that are binarised already.
        """
        drawing = Binarisation(kind, seed)
        if self.binarisation is not None:
            raise DataError(f"{self.name}: it is binarised already: binarise the data that it was made of")
        made: dict[str, Any] = {}
        for number, (part, x, _) in enumerate(self._parts()):
            drawing.check(x, f"{self.name}: {part}")
            if part != "train" or not drawing.is_dynamic:
                made[f"{part}_x"] = drawing.draw(x, number)
        return replace(self, **made, name=f"{self.name}, {kind} binarisation {seed}", binarisation=drawing)

    def augmented(self, **options: Any) -> "DataSet":
        """The same with training images changed at random each time that they are trained on; N stays as it is.

        Args:
            options: of `data.augmentation.Augmentation`: rotate, scale, shift, flip, cutout, transform.

        Raises:
            DataError: no such option, examples that are no images, or a transform that does not keep their shape.
        """
        augmentation = build(Augmentation, "augmentation", options, DataError)
        name = f"{self.name}, augmented by {augmentation}" if augmentation else self.name
        return replace(self, augmentation=augmentation or None, name=name)

    def reconstructing(self, binarisation: str | None = None, *, seed: int = 0) -> "DataSet":
        """The same inputs as their own targets, (examples, numbers of one input), without classes and teacher.

        Args:
            binarisation: as `kind` of `binarised`, or None, which leaves the inputs as they are.
            seed: of the draws.

        Raises:
            DataError: as of `binarised`.
        """
        drawn = self if binarisation is None else self.binarised(binarisation, seed=seed)
        made: dict[str, Any] = {f"{part}_y": x.flatten(1) for part, x, _ in drawn._parts()}
        made |= {"name": f"{drawn.name}, reconstructed", "classes": None, "partly_labelled": False}
        return replace(drawn, **made, train_teacher=None, ask=None)

    def with_labels(self, count: int, *, seed: int = 0) -> "DataSet":
        """The same with the labels of `count` training examples, as many of each class; those of the others are -1.

        Args:
            count: a multiple of the number of classes.
            seed: of the draw.

        Raises:
            DataError: the data have no classes, or the labels cannot be shared out so.
        """
        if self.classes is None:
            raise DataError(f"{self.name}: the targets are no class labels, of which some could be kept")
        kept = labels_kept(self.train_y, len(self.classes), count, seed, self.name)
        return replace(self, train_y=kept, name=f"{self.name}, {count} labels {seed}", partly_labelled=True)

    def labelled(self) -> "DataSet":
        """The same with those training examples alone whose label is known, and N their number."""
        if not self.partly_labelled:
            return self
        known = self.train_y != UNLABELLED
        teacher = None if self.train_teacher is None else self.train_teacher[known]
        made: dict[str, Any] = {"train_x": self.train_x[known], "train_y": self.train_y[known], "size": None}
        return replace(self, **made, train_teacher=teacher, partly_labelled=False)

    def taught(self, outputs: Tensor) -> "DataSet":
        """The same with a teacher's outputs, a row per training example."""
        return replace(self, train_teacher=outputs.to(self.train_x.device, torch.float32), ask=None)

    def taught_by(self, ask: Ask) -> "DataSet":
        """The same with a teacher that is asked about every batch."""
        return replace(self, train_teacher=None, ask=ask)

    def on(self, device: str | torch.device) -> "DataSet":
        """The same with all three parts on a device; itself where they are there already."""
        names = ["train_x", "train_y", "validation_x", "validation_y", "test_x", "test_y"]
        names += [] if self.train_teacher is None else ["train_teacher"]
        moved = {name: getattr(self, name).to(device) for name in names}
        # made anew they would be checked anew
        return self if all(moved[name] is getattr(self, name) for name in names) else replace(self, **moved)

    @property
    def description(self) -> dict[str, Any]:
        """What a report says about the data: name, sizes, shapes and classes; plain JSON values."""
        return {
            "name": self.name,
            "N": self.N,
            "train_examples": len(self.train_x),
            "validation_examples": len(self.validation_x),
            "test_examples": len(self.test_x),
            "input_shape": list(self.input_shape),
            "classes": None if self.classes is None else list(self.classes),
            **({} if self.binarisation is None else {"binarisation": self.binarisation.kind}),
            **({} if self.augmentation is None else {"augmentation": str(self.augmentation)}),
        }


def _check_part(
    where: str,
    x: Tensor,
    y: Tensor,
    input_shape: tuple[int, ...],
    target_shape: torch.Size,
    classes: tuple[str, ...] | None,
    least: int = 0,
) -> None:
    """Raise DataError unless this part's shapes, types and values are what a DataSet promises; `least` of labels."""
    if len(x) != len(y):
        raise DataError(f"{where}: {len(x)} inputs {tuple(x.shape)} but {len(y)} targets {tuple(y.shape)}")
    if tuple(x.shape[1:]) != input_shape:
        raise DataError(f"{where}: inputs of shape {tuple(x.shape[1:])}, the training inputs have {input_shape}")
    if y.shape[1:] != target_shape:
        raise DataError(f"{where}: targets of shape {tuple(y.shape[1:])}, the training ones have {tuple(target_shape)}")
    for what, values, dtype in (
        ("inputs", x, torch.int64 if x.dtype == torch.int64 else torch.float32),
        ("targets", y, torch.float32 if classes is None else torch.int64),
    ):
        if values.dtype != dtype:
            raise DataError(f"{where}: {what} are {values.dtype}, expected {dtype}")
        refuse_non_finite(values, f"{where}: {what}")
    if x.dtype == torch.int64 and x.numel() and int(x.min()) < 0:
        raise DataError(f"{where}: inputs of the type int64 are tokens, counted from 0, found {int(x.min())}")
    if classes is None:
        return
    if y.ndim != 1 and y.shape[1:].numel() == 1:
        raise DataError(
            f"{where}: class labels of shape {tuple(y.shape)}, expected one number per example ({len(y)},); "
            f"{WHOLE_NUMBERS}"
        )
    wrong = (y < least) | (y >= len(classes))
    if y.ndim > 1:
        wrong &= y != IGNORED
    outside = y[wrong]
    if len(outside):
        said = f"{where}: label {int(outside[0])} is outside 0..{len(classes) - 1} ({len(classes)} classes)"
        raise DataError(f"{said}; {WHOLE_NUMBERS}" if int(outside[0]) < 0 else said)


def refuse_non_finite(values: Tensor, what: str) -> None:
    """Raise DataError that says the first place in `values`, which are `what`, that holds NaN or is infinite."""
    seen = 0
    for rows in pieces(values):
        # the extremes say it without a copy of rows that may be large
        if rows.numel() and not all(torch.isfinite(extreme) for extreme in torch.aminmax(rows)):
            row, *rest = torch.nonzero(~torch.isfinite(rows))[0].tolist()
            raise DataError(
                f"{what} hold {rows[(row, *rest)].item()} at index {(seen + row, *rest)}; remove or replace it"
            )
        seen += len(rows)
