"""Examples that lie on disk and look like tensors: for data that memory does not hold.

A column of examples is written batch by batch into a file without a name, which the file system takes back when nothing
reads it any longer, and mapped into memory: indexing it reads the rows that are asked for.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_compress.errors import DataError

ROWS_AT_ONCE = 1024


class Column:
    """Grows row by row in a file.

    Args:
        folder: on a disk with room.

    Raises:
        DataError: no file can be made in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder, self._rows, self._like = folder, 0, torch.empty(0)
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as failure:
            raise DataError(f"no examples can be written to {os.fspath(folder)}: {failure.strerror}") from failure

    def append(self, rows: Tensor) -> None:
        """Write rows (n, *shape).

        Raises:
            DataError: they have another shape or type than those before, or the disk is full.
        """
        if not self._rows:
            self._like = rows[:0]
        if rows.shape[1:] != self._like.shape[1:] or rows.dtype != self._like.dtype:
            raise DataError(
                f"examples of shape {tuple(rows.shape[1:])} and type {rows.dtype} after others of shape "
                f"{tuple(self._like.shape[1:])} and type {self._like.dtype}: one column has one shape and one type"
            )
        try:
            self._file.write(rows.contiguous().numpy().data)
        except OSError as failure:
            raise self._full(failure) from failure
        self._rows += len(rows)

    def __del__(self) -> None:
        # what was not mapped in the end, since something failed
        if hasattr(self, "_file"):
            with contextlib.suppress(OSError):
                self._file.close()

    def _full(self, failure: OSError) -> DataError:
        return DataError(f"the examples don't fit into {os.fspath(self._folder)}: {failure.strerror}")

    def tensor(self) -> Tensor:
        """All rows, (rows, *shape), mapped; writing into it leaves the file as it is.

        Raises:
            DataError: the disk is full.
        """
        try:
            self._file.flush()
        except OSError as failure:
            raise self._full(failure) from failure
        with self._file:
            return self._mapped()

    def _mapped(self) -> Tensor:
        shape = (self._rows, *self._like.shape[1:])
        if 0 in shape:
            return self._like.new_empty(shape)
        return torch.from_numpy(np.memmap(self._file, self._like.numpy().dtype, "c", shape=shape))


def pieces(values: Tensor) -> Iterator[Tensor]:
    """The rows in order, few enough at once for memory."""
    return iter(values.split(ROWS_AT_ONCE)) if len(values) else iter((values,))


def rows_of(values: Tensor, chosen: Tensor, folder: str | os.PathLike[str] | None) -> Tensor:
    """Those rows: in memory, or on disk where there is a folder."""
    if folder is None:
        return values[chosen]
    column = Column(folder)
    for indices in pieces(chosen):
        column.append(values[indices])
    return column.tensor()
