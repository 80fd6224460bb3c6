"""The user's own examples: tensors, a torch Dataset or a DataLoader, read once, into memory or onto a disk."""

import copy
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_compress.data.on_disk import ROWS_AT_ONCE, Column
from pyro_compress.errors import DataError, warn

Examples: TypeAlias = Union[tuple[Any, ...], "Dataset[Any]", "DataLoader[Any]"]
"""What a user may give: tensors or arrays (x, y), a Dataset of (x, y) pairs, or a DataLoader of (x, y) batches."""


# more are ids of something, and each would have a name
MOST_CLASSES = 1_000_000
WHOLE_NUMBERS = "whole numbers are class labels: give counts, or what else is no label, as y.float()"
_WORDS = {2: "(x, y)", 3: "(x, y) or (x, y, teacher)"}


Folder: TypeAlias = str | os.PathLike[str] | None
"""Where examples are kept: on a disk, or in memory."""


def pair_of(source: Any, where: str, on_disk: Folder = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets, as `read_examples` reads them."""
    x, y = read_examples(source, where, on_disk=on_disk)
    return x, y


def read_examples(source: Any, where: str, most: int = 2, on_disk: Folder = None) -> tuple[Tensor, ...]:
    """Inputs (`as_inputs`) and targets (int64 or float32) from anything in `Examples`; up to `most` tensors in all.

    With a folder `on_disk` they are written there batch by batch, and mapped.
    """
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, Dataset | DataLoader):
        source = _drain(source, where, most, on_disk)
    elif isinstance(source, tuple | list):
        given = tuple(_as_array(part, where) for part in source)
        source = tuple(map(_as_tensor, given) if on_disk is None else _written(given, where, on_disk))
    if not (
        isinstance(source, tuple | list) and 2 <= len(source) <= most and all(isinstance(t, Tensor) for t in source)
    ):
        words = [_words(part) for part in source] if isinstance(source, tuple | list) else []
        if any(words):
            raise DataError(
                f"{where}: {'inputs' if words[0] else 'targets'} are not all numbers but hold such as "
                f"{next(word for word in words if word)!r}: number the classes from 0, and encode what else is text"
            )
        raise DataError(
            f"{where}: expected tensors or arrays {_WORDS[most]}, a torch Dataset or a DataLoader of such pairs; found "
            f"{_kind(source)}"
        )
    x, *targets = (tensor.detach() for tensor in source)
    for y in targets:
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise DataError(
                f"{where}: inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} "
                "don't hold the same number of examples along their first axis"
            )
        _refuse_complex(where, x, y)
        _refuse_sparse(where, x, y)
    return as_inputs(x), *(as_targets(y) for y in targets)


def _refuse_complex(where: str, *values: Tensor) -> None:
    if any(part.is_complex() for part in values):
        raise DataError(f"{where}: complex values; inputs and targets are real")


def _refuse_sparse(where: str, *values: Tensor) -> None:
    for part in values:
        if part.layout != torch.strided:
            kind = str(part.layout).removeprefix("torch.")
            raise DataError(f"{where}: a tensor is {kind}, expected dense ones: give its to_dense()")


def as_inputs(x: Tensor) -> Tensor:
    """Tokens, int64, as they are; numbers of any other type as float32."""
    return x if x.dtype == torch.int64 else x.to(torch.float32)


def as_targets(y: Tensor) -> Tensor:
    """Real numbers as float32, all others as int64."""
    return y.to(torch.float32 if y.is_floating_point() else torch.int64)


def _drain(source: Any, where: str, most: int, on_disk: Folder) -> tuple[Tensor, ...]:
    """All batches of a Dataset or DataLoader, joined; the caller's random state is left as it was."""
    parts: list[tuple[Tensor, ...]] = []
    columns: list[Column] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # random transforms are drawn once, the same in every run
        try:
            loader = (
                _each_once(source, where) if isinstance(source, DataLoader) else DataLoader(source, batch_size=1024)
            )
            for masked, batch in _with_masks(loader):
                _refuse_masked(where, *masked)
                several = isinstance(batch, tuple | list) and 2 <= len(batch) <= most
                if not (several and all(torch.is_tensor(t) for t in batch)):
                    raise DataError(
                        f"{where}: examples must be pairs {_WORDS[most]} of tensors or numbers, found {_kind(batch)}"
                    )
                batch = [unmasked(part, where) for part in batch]
                if on_disk is None:
                    parts.append(tuple(batch))
                    continue
                columns = columns or [Column(on_disk) for _ in batch]
                for place, (column, rows) in enumerate(zip(columns, batch, strict=True)):
                    column.append(_as_kept(rows, place, where))
            if columns:
                return tuple(column.tensor() for column in columns)
            if not parts:
                raise DataError(f"{where}: the {type(source).__name__} holds no examples")
            return tuple(torch.cat(column) for column in zip(*parts, strict=True))
        except (RuntimeError, TypeError, ValueError) as failure:
            reason = " ".join(str(failure).split())
            raise DataError(
                f"{where}: the examples of {type(source).__name__} can't be read into one tensor: {reason}"
            ) from failure


class _WithMasks:
    """Joins examples as `collate` does, and counts before what they mask, of which it would take the numbers."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, examples: Any) -> tuple[tuple[int, int], Any]:
        found = (_masked(leaf) for leaf in tree_leaves(examples))
        first = next((each for each in found if each[0]), (0, 0))
        return first, None if first[0] else self.collate(examples)


def _with_masks(loader: "DataLoader[Any]") -> "DataLoader[Any]":
    """One that gives every batch behind how many numbers one of its examples masks, and of how many."""
    # the user's own stays as it is
    again = copy.copy(loader)
    again.collate_fn = _WithMasks(loader.collate_fn)
    return again


def _each_once(loader: "DataLoader[Any]", where: str) -> "DataLoader[Any]":
    """One that reads every example once: in the order of the Dataset where the loader shuffles or repeats."""
    if isinstance(loader.dataset, IterableDataset):
        return loader
    sampler: Any = loader.sampler
    size = loader.batch_size
    draws_all = isinstance(sampler, RandomSampler) and len(sampler) == len(sampler.data_source)
    if draws_all and not sampler.replacement:
        return DataLoader(loader.dataset, batch_size=size or 1024, collate_fn=loader.collate_fn)
    generators = [g for g in (loader.generator, getattr(sampler, "generator", None)) if g is not None]
    before = [generator.get_state() for generator in generators]
    in_batches = loader.batch_sampler is not None
    drawn: list[Any] = list(loader.batch_sampler if in_batches else sampler)  # type: ignore[arg-type]
    for generator, state in zip(generators, before, strict=True):
        generator.set_state(state)
    indices = [index for batch in drawn for index in batch] if in_batches else drawn
    try:
        different = set(indices)
    except TypeError:  # such as tensors of indices: rows are compared where they are split
        return loader
    if len(different) == len(indices):
        if in_batches:
            return DataLoader(loader.dataset, batch_sampler=drawn, collate_fn=loader.collate_fn)
        return DataLoader(loader.dataset, batch_size=None, sampler=drawn, collate_fn=loader.collate_fn)
    once = _drawn_from(sampler, different)
    warn(
        f"{where}: the DataLoader draws {len(indices):,} times from {len(once):,} examples; each of them is read once, "
        "in the order of the Dataset: a copy is no new example, and must not be held out from itself"
    )
    return DataLoader(
        loader.dataset, batch_size=size or (1024 if in_batches else None), sampler=once, collate_fn=loader.collate_fn
    )


def _drawn_from(sampler: Any, drawn: set[Any]) -> Sequence[Any]:
    """Every index that the sampler may give, where that can be known; else those that it gave."""
    if isinstance(sampler, WeightedRandomSampler):
        return torch.nonzero(torch.as_tensor(sampler.weights) > 0).flatten().tolist()
    if isinstance(sampler, RandomSampler):
        return range(len(sampler.data_source))
    return sorted(drawn)


def first_like(x: Tensor, y: Tensor) -> Tensor:
    """(examples,): of every example the number of the first that has the same input and target."""
    seen: dict[int, int] = {}
    return torch.tensor([seen.setdefault(key, i) for i, key in enumerate(_keys(x, y))], dtype=torch.int64)


def count_among(part: tuple[Tensor, Tensor], among: tuple[Tensor, Tensor]) -> int:
    """How many examples of `part` are found in `among`, input and target."""
    known = set(_keys(*among))
    return sum(key in known for key in _keys(*part))


def _keys(x: Tensor, y: Tensor) -> list[int]:
    columns = [t.detach().cpu().contiguous().numpy().reshape(len(t), math.prod(t.shape[1:])) for t in (x, y)]
    return [hash((a.tobytes(), b.tobytes())) for a, b in zip(*columns, strict=True)]


def as_numbers(value: Any, where: str) -> Any:
    """An array, or what says what it holds as one, as a tensor; all else as it is.

    Raises:
        DataError: an entry is masked, or a tensor is sparse.
    """
    return _as_tensor(_as_array(value, where))


def unmasked(value: Any, where: str) -> Any:
    """The numbers of a masked array or tensor none of which is masked; all else as it is.

    Raises:
        DataError: one is.
    """
    _refuse_masked(where, *_masked(value))
    return value.get_data() if isinstance(value, MaskedTensor) else value


def _masked(value: Any) -> tuple[int, int]:
    """How many numbers are masked, and of how many."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.count_masked(value)), value.size
    if isinstance(value, MaskedTensor):
        return int((~value.get_mask()).sum()), value.numel()
    return 0, 0


def _refuse_masked(where: str, masked: int, count: int) -> None:
    if masked:
        raise DataError(
            f"{where}: an array masks {masked:,} of its {count:,} numbers, expected numbers everywhere: fill "
            "them, as array.filled(0) and tensor.to_tensor(0) do, or leave their examples out"
        )


def _as_array(value: Any, where: str) -> Any:
    """Tables and series of pandas and its like, which say what they hold as an array, as that; all else as it is.

    Raises:
        DataError: an entry of an array is masked, or a tensor is sparse.
    """
    value = unmasked(value, where)
    if isinstance(value, Tensor):
        _refuse_sparse(where, value)
    return np.asarray(value.to_numpy()) if callable(getattr(value, "to_numpy", None)) else value


def _as_tensor(value: Any) -> Any:
    """Arrays of numbers as tensors: a copy, since an array may be read-only, or of another byte order."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return value
    # torch has no wider one
    wide = value.dtype.kind == "f" and value.dtype.itemsize > 8
    return torch.from_numpy(np.asarray(value).astype(np.float64 if wide else value.dtype.newbyteorder("=")))


def _words(value: Any) -> str:
    """The first text in an array, a table or a series that is not all numbers."""
    found = value.to_numpy() if callable(getattr(value, "to_numpy", None)) else value
    kind = found.dtype.kind if isinstance(found, np.ndarray) else ""
    return next((str(one) for one in found.ravel() if isinstance(one, str)), "") if kind in "OUS" and kind else ""


def _written(parts: Sequence[Any], where: str, folder: str | os.PathLike[str]) -> Iterator[Any]:
    """Arrays and tensors on a disk; all else as it is."""
    for place, part in enumerate(parts):
        first = _as_tensor(part[:1]) if isinstance(part, np.ndarray | Tensor) and part.ndim else None
        if not isinstance(first, Tensor):
            yield part
            continue
        column = Column(folder)
        for start in range(0, max(1, len(part)), ROWS_AT_ONCE):
            column.append(_as_kept(_as_tensor(part[start : start + ROWS_AT_ONCE]), place, where))
        yield column.tensor()


def _as_kept(rows: Tensor, place: int, where: str) -> Tensor:
    """Rows of the inputs, the first column, or of one of the targets, as a data set holds them."""
    _refuse_complex(where, rows)
    return (as_targets if place else as_inputs)(rows.detach().cpu())


def _kind(value: Any) -> str:
    """A value's type in a few words, one level deep."""
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of ({', '.join(type(item).__name__ for item in value[:4])})"
    return type(value).__name__


def class_names(classes: tuple[str, ...] | list[str] | int | None, *targets: Tensor) -> tuple[str, ...] | None:
    """Names for integer targets: those given, or the labels themselves; None for real targets without names."""
    if classes is None:
        if any(y.is_floating_point() for y in targets):
            return None
        classes = 1 + max((int(y.max()) for y in targets if len(y)), default=0)
        if classes > MOST_CLASSES:
            raise DataError(
                f"the largest label is {classes - 1:,}, and labels count classes: number them anew, from 0 on; "
                f"{WHOLE_NUMBERS}"
            )
    return tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
