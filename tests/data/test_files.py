"""Data sets on disk: what is read, and what is said when files are missing or bad."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_compress.data import files
from pyro_compress.data.named import load
from pyro_compress.errors import DataError


def idx(array: np.ndarray) -> bytes:
    """An idx file of unsigned bytes, written here from its specification."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    """A data folder with 30 training and 20 test images of 28x28 in MNIST's layout, one file compressed."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for prefix, count in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28))
        images[0, 0, :2] = [0, 255]
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    plain = raw / "t10k-images-idx3-ubyte"
    plain.with_suffix(".gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return tmp_path


def test_mnist_has_its_published_sizes_and_a_stratified_validation_split(mnist_dir: Path) -> None:
    d = load("mnist", mnist_dir, download=False)
    assert (len(d.train_x), len(d.validation_x), len(d.test_x), d.N) == (55_000, 5_000, 10_000, 55_000)
    assert d.input_shape == (1, 28, 28) and d.train_x.dtype == torch.float32
    assert d.train_y[0] == 5 and d.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert d.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    # class sizes of the 60,000 training and 10,000 test images as published
    train = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert torch.equal(torch.bincount(d.train_y) + torch.bincount(d.validation_y), train)
    assert torch.bincount(d.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (torch.bincount(d.validation_y) - train * 5_000 / 60_000).abs().max() < 1
    assert d.train_x.max() == 1.0 and abs(d.train_x.mean().item() - 0.1307) < 1e-3


def test_idx_files_are_read_plain_or_compressed(tiny_mnist: Path) -> None:
    d = load("mnist", tiny_mnist, validation=10, download=False)
    assert (len(d.train_x), len(d.validation_x), len(d.test_x)) == (20, 10, 20)
    assert torch.bincount(d.validation_y).tolist() == [1] * 10
    assert d.test_x[0, 0, 0, :2].tolist() == [0.0, 1.0]
    again = load("mnist", tiny_mnist, validation=0.25, download=False)
    assert (len(again.train_x), len(again.validation_x)) == (22, 8)


def test_data_folder_comes_from_the_argument_then_the_environment(
    tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_COMPRESS_DATA", str(tiny_mnist))
    assert len(load("mnist", validation=0, download=False).train_x) == 30
    assert files.data_folder("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("PYRO_COMPRESS_DATA")
    assert files.data_folder() == Path.home() / ".cache" / "pyro-compress"


def test_fashion_mnist_is_found_where_debian_puts_it(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEBIAN_FASHION_MNIST", tiny_mnist / "MNIST" / "raw")
    d = load("fashion-mnist", tiny_mnist / "none", validation=0, download=False)
    assert len(d.train_x) == 30 and d.classes is not None and d.classes[0] == "T-shirt/top"


def test_cifar10_has_its_published_sizes(mnist_dir: Path) -> None:
    if not (mnist_dir / "cifar-10-batches-py").is_dir():
        pytest.skip(f"no cifar-10-batches-py in {mnist_dir}")
    d = load("cifar10", mnist_dir, download=False)
    assert (len(d.train_x), len(d.validation_x), len(d.test_x)) == (45_000, 5_000, 10_000)
    assert d.input_shape == (3, 32, 32) and d.classes is not None
    assert torch.bincount(d.validation_y).tolist() == [500] * 10
    assert [d.classes[i] for i in d.test_y[:4]] == ["cat", "ship", "ship", "airplane"]
    # channel means of the training images, known to three digits (0.4914, 0.4822, 0.4465)
    assert torch.allclose(d.train_x.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-3)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'minst': known are cifar10, .*Did you mean 'mnist'\?"):
        load("minst")


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10-batches-py")],
)
def test_missing_files_say_what_where_and_how(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    with pytest.raises(DataError) as raised:
        load(name, tmp_path, download=False)
    sentence = str(raised.value)
    assert sentence.startswith(f"{name}: no file '")
    assert f"in {tmp_path / file}" in sentence
    assert f"name the folder that holds '{file}' with --data-dir or PYRO_COMPRESS_DATA" in sentence
    assert ("install Debian's package dataset-fashion-mnist" in sentence) == (name == "fashion-mnist")
    assert "\n" not in sentence


@pytest.mark.parametrize(("name", "of_torchvision"), [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_no_network_is_one_sentence(
    name: str, of_torchvision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def no_network(*_arguments: object, **_keywords: object) -> None:
        raise OSError("Error downloading\nTried one, got:\n<urlopen error Name or service not known>\n")

    monkeypatch.setattr(getattr(torchvision.datasets, of_torchvision), "download", no_network)
    with pytest.raises(DataError) as raised:
        load(name, tmp_path)
    sentence = str(raised.value)
    assert "downloading it failed (urlopen error Name or service not known)" in sentence
    assert sentence.endswith("or connect to the network and try again") and "\n" not in sentence


def test_missing_files_are_downloaded_into_the_data_folder(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def fetch(self: torchvision.datasets.MNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        for path in (tiny_mnist / "MNIST" / "raw").iterdir():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            (Path(self.raw_folder) / path.name.removesuffix(".gz")).write_bytes(content)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    d = load("mnist", tmp_path / "fresh", validation=0)
    assert len(d.train_x) == 30 and (tmp_path / "fresh" / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file()


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DAMAGE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    (IMAGES, lambda b: b[:10], r"is truncated: an idx header is 16 bytes, the file holds 10"),
    (IMAGES, lambda b: b[:-1], r"is truncated: its header \(30, 28, 28\) asks for 23536 bytes, the file holds 23535"),
    (IMAGES, lambda b: b + b"x", r"is damaged: its header \(30, 28, 28\) asks for 23536 bytes, .* holds 23537"),
    (
        IMAGES,
        lambda b: b"\0\0\x0d" + b[3:],
        r"is not an idx3 file of bytes: it starts with 00000d03, expected 00000803",
    ),
    (LABELS, lambda b: b"<html>..", r"is not an idx1 file of bytes: it starts with 3c68746d, expected 00000801"),
    (LABELS, lambda b: b[:4] + b"\xff\xff\xff\xff" + b[8:], r"is truncated: its header \(4294967295,\) asks for"),
    (LABELS, lambda b: idx(np.zeros(29)), r"holds 30 images but .*labels-idx1-ubyte holds 29 labels"),
    (LABELS, lambda b: idx(np.full(30, 11)), r"mnist: train: label 11 is outside 0\.\.9 \(10 classes\)"),
    (LABELS, lambda b: idx(np.zeros(0)), r"is empty: its header says \(0,\)"),
]


@pytest.mark.parametrize(("file", "damage", "sentence"), DAMAGE)
def test_a_bad_idx_file_is_named(file: str, damage: Callable[[bytes], bytes], sentence: str, tiny_mnist: Path) -> None:
    path = tiny_mnist / "MNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=sentence) as raised:
        load("mnist", tiny_mnist, validation=0)
    assert "label 11" in str(raised.value) or (
        str(path) in str(raised.value) and "delete it and run again to download it anew" in str(raised.value)
    )


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"no gzip", lambda b: b[:50] + b"\xff" * 40 + b[90:]])
def test_a_bad_compressed_file_is_named(damage: Callable[[bytes], bytes], tiny_mnist: Path) -> None:
    path = tiny_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz is truncated or damaged \(gzip says: .*replace it"):
        load("mnist", tiny_mnist, validation=0, download=False)


def test_a_bad_cifar10_file_is_named_before_it_is_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in files.CIFAR10_FILES:
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match=r"data_batch_1 is truncated or damaged \(its MD5 is not c99cafc1.*replace it"):
        load("cifar10", tmp_path, download=False)
