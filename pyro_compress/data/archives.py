"""Examples in a `.npz` file, as `numpy.savez` writes it."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pyro_compress.errors import DataError

PARTS = ("train", "validation", "test")
KNOWN = (*(f"{part}_{what}" for part in PARTS for what in "xy"), "classes")


def read_archive(path: Path) -> dict[str, Any]:
    """Arguments of `as_data`: arrays `train_x` and `train_y`, and where they are there those of the other parts.

    `classes` may be there too: names, or one whole number.  Nothing pickled is read.

    Raises:
        DataError: there is no such file, it is no such archive, or its arrays have other names.
    """
    if not path.is_file():
        raise DataError(f"there is no file of examples at {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except TypeError as error:
        raise DataError(f"{path} holds one array, as numpy.save writes it: give several, by numpy.savez") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as arrays that numpy.savez wrote: {error}") from error
    unknown = [name for name in arrays if name not in KNOWN]
    if unknown or not {"train_x", "train_y"} <= arrays.keys():
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; train_x and train_y are needed, the others known are "
            f"{', '.join(name for name in KNOWN if not name.startswith('train'))}"
        )
    found: dict[str, Any] = {"name": path.stem}
    for part in PARTS:
        pair = [arrays[f"{part}_{what}"] for what in "xy" if f"{part}_{what}" in arrays]
        if len(pair) == 1:
            raise DataError(f"{path} has only one of {part}_x and {part}_y: give both, or none")
        found |= {part: tuple(pair)} if pair else {}
    if "classes" in arrays:
        classes = arrays["classes"]
        found["classes"] = int(classes) if classes.ndim == 0 else tuple(str(name) for name in classes)
    return found
