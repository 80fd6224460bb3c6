"""The user's own data: tensors, Dataset, DataLoader and module:factory."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.masked import masked_tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.named import from_factory, load
from pyro_compress.data.sources import Examples, read_examples
from pyro_compress.errors import DataError


def toy(count: int = 20, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator), torch.arange(count) % 4


class Pairs(Dataset[tuple[Tensor, int]]):
    """Examples one by one, as users write them: an input tensor and a Python number."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.y[index])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: (x, y),
        TensorDataset,
        Pairs,
        lambda x, y: DataLoader(Pairs(x, y), batch_size=7),
        lambda x, y: DataLoader(Pairs(x, y), batch_size=7, shuffle=True, drop_last=True),
    ],
    ids=["tensors", "tensor dataset", "dataset", "loader", "shuffling loader"],
)
def test_tensors_datasets_and_loaders_give_the_same_data(wrap: Callable[[Tensor, Tensor], Examples]) -> None:
    x, y = toy()
    state = torch.get_rng_state()
    d = as_data(wrap(x, y), test=wrap(x[:6] + 1, y[:6]))
    assert torch.equal(d.train_x, x) and torch.equal(d.train_y, y) and torch.equal(d.test_x, x[:6] + 1)
    assert d.classes == ("0", "1", "2", "3") and d.N == 20 and len(d.validation_x) == 0
    assert torch.equal(state, torch.get_rng_state())


def test_n_is_counted_or_given() -> None:
    assert as_data(toy(), validation=0.25).N == 15
    assert as_data(toy(), N=60_000).N == 60_000
    with pytest.raises(DataError, match="N = 8 is less than the 20 training examples given; N counts the whole"):
        as_data(toy(), N=8)


def test_real_targets_are_regression() -> None:
    x, _ = toy()
    d = as_data((x.double(), x.double().sum(1, keepdim=True)), validation=5)
    assert d.classes is None and d.train_x.dtype == d.train_y.dtype == torch.float32
    assert d.validation_y.shape == (5, 1) and d.description["classes"] is None


def test_a_data_set_passes_unchanged_and_takes_no_second_parts() -> None:
    d = as_data(toy(), name="mine")
    assert as_data(d) is d
    with pytest.raises(DataError, match="mine: a DataSet holds its own parts"):
        as_data(d, validation=0.1)


def test_empty_part_says_how_to_give_it() -> None:
    d = as_data(toy(), validation=5, name="mine")
    assert len(d.part("validation")[0]) == 5
    with pytest.raises(DataError, match="mine: there are no test examples; give test= with the data"):
        d.part("test")


def test_description_is_json() -> None:
    d = as_data(toy(), validation=5, name="mine", classes=["a", "b", "c", "d"], N=100)
    assert json.loads(json.dumps(d.description)) == {
        "name": "mine",
        "N": 100,
        "train_examples": 15,
        "validation_examples": 5,
        "test_examples": 0,
        "input_shape": [3],
        "classes": ["a", "b", "c", "d"],
    }


def untyped(value: Any) -> Any:
    """What a caller without a type checker may pass."""
    return value


def wrong_nan() -> DataSet:
    x, y = toy()
    x[7, 2] = float("nan")
    return as_data((x, y))


def wrong_infinite_target() -> DataSet:
    return as_data((torch.zeros(3, 2), torch.tensor([1.0, float("-inf"), 0.0])))


def wrong_test_shape() -> DataSet:
    return as_data(toy(), test=(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)))


