"""The user's own examples: tensors, a torch Dataset or a DataLoader, read into memory once."""

from typing import Any, TypeAlias, Union

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from pyro_compress.errors import DataError

Examples: TypeAlias = Union[tuple[Tensor, Tensor], "Dataset[Any]", "DataLoader[Any]"]
"""What a user may give: tensors (x, y), a Dataset of (x, y) pairs, or a DataLoader of (x, y) batches."""


def read_examples(source: Any, where: str) -> tuple[Tensor, Tensor]:
    """Inputs as float32 and targets as int64 or float32, from anything in `Examples`."""
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, Dataset | DataLoader):
        source = _drain(source, where)
    if not (isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(t, Tensor) for t in source)):
        raise DataError(
            f"{where}: expected tensors (x, y), a torch Dataset or a DataLoader of such pairs; found {_kind(source)}"
        )
    x, y = (tensor.detach() for tensor in source)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(
            f"{where}: inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)} "
            "don't hold the same number of examples along their first axis"
        )
    if x.is_complex() or y.is_complex():
        raise DataError(f"{where}: complex values; inputs and targets are real")
    return x.to(torch.float32), y.to(torch.float32 if y.is_floating_point() else torch.int64)


def _drain(source: Any, where: str) -> tuple[Tensor, Tensor]:
    """All batches of a Dataset or DataLoader, joined; the caller's random state is left as it was."""
    loader: DataLoader[Any] = source if isinstance(source, DataLoader) else DataLoader(source, batch_size=1024)
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(sampler.data_source):
        loader = DataLoader(loader.dataset, batch_size=loader.batch_size or 1024, collate_fn=loader.collate_fn)
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # random transforms are drawn once, the same in every run
        try:
            for batch in loader:
                if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(torch.is_tensor(t) for t in batch)):
                    raise DataError(
                        f"{where}: examples must be pairs (x, y) of tensors or numbers, found {_kind(batch)}"
                    )
                parts.append((batch[0], batch[1]))
            if not parts:
                raise DataError(f"{where}: the {type(source).__name__} holds no examples")
            return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        except (RuntimeError, TypeError, ValueError) as failure:
            reason = " ".join(str(failure).split())
            raise DataError(
                f"{where}: the examples of {type(source).__name__} can't be read into one tensor: {reason}"
            ) from failure


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
    return tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
