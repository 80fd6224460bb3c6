"""What is data among the arguments of a Pyro model, and that all else reaches the model as it is."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import pyro_compress as pc
from pyro_compress.errors import DataError
from pyro_compress.inference.fit import fit
from pyro_compress.models.arguments import Arguments

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -1.0, 0.5]) + 0.1 * torch.randn(40, generator=torch.Generator().manual_seed(1))


def regression(x: Tensor, y: Tensor, width: int, options: Any = None, scale: float = 1.0) -> None:
    assert options is None or options == {"kind": "flat", "more": [1, None]}
    weight = pyro.sample("weight", dist.Normal(torch.zeros(width), scale).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)


SAME = [
    (X, Y, 3),
    [X, Y, 3],
    (X, Y, 3, None, 1.0),
    (X, Y, np.int64(3), {"kind": "flat", "more": [1, None]}),
    (X.numpy(), Y.numpy().astype("float64"), 3),
    (X.numpy().astype(">f4"), Y, 3),
    {"x": X, "y": Y, "width": 3},
    {"width": 3, "x": X, "y": Y.numpy(), "options": None},
]


@pytest.mark.parametrize(
    "method",
    [
        pc.inference.SVI(epochs=5, batch_size=15),
        pc.inference.MAP(epochs=5, batch_size=15),
        pc.inference.ImportanceSampling(draws=50, warn_below_percent=0.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_every_way_to_give_the_same_arguments_gives_the_same_posterior(method: Any) -> None:
    found = [fit(regression, data, method, seed=1).parameters["weight"].mean for data in SAME]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


@pytest.mark.parametrize(
    "method", [pc.inference.SGLD(epochs=5, batch_size=15, draws=3, a=0.01), pc.inference.NUTS(1, 5, 5)]
)
def test_constants_in_recorded_log_joints(method: Any) -> None:
    found = [fit(regression, data, method, seed=1).parameters["weight"].mean for data in (SAME[0], SAME[-1])]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_constant_makes_a_difference_and_counts_as_no_example() -> None:
    method = pc.inference.SVI(epochs=100, batch_size=40, learning_rate=0.05)
    narrow = fit(regression, (X, Y, 3, None, 0.01), method, seed=1)
    wide = fit(regression, (X, Y, 3, None, 10.0), method, seed=1)
    assert np.abs(narrow.parameters["weight"].mean).max() < 0.1 < 0.4 < wide.parameters["weight"].mean[0]
    assert narrow.provenance["N"] == 40


def test_a_guide_is_called_with_all_arguments_of_the_model() -> None:
    def guide(x: Tensor, y: Tensor, width: int, options: Any = None, scale: float = 1.0) -> None:
        pyro.sample("weight", dist.Normal(torch.zeros(width), 2.0 * scale).to_event(1))

    method = pc.inference.ImportanceSampling(draws=3000, proposal=guide, warn_below_percent=0.0)
    found = fit(regression, {"x": X, "y": Y, "width": 3}, method, seed=1)
    np.testing.assert_allclose(found.parameters["weight"].mean, [1.0, -1.0, 0.5], atol=0.25)


def test_tensors_within_containers_are_data_and_keep_their_type() -> None:
    whole, half = torch.arange(3), torch.ones(2, dtype=torch.float16)
    tensors, call = Arguments.taken_apart(
        ({"a": [whole, "word"]}, None, (half, np.arange(2), np.ones(2)), np.float64(2))
    )
    assert [tensor.dtype for tensor in tensors] == [torch.int64, torch.float16, torch.int64, torch.float32]
    again = call.call(lambda *given: given, tuple(tensor + 1 for tensor in tensors))
    assert again[0]["a"][1] == "word" and again[1] is None and again[3] == 2.0
    assert torch.equal(again[0]["a"][0], whole + 1) and torch.equal(again[2][2], torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((X, Y), "the model regression cannot be called with the data that it was given: missing a required argument"),
        ({"x": X, "y": Y, "widht": 3}, "missing a required argument: 'width'"),
        ({"x": X, "y": Y, "width": 3, "depth": 1}, "unexpected keyword argument 'depth'"),
        ((X, np.ma.masked_array(Y.numpy(), mask=np.arange(40) < 2), 3), "data: an array masks 2 of its 40 numbers"),
        (TensorDataset(X, Y), "a tuple of tensors and of what else it takes; found a TensorDataset"),
    ],
)
def test_what_the_model_cannot_be_called_with_is_refused(data: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        fit(regression, data, pc.inference.MAP(epochs=1))
