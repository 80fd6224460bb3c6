"""Learning-compression: projections against all there are, multipliers by hand, the constrained optimum, the road."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.learning_compression import LearningCompression, largest, shared, ternary
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.network.quantizers import Codebook


def test_ternary_is_the_nearest_of_all_assignments() -> None:
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    flat, best = values.flatten(), float("inf")
    for signs in product((-1.0, 0.0, 1.0), repeat=8):
        pattern = torch.tensor(signs).double()
        if pattern.any():
            level = float((pattern * flat).sum() / pattern.abs().sum())
            best = min(best, float((flat - level * pattern).square().sum()))
    found = ternary(values)
    assert float((values - found).square().sum()) == pytest.approx(best)
    assert len(found.abs().unique()) == 2 and 0 < int((found == 0).sum()) < 8


def test_the_largest_stay_as_they_are() -> None:
    found = largest(0.5)(torch.tensor([[0.1, -3.0], [2.0, -0.2]]))
    assert found.tolist() == [[0.0, -3.0], [2.0, 0.0]]


def test_shared_values_are_means_of_what_is_nearest() -> None:
    values = torch.cat([centre + 0.05 * torch.randn(40) for centre in (-1.0, 0.2, 0.9)]).view(4, 30)
    found = shared(3)(values)
    assert len(found.unique()) == 3
    for level in found.unique():
        torch.testing.assert_close(values[found == level].mean(), level)
    assert torch.equal((values[..., None] - found.unique()).abs().argmin(-1), torch.searchsorted(found.unique(), found))


def line() -> tuple[BayesianNetwork, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    x = torch.randn(60, 4)
    x[:, 1] += 0.9 * x[:, 0]
    y = x @ torch.tensor([[1.0], [-0.6], [0.9], [0.1]]) + 0.3 * torch.randn(60, 1)
    return BayesianNetwork(nn.Linear(4, 1, bias=False), Normal(scale=2.0), Gaussian(noise=0.3)), x, y


def test_multipliers_and_mu_by_hand() -> None:
    model, x, y = line()
    how: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-4, "schedule": "constant", "batch_size": 60}
    method = LearningCompression(ternary=True, epochs=4, projections=2, first=0.5, mu=5.0, growth=3.0, **how)
    state = method.init(model, 60, 0)
    method.step(state, (x, y))
    assert not state.stored and not method.draw(state).parameters["weight"].quantizer
    method.step(state, (x, y))
    at_first = state.present()["weight"].detach().clone()
    torch.testing.assert_close(state.stored["weight"], ternary(at_first))
    assert not state.multipliers["weight"].any() and state.projections_done == 1
    terms = method.terms(state, (x, y))
    pull = 0.5 * 5.0 * float((at_first - ternary(at_first)).square().sum())
    assert float(terms.by_site["constraint"].detach()) == pytest.approx(pull, rel=1e-5)
    assert float(terms.complexity.detach() - terms.by_site["weight"].detach()) == pytest.approx(pull, rel=1e-4)
    method.step(state, (x, y))
    at_second = state.present()["weight"].detach().clone()
    torch.testing.assert_close(state.stored["weight"], ternary(at_second))
    expected = -5.0 * (at_second - ternary(at_second))
    torch.testing.assert_close(state.multipliers["weight"], expected)
    pull = 0.5 * 15.0 * float((at_second - ternary(at_second) - expected / 15.0).square().sum())
    assert float(method.terms(state, (x, y)).by_site["constraint"].detach()) == pytest.approx(pull, rel=1e-4)
    # none at the very end, where nobody would descend its penalty
    method.step(state, (x, y))
    assert state.projections_done == 2


def test_it_ends_at_the_best_ternary_weights_of_a_convex_problem() -> None:
    model, x, y = line()
    how: dict[str, Any] = {"learning_rate": 0.02, "schedule": "linear", "batch_size": 60, "epochs": 800}
    method = LearningCompression(ternary=True, projections=40, first=0.2, mu=20.0, growth=1.2, **how)
    found = fit(model, as_data((x, y)), method, seed=0).parameters["weight"]

    def nats(weight: torch.Tensor) -> float:
        return float((y.double() - x.double() @ weight).square().sum() / (2 * 0.09) + weight.square().sum() / 8)

    candidates = []
    for signs in product((-1.0, 0.0, 1.0), repeat=4):
        s = torch.tensor(signs).double()[:, None]
        if s.any():
            along = x.double() @ s
            level = float(along.T @ y.double() / 0.09) / float(along.square().sum() / 0.09 + s.square().sum() / 4)
            candidates.append(nats(level * s))
    stored = torch.from_numpy(found.mean).double().T
    assert len(np.unique(np.abs(found.mean[found.mean != 0]))) == 1
    assert nats(stored) < min(candidates) + 0.1 < sorted(set(np.round(candidates, 6)))[2]
    # better than the projection of the free optimum
    gram = x.T.double() @ x.double() / 0.09 + torch.eye(4).double() / 4
    free = torch.linalg.solve(gram, x.T.double() @ y.double() / 0.09)
    assert nats(stored) < nats(ternary(free)) - 0.2
    level = float(np.abs(found.mean).max())
    assert found.quantizer == Codebook((-level, level))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ternary": True, "levels": 4}, "one of sparsity, levels, ternary and project, .* found 2 of them"),
        ({"sparsity": 1.0}, "at least 0 and below 1, found 1.0"),
        ({"levels": {"a": 0}}, "levels are 1 to 255 values, found {'a': 0}"),
        ({"ternary": True, "growth": 0.9}, "growth of at least 1; found projections=20, .* growth=0.9"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        LearningCompression(**options)
    assert (LearningCompression().sparsity, LearningCompression(levels=4).sparsity) == (0.9, None)


def test_a_projection_of_ones_own_must_keep_the_shape() -> None:
    model, x, y = line()
    method = LearningCompression(project=lambda values: values[0], epochs=3, batch_size=60)
    with pytest.raises(InferenceError, match=r"projection of weight must return a tensor of shape \(1, 4\)"):
        fit(model, as_data((x, y)), method, seed=0)


@pytest.fixture(name="network", scope="module")
def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


@pytest.mark.parametrize("how", [{"sparsity": 0.8}, {"levels": 4}], ids=["pruned", "shared"])
def test_the_whole_road_on_the_digits(network: nn.Module, how: dict[str, Any]) -> None:
    data = pc.data.load("digits")
    method = LearningCompression(
        epochs=12, batch_size=32, learning_rate=1e-2, projections=9, mu=30.0, growth=1.5, **how
    )
    posterior = fit(BayesianNetwork(network, Normal(scale=0.3)), data, method, seed=0)
    decision = pc.decide(posterior, network, data, pc.DecisionSettings(fine_tune_epochs=0, refine=False))
    file = pc.compress(network, decision, data=data)
    weights = [weight for weight in file.to_torch().parameters() if weight.ndim > 1]
    if "levels" in how:
        assert all(len(weight.unique()) <= 5 for weight in weights)
    else:
        assert sum(int(weight.count_nonzero()) for weight in weights) <= 0.2 * 2960 + 1
    assert pc.evaluate(file, data)["error_after_percent"] < 12
