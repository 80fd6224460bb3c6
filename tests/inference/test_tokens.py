"""Inputs that are tokens: whole numbers from the user's arrays to the last prediction, and what is refused before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.named import load
from pyro_compress.errors import DataError
from pyro_compress.inference.contract import Method
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.results.pointwise import predictions
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.probing import examples, rows_looked_up
from pyro_compress.report.measure import predict

# no two of them are told apart in float16, nor by what a network computes from their size
TOKENS = 4099


class Reader(nn.Module):
    """Tokens of two kinds, by the last bit, and whether more of them are odd."""

    def __init__(self, rows: int = TOKENS, positions: int = 5) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(rows, 4), nn.Embedding(positions, 4)
        self.out = nn.Linear(4, 2)
        self.embed.weight.data[:, 0] = torch.arange(rows) % 2 - 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.embed(x) + self.place(torch.arange(x.shape[1]))).mean(1))


def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(TOKENS - 6, TOKENS, (count, 5), generator=torch.Generator().manual_seed(seed))
    return x, ((x % 2).sum(1) > 2).long()


def data() -> DataSet:
    return as_data(part(200, 0), validation=part(40, 1), test=part(60, 2), name="odd")


def network() -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(Reader(), {"out.weight": Normal(scale=3.0)})


def test_tokens_stay_whole_numbers_and_other_numbers_become_real() -> None:
    held = data()
    assert held.train_x.dtype == held.validation_x.dtype == held.test_x.dtype == torch.int64
    assert as_data((part(9, 0)[0].numpy(), part(9, 0)[1].numpy())).train_x.dtype == torch.int64
    assert as_data((torch.ones(4, 3, dtype=torch.uint8), torch.zeros(4).long())).train_x.dtype == torch.float32
    taught = held.taught(torch.full((200, 2), 0.25))
    assert taught.train_teacher is not None and float(taught.train_teacher.max()) == 0.25


@pytest.mark.parametrize(
    "method",
    [
        SVI(epochs=8, batch_size=20, learning_rate=0.1, compile="never"),
        MAP(epochs=8, batch_size=20, learning_rate=0.05),
        SGLD(epochs=15, batch_size=20, draws=10),
    ],
    ids=["svi", "map", "sgld"],
)
def test_methods_fit_and_predict_from_tokens(method: Method) -> None:
    held, model = data(), network()
    posterior = pc.fit(model, held, method, seed=0)
    found = posterior_predictive(model, posterior, held.test_x, held.test_y, draws=10)
    assert found.errors is not None and found.errors.mean() < 0.25
    if posterior.draws is not None:
        each = predictions(model, posterior, held.test_x)
        np.testing.assert_allclose(each.mean((0, 1)), found.mean, atol=0.02)


def test_one_network_predicts_from_tokens() -> None:
    held, module = data(), Reader().eval()
    found = predict(module, held.test_x, held.test_y, network().likelihood, chunk=7)
    with torch.no_grad():
        np.testing.assert_array_equal(found.errors, (module(held.test_x).argmax(1) != held.test_y).double())


def test_examples_are_tokens_where_a_network_looks_them_up() -> None:
    module = Reader(positions=3)
    assert examples(module, (3,)).dtype == torch.int64 and rows_looked_up(module, (3,)) == [TOKENS]
    assert examples(nn.Linear(3, 2), (3,)).dtype == torch.float32 and rows_looked_up(nn.Linear(3, 2), (3,)) is None

    class Placed(nn.Module):
        """Real numbers, and an embedding of their places."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.place = nn.Linear(1, 4), nn.Embedding(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.first(x[..., None]) + self.place(torch.arange(3))).sum(1)

    assert examples(Placed(), (3,)).dtype == torch.float32 and rows_looked_up(Placed(), (3,)) is None


@pytest.mark.parametrize(
    ("module", "change", "sentence"),
    [
        (
            Reader(TOKENS - 1),
            lambda x: x,
            r"odd: train: the token 4098 at index \(\d+, \d\) has no row .* Reader, which takes tokens from 0 to 4097",
        ),
        (
            Reader(),
            lambda x: x.float(),
            r"odd: Reader takes tokens, and inputs are torch.float32: give them as",
        ),
        (nn.Linear(5, 2), lambda x: x, r"odd: inputs of the type int64 are tokens, which Linear looks up in no embedd"),
    ],
    ids=["beyond", "real", "no embedding"],
)
def test_inputs_that_do_not_go_with_a_network_are_refused_before_a_fit(module: Any, change: Any, sentence: str) -> None:
    x, y = part(30, 0)
    with pytest.raises(DataError, match=sentence):
        pc.fit(BayesianNetwork(module, {}), as_data((change(x), y), name="odd"), MAP(epochs=1))


def test_tokens_of_the_test_part_are_looked_at_too() -> None:
    x, y = part(30, 0)
    held = as_data((x, y), test=(x + 1, y), name="odd")
    with pytest.raises(DataError, match=r"odd: test: the token 4099 at index"):
        pc.fit(BayesianNetwork(Reader(), {}), held, MAP(epochs=1))
    with pytest.raises(DataError, match=r"tokens, counted from 0, found -1"):
        as_data((x - TOKENS + 5, y))
    with pytest.raises(DataError, match=r"test: inputs are torch.float32, the training inputs torch.int64"):
        as_data((x, y), test=(x.float(), y))


def test_a_file_of_arrays_is_read_as_it_was_written(tmp_path: Path) -> None:
    (x, y), (test_x, test_y) = part(50, 0), part(10, 1)
    path = tmp_path / "3:1" / "odd.npz"
    path.parent.mkdir()
    held: dict[str, Any] = {"train_x": x.numpy(), "train_y": y.numpy(), "test_x": test_x, "test_y": test_y}
    np.savez(path, **held, classes=np.array(["even", "odd"]))
    found = load(str(path), validation=10)
    assert (found.name, found.classes, found.N) == ("odd", ("even", "odd"), 40)
    assert torch.equal(found.test_x, test_x) and torch.equal(found.test_y, test_y)
    assert found.train_x.dtype == torch.int64 and len(found.validation_x) == 10
    np.savez(path, train_x=x, train_y=y, test_x=x)
    with pytest.raises(DataError, match="has only one of test_x and test_y"):
        load(str(path))
    np.savez(path, x=x)
    with pytest.raises(DataError, match="holds x; train_x and train_y are needed"):
        load(str(path))
    path.write_bytes(b"PK\3\4 not an archive")
    with pytest.raises(DataError, match="cannot be read as arrays"):
        load(str(path))
    with pytest.raises(DataError, match="there is no file of examples at"):
        load(str(tmp_path / "none.npz"))
