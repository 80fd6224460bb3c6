"""Examples on a disk: the same numbers, splits and fits as in memory, which they don't take up."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyro_compress as pc
from pyro_compress.data.dataset import Part
from pyro_compress.data.examples import as_data
from pyro_compress.data.named import from_factory
from pyro_compress.data.sources import Examples
from pyro_compress.errors import DataError
from pyro_compress.inference import SVI

MEGABYTE = 2**20


def toy(count: int = 2500) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(3))
    return x, (x.sum(1) > 0).long()


class OneByOne(IterableDataset[tuple[Tensor, int]]):
    """Examples as a stream, which has no length."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from ((a, int(b)) for a, b in zip(self.x, self.y, strict=True))


SOURCES: dict[str, Callable[[Tensor, Tensor], Examples]] = {
    "tensors": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.double().numpy(), y.numpy().astype(np.uint8)),
    "tensor dataset": TensorDataset,
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True),
    "stream": lambda x, y: DataLoader(OneByOne(x, y), batch_size=300),
}


@pytest.mark.parametrize("wrap", SOURCES.values(), ids=SOURCES)
def test_on_a_disk_are_the_numbers_and_splits_of_memory(
    wrap: Callable[[Tensor, Tensor], Examples], tmp_path: Path
) -> None:
    x, y = toy()
    given = {"validation": 0.2, "test": wrap(x[:30] + 1, y[:30])}
    there = as_data(wrap(x, y), **given, on_disk=tmp_path)  # type: ignore[arg-type]
    here = as_data(wrap(x, y), **given)  # type: ignore[arg-type]
    parts: tuple[Part, ...] = ("train", "validation", "test")
    for part in parts:
        for mapped, held in zip(there.part(part), here.part(part), strict=True):
            assert torch.equal(mapped, held) and mapped.dtype == held.dtype
    assert here.classes == there.classes and not list(tmp_path.iterdir()), "files have no names"


def test_a_fit_sees_the_same_batches(tmp_path: Path) -> None:
    method = SVI(epochs=2, batch_size=64, compile="never")
    means = []
    for folder in (None, tmp_path):
        torch.manual_seed(0)
        model = pc.BayesianNetwork(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "log-uniform")
        found = pc.fit(model, as_data(toy(), validation=500, on_disk=folder), method)
        means.append({name: site.mean for name, site in found.parameters.items()})
    assert means[0].keys() == means[1].keys()
    assert all(np.array_equal(means[0][name], means[1][name]) for name in means[0])


class Large(Dataset[tuple[Tensor, int]]):
    """96 MiB of float32, of which one example is made at a time."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((MEGABYTE // 4,), float(index)), index % 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc")
def test_it_takes_no_memory(tmp_path: Path) -> None:
    def own_memory() -> int:
        """Bytes that are this process's and mapped from no file."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before = own_memory()
    data = as_data(DataLoader(Large(), batch_size=4), validation=16, on_disk=tmp_path)
    assert data.train_x.shape == (80, MEGABYTE // 4) and sorted(
        torch.cat([data.train_x[:, 0], data.validation_x[:, 9]]).tolist()
    ) == list(range(96))
    assert own_memory() - before < 48 * MEGABYTE


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no examples can be written to .*nowhere: No such file or directory"):
        as_data(toy(), on_disk=tmp_path / "nowhere")
    full = Path("/dev/full")
    if full.exists():
        from pyro_compress.data.on_disk import Column

        column = Column(tmp_path)
        column._file.close()
        column._file = full.open("wb")  # type: ignore[assignment]
        column.append(torch.zeros(3))
        with pytest.raises(DataError, match=r"the examples don't fit into .*: No space left on device"):
            column.tensor()
    with pytest.raises(DataError, match=r"examples of shape \(4,\) and type torch.float32 after others of shape \(3"):
        as_data(DataLoader([(torch.zeros(3), 0), (torch.zeros(4), 1)], batch_size=1), on_disk=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="user data: train: complex values; inputs and targets are real"):
        as_data((torch.zeros(4, 2, dtype=torch.complex64), torch.zeros(4).long()), on_disk=tmp_path)
    with pytest.raises(DataError, match="a DataSet holds its own parts: give validation, test, N, name, classes,"):
        as_data(as_data(toy()), on_disk=tmp_path)


def test_what_is_not_finite_is_found_far_back(tmp_path: Path) -> None:
    x, y = toy()
    x[2100, 1] = float("nan")
    with pytest.raises(DataError, match=r"train: inputs hold nan at index \(2100, 1\); remove or replace it"):
        as_data((x, y), on_disk=tmp_path)


def test_a_factory_may_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far.py").write_text(
        "import torch\n"
        "def make():\n"
        "    x = torch.arange(60.).reshape(20, 3)\n"
        f"    return dict(train=(x, torch.arange(20) % 2), on_disk={str(tmp_path)!r}, validation=5)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(from_factory("far:make").train_x) == 15
