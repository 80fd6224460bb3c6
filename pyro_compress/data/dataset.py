"""Data sets in memory: named ones, the user's own, and the shuffled batches that training reads.

A `DataSet` holds three parts.  `train` is what the posterior is fitted to, `validation` is what thresholds
and steps are chosen on, `test` is what results are measured on and nothing else.  Validation is a random,
stratified share of the TRAINING data, drawn with a seed of its own, so that it is the same for every run.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_compress.config.factories import call_factory
from pyro_compress.config.keyword_options import build, whole_number
from pyro_compress.data import files, survival
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.data.binarisation import Binarisation
from pyro_compress.data.generators import generator_for
from pyro_compress.data.labels import UNLABELLED, labels_kept
from pyro_compress.data.sources import Examples, class_names, count_among, first_like, pair_of, read_examples
from pyro_compress.errors import DataError, unknown_name

SPLIT_SEED = 20180117
"""Seed of the train/validation split unless another is given; no run's own seed enters it."""

LEAST_DIFFERENT = 5
"""Copies are kept on one side of a split that then holds out at least so many different examples."""

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs and targets in memory, checked once.

    Inputs are float32 of shape (examples, *input_shape).  With `classes` (the classes' names) targets are
    int64 of shape (examples,) and index them; with `classes=None` targets are float32 of shape
    (examples,) or (examples, outputs).  `size` is N where it is more than the examples held (a sample of a
    larger set); validation and test may be empty.  `train_teacher` holds float32 outputs of a teacher on the training
    inputs, in the form that the model takes (`models.teaching`).  With a `binarisation` inputs and targets are drawn
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

    def __post_init__(self) -> None:
        if len(self.train_x) == 0:
            raise DataError(f"{self.name}: there are no training examples")
        if self.size is not None and self.size < len(self.train_x):
            raise DataError(
                f"{self.name}: N = {self.size} is less than the {len(self.train_x)} training examples given; "
                "N counts the whole training set, not a batch"
            )
        for part, x, y in self._parts():
            least = UNLABELLED if self.partly_labelled and part == "train" else 0
            _check_part(f"{self.name}: {part}", x, y, self.input_shape, self.train_y.shape[1:], self.classes, least)
        if self.partly_labelled and self.classes is None:
            raise DataError(f"{self.name}: only class labels can be missing in part, and the targets are real numbers")
        if self.train_teacher is not None:
            shape = self.train_teacher.shape[1:]
            _check_part(f"{self.name}: teacher", self.train_x, self.train_teacher, self.input_shape, shape, None)
        if self.augmentation is not None:
            self.augmentation.check(self.input_shape, self.name)
            if self.train_teacher is not None:
                raise DataError(
                    f"{self.name}: a teacher has seen the training images as they are, and augmentation changes them "
                    "each time: leave out one of the two"
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
        return len(self.train_x) if self.size is None else self.size

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
            options: of `data.augmentation.Augmentation`: rotate, scale, shift, flip, cutout.

        Raises:
            DataError: no such option, or examples that are no images.
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
        return replace(drawn, **made, train_teacher=None)

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
        return replace(self, train_teacher=outputs.to(self.train_x))

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


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int | float | None = None,
    split_seed: int = SPLIT_SEED,
    download: bool = True,
) -> DataSet:
    """A data set by its name (digits, mnist, fashion-mnist, cifar10; rossi, gbsg) or by `module:factory`.

    Pixels are scaled to 0..1 and not normalised further; `survival` says what the last two are.  `data_dir` is where
    files are looked for: by default the folder named by PYRO_COMPRESS_DATA, else `~/.cache/pyro-compress`; missing
    files are downloaded there unless `download` is false.  `validation` is the number or the share of training
    examples held out (default 187 for digits, 60 for rossi, 300 for gbsg, 5,000 for the others).  Raises DataError.
    """
    if ":" in name:
        return from_factory(name, validation=0.1 if validation is None else validation, split_seed=split_seed)
    if name in survival.READERS:
        return _survival(name, validation, split_seed)
    if name not in _READERS:
        raise DataError(unknown_name("data set", name, NAMES))
    default_validation, classes, reader = _READERS[name]
    raw = reader(files.data_folder(data_dir), download)
    labels = torch.from_numpy(raw.train_y.astype(np.int64))
    count = _count(default_validation if validation is None else validation, len(labels), name)
    rest, part = stratified_split(labels, count, split_seed)
    scale = 16.0 if name == "digits" else 255.0

    def pixels(images: files.Bytes) -> Tensor:
        return torch.from_numpy(images.astype(np.float32)).div_(scale)

    # chosen as bytes and scaled then: a quarter of the memory to copy
    train_x, validation_x = (pixels(raw.train_x[chosen.numpy()]) for chosen in (rest, part))
    test_y = torch.from_numpy(raw.test_y.astype(np.int64))
    return DataSet(name, train_x, labels[rest], validation_x, labels[part], pixels(raw.test_x), test_y, classes=classes)


def _survival(name: str, validation: int | float | None, split_seed: int) -> DataSet:
    """A table of times and events: every part has its share of events, covariates are standardised by training's.

    A fifth is the test part where the table has none of its own.
    """
    default_validation, reader = survival.READERS[name]
    table = reader()
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y)
    if table.test is None:
        rest, part = stratified_split(y[:, 1].long(), len(y) // 5, SPLIT_SEED)
        (x, y), test = (x[rest], y[rest]), (x[part], y[part])
    else:
        test = torch.from_numpy(table.test[0]), torch.from_numpy(table.test[1])
    count = _count(default_validation if validation is None else validation, len(y), name)
    rest, part = stratified_split(y[:, 1].long(), count, split_seed)
    mean, sd = x[rest].mean(0), x[rest].std(0)

    def part_of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ((x - mean) / sd).float(), y.float()

    return DataSet(name, *part_of(x[rest], y[rest]), *part_of(x[part], y[part]), *part_of(*test), classes=None)


def from_factory(spec: str, *, validation: int | float = 0.1, split_seed: int = SPLIT_SEED) -> DataSet:
    """The data that `module:factory` returns: a DataSet, what `as_data` takes, or a dict of its arguments.

    A dict has `train` and may have `validation`, `test`, `N`, `name` and `classes`.  Where no validation
    examples come with it, the number or share `validation` of the training examples is held out.
    """
    made = call_factory(spec, "--data", DataError)
    if isinstance(made, DataSet):
        return made
    arguments = dict(made) if isinstance(made, Mapping) else {"train": made}
    known = {"train", "validation", "test", "N", "name", "classes"}
    if "train" not in arguments or not set(arguments) <= known:
        raise DataError(
            f"--data {spec}: the dict has the keys {', '.join(map(repr, arguments))}; "
            f"'train' is needed, the others known are {', '.join(sorted(known - {'train'}))}"
        )
    return as_data(**({"validation": validation, "name": spec, "split_seed": split_seed} | arguments))


def as_data(
    train: DataSet | Examples,
    *,
    validation: Examples | int | float | None = None,
    test: Examples | None = None,
    N: int | None = None,
    name: str = "user data",
    classes: tuple[str, ...] | list[str] | int | None = None,
    split_seed: int = SPLIT_SEED,
    partly_labelled: bool = False,
) -> DataSet:
    """A `DataSet` of the user's own tensors, arrays, Dataset or DataLoader, read into memory once.

    `validation` is examples, or a number or share (0..1) of the training examples to hold out at random,
    stratified by class.  `N` is the size of the whole training set where `train` (after the split) is only
    a sample of it.  Integer targets are class labels (`classes`: names or their number, by default one more
    than the largest label), real ones are regression targets.  Inputs become float32 as they are, without scaling.
    A DataLoader that shuffles is read in the order of its Dataset, and so is one that repeats examples, each once.
    Copies, examples of the same input and target, are held out or trained on together; where too few different ones
    are left for that, or the parts that were given share examples, a warning says how many.  A DataSet is returned
    unchanged.  A third tensor in `train` is a teacher's outputs, such as class probabilities; those of examples that
    are held out are left out.  With `partly_labelled` a training label of -1 is one that is missing, and validation
    examples, whose labels are known, come with the data.
    """
    if isinstance(train, DataSet):
        if validation is not None or test is not None or N is not None or classes is not None:
            raise DataError(f"{train.name}: a DataSet holds its own parts: give validation, test, N and classes to it")
        return train
    N = None if N is None else whole_number(N, f"{name}: N", DataError, least=1)
    x, y, *rest = read_examples(train, f"{name}: train", most=3)
    teacher = rest[0].to(torch.float32) if rest else None
    empty = (x[:0], y[:0])
    held_out = empty
    if isinstance(validation, Real):
        if partly_labelled:
            raise DataError(
                f"{name}: examples to hold out must have labels, of which these lack some: give validation=(x, y)"
            )
        left, part = _split_without_copies(x, y, _count(validation, len(y), name), split_seed)
        (x, y), held_out = (x[left], y[left]), (x[part], y[part])
        teacher = None if teacher is None else teacher[left]
    elif validation is not None:
        held_out = pair_of(validation, f"{name}: validation")
    tested = empty if test is None else pair_of(test, f"{name}: test")
    for kind, examples in (("validation", held_out), ("test", tested)):
        shared = count_among(examples, (x, y)) if len(examples[0]) else 0
        if shared:
            warnings.warn(
                f"{name}: {shared:,} of {len(examples[0]):,} {kind} examples are training examples too (the same input "
                "and target): what is measured on them is too good; leave the copies out of one of the two",
                stacklevel=2,
            )
    names = class_names(classes, y, held_out[1], tested[1])
    return DataSet(
        name,
        *(x, y, *held_out, *tested),
        classes=names,
        size=N,
        train_teacher=teacher,
        partly_labelled=partly_labelled,
    )


def _split_without_copies(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`stratified_split` with copies of an example on one side, where enough different ones are held out even so."""
    first = first_like(x, y)
    different, group = torch.unique(first, return_inverse=True)
    held = round(count * len(different) / len(y))
    if len(different) == len(y) or held < LEAST_DIFFERENT:
        return stratified_split(y, count, seed)
    _, chosen = stratified_split(y[different], held, seed)
    taken = torch.zeros(len(different), dtype=torch.bool).index_fill_(0, chosen, True)[group]
    return torch.nonzero(~taken).flatten(), torch.nonzero(taken).flatten()


def stratified_split(y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of all examples but `count`, and of those `count`, both ascending.

    Drawn at random with `seed` alone.  For integer labels each class gives its share of `count`, to within
    one example; for real targets all examples are one class.
    """
    if not 0 <= count < len(y):
        raise DataError(f"can't hold out {count} of {len(y)} examples: some must stay for training")
    generator = generator_for(seed)
    labels = y.cpu() if y.ndim == 1 and not y.is_floating_point() else torch.zeros(len(y), dtype=torch.int64)
    members = [torch.nonzero(labels == label).flatten() for label in torch.unique(labels)]
    shares = [count * len(indices) / len(y) for indices in members]
    quotas = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: quotas[i] - shares[i])
    for i in by_remainder[: count - sum(quotas)]:
        quotas[i] += 1
    taken = torch.zeros(len(y), dtype=torch.bool)
    for indices, quota in zip(members, quotas, strict=True):
        taken[indices[torch.randperm(len(indices), generator=generator, device="cpu")[:quota]]] = True
    return torch.nonzero(~taken).flatten(), torch.nonzero(taken).flatten()


def batches(x: Tensor, y: Tensor, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches (x, y) of `size` examples; the last one holds what is left (`batch_sizes`).

    The order depends on (seed, epoch) alone, so a run resumed at an epoch sees the batches it would have seen.
    """
    if size < 1:
        raise DataError(f"the batch size is {size}; it must be at least 1")
    if len(x) != len(y):
        raise DataError(f"batches of {len(x)} inputs {tuple(x.shape)} with {len(y)} targets {tuple(y.shape)}")
    order = torch.randperm(len(x), generator=generator_for(seed, epoch), device="cpu").to(x.device)
    return ((x[chosen], y[chosen]) for chosen in order.split(batch_sizes(len(x), size)))


def batch_sizes(examples: int, size: int) -> list[int]:
    """Of one epoch's batches: `size` each, and what is left; a single example that is left joins the batch before.

    Batch norm cannot normalise one example, and its gradient is the noisiest there is.
    """
    count = number_of_batches(examples, size)
    return [*[size] * (count - 1), examples - (count - 1) * size]


def number_of_batches(examples: int, size: int) -> int:
    """How many `batch_sizes` are; 1 without examples."""
    full, left = divmod(examples, size)
    return max(1, full + (left > 1))


def _read_digits(_root: Path, _download: bool) -> files.RawImages:
    """The 1,797 digits of 8x8 pixels (0..16) that come with scikit-learn, 360 of them for test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = images.astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.uint8)
    train, test = (part.numpy() for part in stratified_split(torch.from_numpy(y), 360, SPLIT_SEED))
    return files.RawImages(x[train], y[train], x[test], y[test])


_Reader: TypeAlias = Callable[[Path, bool], files.RawImages]
_TEN_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_READERS: dict[str, tuple[int, tuple[str, ...], _Reader]] = {
    "digits": (187, _TEN_DIGITS, _read_digits),
    "mnist": (5000, _TEN_DIGITS, files.read_mnist),
    "fashion-mnist": (5000, _FASHION, files.read_fashion_mnist),
    "cifar10": (5000, _CIFAR10, files.read_cifar10),
}
NAMES = (*_READERS, *survival.READERS)
"""The data sets that `load` knows by name."""


def _count(validation: Any, examples: int, name: str) -> int:
    """How many examples an absolute number or a share asks for."""
    if isinstance(validation, float | np.floating):
        if not 0.0 <= validation < 1.0:
            raise DataError(f"{name}: validation = {validation} is no share of the training data; it lies in [0, 1)")
        return round(validation * examples)
    return whole_number(validation, f"{name}: validation", DataError, least=0)


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
        ("inputs", x, torch.float32),
        ("targets", y, torch.float32 if classes is None else torch.int64),
    ):
        if values.dtype != dtype:
            raise DataError(f"{where}: {what} are {values.dtype}, expected {dtype}")
        finite = torch.isfinite(values)
        if not finite.all():
            bad = torch.nonzero(~finite)[0].tolist()
            raise DataError(
                f"{where}: {what} hold {values[tuple(bad)].item()} at index {tuple(bad)}; remove or replace it"
            )
    if classes is None:
        return
    if y.ndim != 1:
        raise DataError(f"{where}: class labels of shape {tuple(y.shape)}, expected one number per example ({len(y)},)")
    outside = y[(y < least) | (y >= len(classes))]
    if len(outside):
        raise DataError(f"{where}: label {int(outside[0])} is outside 0..{len(classes) - 1} ({len(classes)} classes)")