def wrong_stack() -> DataSet:
    examples: Any = [(torch.zeros(1, 28, 28), 0), (torch.zeros(1, 27, 28), 1)]
    return as_data(DataLoader(examples, batch_size=2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (wrong_nan, r"user data: train: inputs hold nan at index \(7, 2\); remove or replace it"),
        (wrong_infinite_target, r"train: targets hold -inf at index \(1,\)"),
        (wrong_test_shape, r"test: inputs of shape \(5,\), the training inputs have \(3,\)"),
        (
            wrong_stack,
            r"train: the examples of DataLoader can't .*\[1, 28, 28\] at entry 0 and \[1, 27, 28\] at entry 1",
        ),
        (lambda: as_data((torch.zeros(4, 3), torch.zeros(5))), r"inputs of shape \(4, 3\) and targets of shape \(5,\)"),
        (
            lambda: as_data((torch.zeros(4, 3), torch.zeros(4, 1).long())),
            r"class labels of shape \(4, 1\), expected .*; whole numbers are class labels: .* as y\.float\(\)",
        ),
        (lambda: as_data((torch.zeros(4, 3), torch.arange(4) - 2)), r"label -2 is outside .* as y\.float\(\)"),
        (lambda: as_data((torch.zeros(4, 3), 10**7 * torch.arange(4))), r"label is 30,000,000, .* as y\.float\(\)"),
        (lambda: as_data((torch.eye(4).to_sparse(), torch.zeros(4))), "train: a tensor is sparse_coo, .* to_dense"),
        (lambda: as_data((np.ma.masked_equal(np.eye(3), 1), np.ones(3))), "train: an array masks 3 of its 9 numbers"),
        (lambda: as_data((np.eye(3), np.ma.masked_equal(np.arange(3), 1))), "train: an array masks 1 of its 3 numbers"),
        (lambda: as_data(toy(), classes=3), r"label 3 is outside 0\.\.2 \(3 classes\)"),
        (lambda: as_data(toy(), classes=["a", "b"]), r"is outside 0\.\.1 \(2 classes\)"),
        (lambda: as_data((torch.zeros(0, 3), torch.zeros(0).long())), "there are no training examples"),
        (lambda: as_data(untyped(torch.zeros(4, 3))), "expected tensors .* found Tensor"),
        (
            lambda: as_data(untyped((np.array(["a"]), np.array(["b"])))),
            r"inputs are not all numbers but hold such as 'a'",
        ),
        (lambda: as_data(DataLoader(untyped(torch.zeros(4, 3)))), "examples must be pairs .* found Tensor"),
        (
            lambda: as_data((torch.zeros(4, 3), torch.zeros(4)), test=toy()),
            "test: .*are torch.int64, expected torch.float32",
        ),
    ],
)
def test_wrong_data_is_refused_with_what_was_found(make: Callable[[], DataSet], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        make()


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_index_is_that_of_the_users_array_also_where_some_are_held_out(tmp_path: Path, on_disk: bool) -> None:
    x, y = torch.randn(200, 3), torch.randn(200)
    x[150, 2], folder = float("nan"), tmp_path if on_disk else None
    with pytest.raises(DataError, match=r"user data: train: inputs hold nan at index \(150, 2\)"):
        as_data((x, y), validation=0.5, on_disk=folder)
    y[120] = float("inf")
    with pytest.raises(DataError, match=r"user data: train: targets hold inf at index \(120,\)"):
        as_data((torch.zeros(200, 3), y), validation=0.5, on_disk=folder)


def test_arrays_of_any_type_of_numbers(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(3, 2)
    nothing_masked = np.ma.array(x, mask=np.zeros_like(x, bool))
    for given in (x.astype(np.longdouble), x.astype(np.float16), x.astype(">f8"), nothing_masked):
        for folder in (None, tmp_path):
            found = read_examples((given, np.ones(3, np.longdouble)), "train", on_disk=folder)
            torch.testing.assert_close(found[0], torch.from_numpy(x).float())
            assert found[1].tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="train: an array masks 1 of its 6 numbers"):
        read_examples((np.ma.masked_equal(x, 1), np.ones(3)), "train", on_disk=tmp_path)
    with pytest.raises(DataError, match="train: a tensor is sparse_coo"):
        read_examples((torch.eye(3).to_sparse(), torch.ones(3)), "train", on_disk=tmp_path)


class AsTheyAre(Dataset[Any]):
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


def masked_pairs(every: int) -> list[tuple[str, Any]]:
    """Inputs or targets of 12 examples that mask every so-many-th number, none for 0, by what holds them."""
    x, y = np.arange(36.0).reshape(12, 3), np.arange(12.0)
    out = np.arange(36).reshape(12, 3) % every == 1 if every else np.zeros((12, 3), bool)
    array, column = np.ma.masked_array(x, mask=out), np.ma.masked_array(y, mask=out.any(1))
    tensor = masked_tensor(torch.from_numpy(x), torch.from_numpy(~out))
    return [
        ("arrays", AsTheyAre(array, y)),
        ("targets", AsTheyAre(x, column)),
        ("tensors", AsTheyAre(tensor, y)),
        ("a TensorDataset", TensorDataset(tensor, torch.from_numpy(y))),
        ("a tuple", (tensor, y)),
        ("a DataLoader", DataLoader(AsTheyAre(array, y), batch_size=5)),
        ("a DataLoader that shuffles", DataLoader(AsTheyAre(array, y), batch_size=5, shuffle=True)),
        ("a DataLoader with workers", DataLoader(AsTheyAre(array, y), batch_size=5, num_workers=1)),
        ("single examples", DataLoader(AsTheyAre((array if every else x)[None], y[None]), batch_size=None)),
    ]


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize("on_disk", [False, True])
def test_masks_are_seen_wherever_they_are(on_disk: bool, tmp_path: Path) -> None:
    folder = tmp_path if on_disk else None
    for name, source in masked_pairs(12):
        with pytest.raises(
            DataError, match=r"train: an array masks \d+ of its \d+ numbers, expected numbers everywhere"
        ):
            read_examples(source, "train", on_disk=folder)
            pytest.fail(name)
    for name, source in masked_pairs(0):
        x, y = read_examples(source, "train", on_disk=folder)
        assert x.flatten().tolist() == list(range(36)) and sorted(y.tolist()) == list(range(12)), name


def test_a_data_set_has_its_name_and_its_split_already() -> None:
    data = as_data(toy())
    assert as_data(data) is data
    for given in ({"name": "mine"}, {"split_seed": 3}):
        with pytest.raises(DataError, match=r"a DataSet holds its own parts: give .* name, classes, split_seed and"):
            as_data(data, **untyped(given))


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_data_module", raising=False)
    (tmp_path / "my_data_module.py").write_text(
        "import torch\n"
        "def pair(first=0): return torch.arange(first, first + 60.0).reshape(20, 3), torch.arange(20) % 2\n"
        "def parts(): return {'train': pair(), 'test': pair(99), 'N': 500, 'name': 'named'}\n"
        "def odd(): return {'training': pair()}\n"
        "def fails(): raise ValueError('no such table')\n"
    )
    (tmp_path / "my_broken_module.py").write_text("import a_module_that_is_not_there\n")


@pytest.mark.usefixtures("user_module")
def test_factory_gives_examples_or_named_parts() -> None:
    d = load("my_data_module:pair")
    assert (len(d.train_x), len(d.validation_x), len(d.test_x), d.name) == (18, 2, 0, "my_data_module:pair")
    d = from_factory("my_data_module:parts", validation=5)
    assert (len(d.train_x), len(d.validation_x), len(d.test_x), d.N, d.name) == (15, 5, 20, 500, "named")


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("my_data_module:", "--data takes module:factory, for example .*; found 'my_data_module:'"),
        ("nowhere.at_all:f", "--data nowhere.at_all:f: no module 'nowhere' is installed or lies in "),
        ("my_broken_module:f", "importing 'my_broken_module' failed with ModuleNotFoundError: .*a_module_that_is_not"),
        ("my_data_module:absent", "module 'my_data_module' has no function 'absent'"),
        ("my_data_module:fails", r"fails\(\) failed with ValueError: no such table"),
        ("my_data_module:odd", "the dict has the keys 'training'; 'train' is needed"),
    ],
)
def test_wrong_factory_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        load(spec)


class Table:
    """What pandas and its like have: numbers, or text, as an array on demand."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def to_numpy(self) -> Any:
        return self.values


def test_tables_are_the_arrays_that_they_hold() -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    found = read_examples((Table(x), Table(y)), "train")
    torch.testing.assert_close(found[0], torch.from_numpy(x).float())
    assert found[1].tolist() == [0, 1, 0] and found[1].dtype == torch.int64


@pytest.mark.parametrize("wrap", [lambda values: values, Table])
def test_text_is_named(wrap: Any) -> None:
    x, y = np.zeros((3, 2)), np.array([0, 1, 0])
    with pytest.raises(DataError, match="train: targets are not all numbers but hold such as 'cat': number"):
        read_examples((x, wrap(np.array(["cat", "dog", "cat"]))), "train")
    mixed = np.array([[1.0, "red"], [2.0, "blue"], [3.0, "red"]], dtype=object)
    with pytest.raises(DataError, match="train: inputs are not all numbers but hold such as 'red'"):
        read_examples((wrap(mixed), y), "train")
