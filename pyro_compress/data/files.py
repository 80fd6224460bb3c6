"""Image data sets on disk: where they are looked for, how they are read, and what is said when that fails.

The layout is torchvision's (`MNIST/raw/*-ubyte[.gz]`, `FashionMNIST/raw`, `cifar-10-batches-py`), and
torchvision does the downloading.  The idx files are read here, so that a truncated or damaged file is named.
"""

import gzip
import os
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyro_compress.errors import DataError

ENVIRONMENT_VARIABLE = "PYRO_COMPRESS_DATA"
DEFAULT_CACHE = "~/.cache/pyro-compress"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
DOWNLOAD_TIMEOUT_SECONDS = 30.0

Bytes = npt.NDArray[np.uint8]


class RawImages(NamedTuple):
    """Images (N, channels, height, width) and labels (N,) as bytes, for training and for test."""

    train_x: Bytes
    train_y: Bytes
    test_x: Bytes
    test_y: Bytes


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """`data_dir` if given, else the folder named by PYRO_COMPRESS_DATA, else `~/.cache/pyro-compress`."""
    return Path(data_dir or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_CACHE).expanduser()


def read_mnist(root: Path, download: bool) -> RawImages:
    """MNIST from `root/MNIST/raw`; fetched into it first if files are missing and `download` is true."""
    return _read_idx_set("mnist", "MNIST", root, [root / "MNIST" / "raw"], download)


def read_fashion_mnist(root: Path, download: bool) -> RawImages:
    """Fashion-MNIST from `root/FashionMNIST/raw` or from where Debian's dataset-fashion-mnist puts it."""
    folders = [root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST]
    return _read_idx_set("fashion-mnist", "FashionMNIST", root, folders, download)


def read_cifar10(root: Path, download: bool) -> RawImages:
    """CIFAR-10 from `root/cifar-10-batches-py`; torchvision compares each file's MD5 before it unpickles it."""
    folder = root / "cifar-10-batches-py"
    missing = [name for name in CIFAR10_FILES if not (folder / name).is_file()]
    if missing:
        failure = _download("CIFAR10", root) if download else None
        if failure or not download:
            raise DataError(_not_found("cifar10", missing[0], root, [folder], download, failure))
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    try:
        train, test = (CIFAR10(root, train=train) for train in (True, False))
    except (RuntimeError, OSError) as failure:
        sums = dict(CIFAR10.train_list + CIFAR10.test_list) | {CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}
        bad = [name for name, md5 in sums.items() if not check_integrity(folder / name, md5)]
        what = f"its MD5 is not {sums[bad[0]]}" if bad else str(failure)
        name = bad[0] if bad else "data_batch_1"
        raise DataError(f"cifar10: {folder / name} is truncated or damaged ({what}); {_replace(download)}") from failure
    images = [np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)) for part in (train, test)]
    labels = [np.asarray(part.targets, dtype=np.uint8) for part in (train, test)]
    return RawImages(images[0], labels[0], images[1], labels[1])


def _read_idx_set(name: str, torchvision_name: str, root: Path, folders: list[Path], download: bool) -> RawImages:
    files = _find_idx(folders)
    if isinstance(files, str):
        failure = _download(torchvision_name, root) if download else None
        found = _find_idx(folders) if download and not failure else files
        if isinstance(found, str):
            raise DataError(_not_found(name, found, root, folders, download, failure))
        files = found
    parts = []
    for images_file, labels_file in (files[:2], files[2:]):
        images, labels = _read_idx(images_file, 3, name, download), _read_idx(labels_file, 1, name, download)
        if len(images) != len(labels):
            raise DataError(
                f"{name}: {images_file} holds {len(images)} images but {labels_file} holds {len(labels)} labels; "
                f"{_replace(download)}"
            )
        parts += [images[:, None], labels]
    return RawImages(*parts)


def _find_idx(folders: list[Path]) -> list[Path] | str:
    """The four files from the first folder that has them all, plain or .gz; else the first name missing there."""
    missing = ""
    for folder in folders:
        found = []
        for name in MNIST_FILES:
            here = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
            if not here:
                missing = missing or name
                break
            found.append(here[0])
        else:
            return found
    return missing


def _read_idx(path: Path, dimensions: int, name: str, download: bool) -> Bytes:
    """One idx file of unsigned bytes: 0, 0, 8, `dimensions`, then each size as 4 bytes big-endian, then the data."""

    def bad(what: str) -> DataError:
        return DataError(f"{name}: {path} {what}; {_replace(download)}")

    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as failure:
        raise bad(f"is truncated or damaged (gzip says: {failure})") from failure
    except OSError as failure:
        raise DataError(f"{name}: {path} can't be read: {failure.strerror or failure}") from failure
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise bad(f"is truncated: an idx header is {header} bytes, the file holds {len(content)}")
    magic, expected = content[:4], bytes([0, 0, 8, dimensions])
    if magic != expected:
        raise bad(f"is not an idx{dimensions} file of bytes: it starts with {magic.hex()}, expected {expected.hex()}")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    size = header + int(np.prod(shape, dtype=object))
    if len(content) != size:
        state = "is truncated" if len(content) < size else "is damaged"
        raise bad(f"{state}: its header {shape} asks for {size} bytes, the file holds {len(content)}")
    if 0 in shape:
        raise bad(f"is empty: its header says {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _download(torchvision_name: str, root: Path) -> str | None:
    """Fetch a data set into `root` by torchvision; None, or why it failed in a few words."""
    import torchvision.datasets

    dataset: Callable[..., Any] = getattr(torchvision.datasets, torchvision_name)
    try:
        with _timeout(DOWNLOAD_TIMEOUT_SECONDS):
            dataset(root, download=True)
    except Exception as failure:  # urllib, sockets, tar, gzip and torchvision each raise their own
        reason = str(failure).rpartition("got:")[2]  # torchvision lists each mirror; the last one's reason will do
        return " ".join(reason.split()).strip("<> .") or type(failure).__name__
    return None


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Bound each wait: torchvision itself sets no time limit, so a silent network would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _not_found(name: str, missing: str, root: Path, folders: list[Path], download: bool, failure: str | None) -> str:
    """The sentence for a missing data set: what was looked for, where, and how to get it."""
    where = " or ".join(map(str, folders))
    debian = " install Debian's package dataset-fashion-mnist," if DEBIAN_FASHION_MNIST in folders else ""
    if download:
        tried = f", and downloading it failed ({failure or 'the files are still not there'})"
        get = "connect to the network and try again"
    else:
        tried, get = "", "allow the download"
    return (
        f"{name}: no file '{missing}' in {where}{tried}; put the files there,{debian} name the folder that holds "
        f"'{folders[0].relative_to(root)}' with --data-dir or {ENVIRONMENT_VARIABLE}, or {get}"
    )


def _replace(download: bool) -> str:
    return "delete it and run again to download it anew" if download else "replace it by an undamaged copy"
