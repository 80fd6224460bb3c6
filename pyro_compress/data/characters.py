"""Text without a download: the pages of Python's own language reference that `help()` shows, character by character.

python-topics   windows of 64 characters as tokens, (64,), and the characters that follow each of them, (64,).  What
                Python ships as `pydoc_data.topics` differs between its versions, so figures on it name theirs; a
                page stays in its part whatever the version, since its name alone decides (CRC-32 modulo 10: 8 is
                for validation, 9 for test).
"""

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DataError

CONTEXT = 64
CHARACTERS = ("other", "\n", *(chr(code) for code in range(32, 127)))
"""By token: line ends, printable ASCII, and one for all else."""


def python_topics(validation: int | float | None) -> DataSet:
    """The pages in windows that do not overlap.

    Raises:
        DataError: another number of validation windows is asked for.
    """
    from pydoc_data.topics import topics

    if validation is not None:
        raise DataError("python-topics: its validation pages are fixed: leave out the number of examples")
    digit = {name: zlib.crc32(name.encode()) % 10 for name in topics}
    train, held, test = (
        windows([topics[name] for name in sorted(topics) if digit[name] in of])
        for of in (range(8), range(8, 9), range(9, 10))
    )
    return DataSet("python-topics", *train, *held, *test, classes=CHARACTERS)


def tokens_of(text: str) -> Tensor:
    """(characters,) int64: what `CHARACTERS` calls each."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    printable = (codes >= 32) & (codes < 127)
    return torch.from_numpy(np.where(printable, codes - 30, (codes == 10).astype(np.int64)))


def windows(pages: Iterable[str], context: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (windows, context) each: a target is the character that follows.

    Args:
        pages: one after the other, each ended by a line end.
        context: characters of a window.
    """
    stream = torch.cat([tokens_of(page + "\n") for page in pages])
    count = (len(stream) - 1) // context
    return stream[: count * context].reshape(count, context), stream[1 : count * context + 1].reshape(count, context)
