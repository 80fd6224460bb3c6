"""The group lasso: its proximal step in closed form and by subgradients, its optimum, exact zeros, and the road."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.group_lasso import GroupLasso, proximal
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal


@pytest.mark.parametrize("axis", [0, 1])
def test_with_one_step_size_it_is_the_soft_threshold(axis: int) -> None:
    z = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    found = proximal(z, torch.tensor(0.3).double(), 10.0, axis)
    norm = z.movedim(axis, 0).flatten(1).norm(dim=1)
    factor = (1 - 10.0 * 0.3 / norm).clamp(min=0)
    shape = [1, 1, 1]
    shape[axis] = -1
    torch.testing.assert_close(found, z * factor.view(shape))
    assert 0 < int((factor > 0).sum()) < len(factor)
    assert proximal(z, torch.tensor(0.0).double(), 10.0, axis) is z


def test_with_step_sizes_of_their_own_it_is_where_the_subgradient_vanishes() -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(30, 6, generator=generator).double()
    eta = torch.exp(3 * torch.randn(30, 6, generator=generator)).double()
    found = proximal(z, eta, 4.0, 0)
    zero = (found == 0).all(1)
    assert 0 < int(zero.sum()) < 30
    for row in range(30):
        if zero[row]:
            # 0 is optimal: the other term pulls no harder than the penalty can hold
            assert float((z[row] / eta[row]).norm()) <= 4.0
        else:
            gradient = (found[row] - z[row]) / eta[row] + 4.0 * found[row] / found[row].norm()
            scale = float((z[row] / eta[row]).abs().max()) + 4.0
            assert float(gradient.abs().max()) < 1e-6 * scale


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "sgd", "learning_rate": 0.3, "epochs": 200},
        {"optimizer": "adam", "learning_rate": 0.02, "epochs": 700},
    ],
    ids=["sgd", "adam"],
)
def test_it_ends_at_the_optimum_of_a_convex_problem(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x = torch.randn(80, 6)
    truth = torch.tensor([[1.0, 0.5], [0.0, 0.1], [-0.8, 0.6], [0.05, 0.0], [0.0, 0.0], [0.3, -0.3]])
    y = x @ truth + 0.5 * torch.randn(80, 2)
    model = BayesianNetwork(nn.Linear(6, 2, bias=False), Normal(scale=2.0), Gaussian(noise=0.5))
    method = GroupLasso(batch_size=80, schedule="linear", strength=30.0, retrain=0.0, **how)
    found = fit(model, as_data((x, y)), method, seed=0).parameters["weight"]
    # by proximal gradient in double precision, from the closed form of the smooth part
    gram, cross = (x.T @ x).double() / 0.25 + torch.eye(6).double() / 4, (x.T @ y).double().T / 0.25
    w, step = torch.zeros(2, 6).double(), 1 / float(torch.linalg.eigvalsh(gram).max())
    for _ in range(20000):
        moved = w - step * (w @ gram - cross)
        norm = moved.norm(dim=0)
        w = moved * (1 - step * 30.0 * 2**0.5 / norm.clamp(min=1e-30)).clamp(min=0)
    off = (w == 0).all(0)
    assert 0 < int(off.sum()) < 6
    np.testing.assert_allclose(found.mean, w.numpy(), atol=2e-3)
    assert found.off is not None
    np.testing.assert_array_equal(found.off, off.expand(2, 6).numpy())


def test_retraining_takes_the_shrinkage_back_and_leaves_zeros() -> None:
    torch.manual_seed(0)
    x = torch.randn(80, 4)
    y = x[:, :2] @ torch.tensor([[1.0], [-0.7]]) + 0.5 * torch.randn(80, 1)
    model = BayesianNetwork(nn.Linear(4, 1, bias=False), Normal(scale=2.0), Gaussian(noise=0.5))
    how: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.3, "schedule": "constant", "batch_size": 80}
    found = fit(model, as_data((x, y)), GroupLasso(epochs=300, strength=60.0, retrain=0.5, **how), seed=0)
    weight = found.parameters["weight"]
    assert weight.off is not None and weight.off.tolist() == [[False, False, True, True]]
    left = x[:, :2].double()
    expected = torch.linalg.solve(left.T @ left / 0.25 + torch.eye(2) / 4, left.T @ y.double() / 0.25)[:, 0]
    np.testing.assert_allclose(weight.mean[0, :2], expected.numpy(), atol=1e-4)


def test_the_penalty_is_in_nats_of_the_data_set() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    method = GroupLasso(strength=2.0, epochs=10)
    x = torch.randn(20, 1, 3, 3)
    state = method.init(BayesianNetwork(network, Normal()), 20, 0)
    filters, dense = (network.get_parameter(name).detach() for name in ("0.weight", "2.weight"))
    expected = 2.0 * float(2.0 * filters.flatten(1).norm(dim=1).sum() + 2**0.5 * dense.norm(dim=0).sum())
    assert method.penalty(state) == pytest.approx(expected, rel=1e-5)
    none = GroupLasso(strength=0.0, epochs=10)
    free = none.init(BayesianNetwork(network, Normal()), 20, 0)
    plain = float(none.terms(free, (x, torch.zeros(20).long())).complexity.detach())
    assert float(method.terms(state, (x, torch.zeros(20).long())).complexity.detach()) == pytest.approx(
        plain + expected
    )


def test_strengths_by_patterns_are_of_the_weights_that_they_name() -> None:
    """Filters with λ = 3, dense layers with none: one step moves the latter as plain training does."""
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 2), flat=nn.Flatten(), fc=nn.Linear(12, 2)))
    model, batch = BayesianNetwork(network, Normal()), (torch.randn(20, 1, 3, 3), torch.zeros(20).long())
    states = {}
    for name, strength in (("some", {"conv*": 3.0}), ("none", 0.0)):
        method = GroupLasso(strength=strength, epochs=10, learning_rate=0.01)
        states[name] = method.init(model, 20, 0)
        if name == "some":
            filters = network.get_parameter("conv.weight").detach()
            expected = 3.0 * 2.0 * float(filters.flatten(1).norm(dim=1).sum())
            assert method.penalty(states[name]) == pytest.approx(expected, rel=1e-5)
        method.step(states[name], batch)
    some, none = (states[name].present() for name in ("some", "none"))
    torch.testing.assert_close(some["fc.weight"], none["fc.weight"], rtol=0, atol=0)
    assert (some["conv.weight"].flatten(1).norm(dim=1) < none["conv.weight"].flatten(1).norm(dim=1)).all()
    with pytest.raises(InferenceError, match="strength: 'conv3\\*' matches no weight"):
        GroupLasso(strength={"conv3*": 1.0}, epochs=10).init(model, 20, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "rmsprop"}, "needs the optimizer's step sizes: take adam or sgd, found 'rmsprop'"),
        ({"strength": -1.0}, "strength of at least 0"),
        ({"strength": {"fc*": math.inf}}, "strength of at least 0, finite"),
        ({"retrain": 1.0}, "retrain of at least 0 and below 1"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        GroupLasso(**options)


def test_the_whole_road_on_the_digits() -> None:
    data = pc.data.load("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    method = GroupLasso(epochs=14, batch_size=32, learning_rate=5e-3, strength=4.0, retrain=0.3)
    posterior = fit(BayesianNetwork(network, Normal()), data, method, seed=0)
    decision = pc.decide(posterior, network, data, pc.DecisionSettings(fine_tune_epochs=0))
    file = pc.compress(network, decision, data=data)
    hidden = file.to_torch()
    shapes = [tuple(weight.shape) for weight in hidden.parameters() if weight.ndim > 1]
    units = [int((~posterior.parameters[name].off.all(0)).sum()) for name in ("1.weight", "3.weight")]  # type: ignore[union-attr]
    assert shapes[0][0] <= units[1] < 36 and shapes[0][1] <= units[0] < 60
    assert pc.evaluate(file, data)["error_after_percent"] < 9
