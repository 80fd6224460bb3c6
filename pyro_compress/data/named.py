"""Data sets by name, and by `module:factory`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_compress.config.factories import call_factory
from pyro_compress.data import characters, files, scenes, survival, tables
from pyro_compress.data.archives import read_archive
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.splits import SPLIT_SEED, count_held_out, stratified_split
from pyro_compress.errors import DataError, unknown_name


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int | float | None = None,
    split_seed: int = SPLIT_SEED,
    download: bool = True,
) -> DataSet:
    """A data set by its name (`NAMES`), from a `.npz` file (`archives`), or by `module:factory`.

    Pixels are scaled to 0..1 and not normalised further; what rossi and gbsg are says `survival`, diamonds and
    electricity `tables`, digit-scenes `scenes`, and python-topics `characters`.  `data_dir` is where
    files are looked for: by default the folder named by PYRO_COMPRESS_DATA, else `~/.cache/pyro-compress`; missing
    files are downloaded there unless `download` is false.  `validation` is the number or the share of training
    examples held out (default 187 for digits, 60 for rossi, 300 for gbsg, 5,000 for the others; some sets come with
    their own).  Raises DataError.
    """
    # a path may have a colon, and no function's name ends like that
    if name.endswith(".npz"):
        found = {"validation": 0.1 if validation is None else validation, "split_seed": split_seed}
        return as_data(**found | read_archive(Path(name)))
    if ":" in name:
        return from_factory(name, validation=0.1 if validation is None else validation, split_seed=split_seed)
    if name in survival.READERS:
        return _survival(name, validation, split_seed)
    if name in _MADE:
        return _MADE[name](validation, split_seed)
    if name not in _READERS:
        raise DataError(unknown_name("data set", name, NAMES))
    default_validation, classes, reader = _READERS[name]
    raw = reader(files.data_folder(data_dir), download)
    labels = torch.from_numpy(raw.train_y.astype(np.int64))
    count = count_held_out(default_validation if validation is None else validation, len(labels), name)
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
    count = count_held_out(default_validation if validation is None else validation, len(y), name)
    rest, part = stratified_split(y[:, 1].long(), count, split_seed)
    mean, sd = x[rest].mean(0), x[rest].std(0)

    def part_of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return ((x - mean) / sd).float(), y.float()

    return DataSet(name, *part_of(x[rest], y[rest]), *part_of(x[part], y[part]), *part_of(*test), classes=None)


def from_factory(spec: str, *, validation: int | float = 0.1, split_seed: int = SPLIT_SEED) -> DataSet:
    """The data that `module:factory` returns: a DataSet, what `as_data` takes, or a dict of its arguments.

    A dict has `train` and may have `validation`, `test`, `N`, `name`, `classes` and `on_disk`.  Where no validation
    examples come with it, the number or share `validation` of the training examples is held out.
    """
    made = call_factory(spec, "--data", DataError)
    if isinstance(made, DataSet):
        return made
    arguments = dict(made) if isinstance(made, Mapping) else {"train": made}
    known = {"train", "validation", "test", "N", "name", "classes", "on_disk"}
    if "train" not in arguments or not set(arguments) <= known:
        raise DataError(
            f"--data {spec}: the dict has the keys {', '.join(map(repr, arguments))}; "
            f"'train' is needed, the others known are {', '.join(sorted(known - {'train'}))}"
        )
    return as_data(**({"validation": validation, "name": spec, "split_seed": split_seed} | arguments))


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
_MADE: dict[str, Callable[[int | float | None, int], DataSet]] = {
    "diamonds": tables.diamonds,
    "electricity": tables.electricity,
    "digit-scenes": lambda validation, split_seed: scenes.digit_scenes(
        load("digits", split_seed=split_seed), validation
    ),
    "python-topics": lambda validation, _: characters.python_topics(validation),
}
NAMES = (*_READERS, *survival.READERS, *_MADE)
"""The data sets that `load` knows by name."""
