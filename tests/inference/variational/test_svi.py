"""SVI and MAP against the closed forms of linear regression with known noise.

    y = X w + ε,  ε ~ N(0, σ²),  w ~ N(0, s²):  precision Λ = XᵀX/σ² + I/s²,  mean Λ⁻¹ Xᵀy/σ²

The best mean-field normal has that mean and the variances 1/Λ_ii.  With a KL weight β the prior's precision is
multiplied by β in the mean, and the variances become β / (XᵀX/σ² + βI/s²)_ii.  The ridge estimate is the mean.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.inference.fit import fit
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

NOISE, SCALE, EXAMPLES = 0.8, 0.6, 48


def problem(size: int | None = None) -> tuple[BayesianNetwork, DataSet]:
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.6, 0.0], [0.0, 1.0, -0.4], [0.0, 0.0, 0.7]])
    x = torch.randn(EXAMPLES, 3) @ mixing
    y = x @ torch.tensor([[0.9, -0.3], [-0.5, 0.8], [0.2, 0.4]]) + NOISE * torch.randn(EXAMPLES, 2)
    network = nn.Linear(3, 2, bias=False)
    return BayesianNetwork(network, Normal(scale=SCALE, initial_log_variance=-7.0), Gaussian(noise=NOISE)), as_data(
        (x, y), N=size
    )


def closed_form(data: DataSet, beta: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and mean-field variance, each (outputs, inputs)."""
    copies = data.N / len(data.train_x)
    x, y = data.train_x.double(), data.train_y.double()
    gram, moment = copies * x.T @ x / NOISE**2, copies * x.T @ y / NOISE**2
    precision = gram + beta * torch.eye(3, dtype=torch.float64) / SCALE**2
    variance = beta / precision.diagonal()
    return torch.linalg.solve(precision, moment).T, variance.expand(2, 3)


def assert_optimum(method: SVI, data_size: int | None = None) -> None:
    model, data = problem(data_size)
    posterior = fit(model, data, method, seed=1).parameters["weight"]
    mean, variance = closed_form(data, method.kl_weight)
    # what is left of the gradients' noise when the rate has gone to zero; a wrong N/n or β moves them by factors
    distance = (torch.from_numpy(posterior.mean).double() - mean).abs() / variance.sqrt()
    assert float(distance.max()) < 0.2
    torch.testing.assert_close(torch.from_numpy(posterior.variance).double(), variance, rtol=0.2, atol=0.0)


def svi(**settings: Any) -> SVI:
    fast: dict[str, Any] = {"schedule": "linear", "kl_warmup": 0.0, "rates": {"log_variance": 0.6}}
    return SVI(**{"epochs": 600, "batch_size": EXAMPLES, "learning_rate": 0.03, **fast, **settings})


@pytest.mark.parametrize("estimator", ["local", "shared"])
def test_optimum_is_the_mean_field_posterior(estimator: str) -> None:
    assert_optimum(svi(estimator=estimator, particles=1 if estimator == "local" else 3))


def test_the_mean_of_the_last_iterates_is_the_posterior() -> None:
    """At a constant rate with one sample per step iterates go on wandering; of 90 steps the last 45 are averaged."""
    model, data = problem()
    settings: dict[str, Any] = {"epochs": 30, "batch_size": 16, "learning_rate": 0.05, "schedule": "constant"}
    iterates: list[list[torch.Tensor]] = []

    class Watched(SVI):
        def finish(self, state: Any) -> None:
            super().finish(state)
            iterates.append([parameter.detach().clone() for parameter in state.trained()])

    states: list[Any] = []
    keep = [lambda record, state: states.append(state)]
    averaged = fit(model, data, Watched(averaging=0.5, **settings), seed=1, callbacks=keep).parameters["weight"]
    mean, log_variance = (torch.stack(column[45:]).mean(0) for column in zip(*iterates, strict=True))
    torch.testing.assert_close(torch.from_numpy(averaged.mean), mean)
    torch.testing.assert_close(torch.from_numpy(averaged.variance).log(), log_variance)
    # the steps themselves are those without averaging
    last = fit(model, data, SVI(**settings), seed=1).parameters["weight"]
    np.testing.assert_array_equal(last.mean, iterates[89][0].numpy())


def test_averaging_takes_out_the_noise_of_a_constant_rate() -> None:
    model, data = problem()
    mean, variance = closed_form(data)
    distances = []
    for averaging in (0.0, 0.5):
        method = svi(estimator="shared", schedule="constant", averaging=averaging)
        posterior = fit(model, data, method, seed=1).parameters["weight"]
        distances.append(float(((torch.from_numpy(posterior.mean).double() - mean).abs() / variance.sqrt()).max()))
    assert distances[0] > 0.3 and distances[1] < 0.15


@pytest.mark.parametrize("batch_size", [16, 13])
def test_optimum_does_not_move_with_the_batch(batch_size: int) -> None:
    """The last of the batches of 13 has 9 examples; all are scaled by N/n."""
    assert_optimum(svi(epochs=300, batch_size=batch_size, learning_rate=0.02))


def test_n_counts_more_examples_than_are_held() -> None:
    assert_optimum(svi(epochs=800), data_size=10 * EXAMPLES)


@pytest.mark.parametrize("beta", [0.3, 3.0])
def test_kl_weight_tempers(beta: float) -> None:
    assert_optimum(svi(kl_weight=beta))


@pytest.mark.parametrize("estimator", ["local", "shared"])
@pytest.mark.parametrize(("beta", "size"), [(1.0, EXAMPLES), (0.3, 10 * EXAMPLES)])
def test_expected_gradient_vanishes_at_the_closed_form_and_not_away_from_it(
    estimator: str, beta: float, size: int
) -> None:
    """Batches of a third of the data, 5 standard errors (about 6e-7 false failures per number, seed fixed)."""
    model, data = problem(size)
    method = SVI(estimator=estimator, kl_weight=beta, batch_size=EXAMPLES // 3)
    state = method.init(model, size, 0)
    mean, variance = closed_form(data, beta)
    torch.manual_seed(3)
    for moved, shift in ((False, 0.0), (True, 1.5)):
        with torch.no_grad():
            state.guide.loc.weight.copy_(mean + shift * variance.sqrt())
            state.guide.log_variance.weight.copy_((variance * (1 + shift)).log())
        rows = []
        for step in range(300):
            part = torch.arange(step % 3, EXAMPLES, 3)
            loss = method.terms(state, (data.train_x[part], data.train_y[part])).objective(beta)
            gradients = torch.autograd.grad(loss, state.trained())
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        draws = torch.stack(rows)
        ratio = draws.mean(0).abs() / (draws.std(0) / math.sqrt(len(draws)))
        assert bool((ratio > 5).any()) if moved else bool((ratio < 5).all())


@pytest.mark.parametrize("batch_size", [EXAMPLES, 13])
@pytest.mark.parametrize("size", [None, 10 * EXAMPLES])
def test_map_with_a_normal_prior_is_ridge_regression(batch_size: int, size: int | None) -> None:
    model, data = problem(size)
    method = MAP(epochs=200, batch_size=batch_size, learning_rate=0.05, schedule="linear")
    posterior = fit(model, data, method, seed=1)
    mean, variance = closed_form(data)
    found = posterior.parameters["weight"]
    # full batches have no noise at all
    tolerance = 1e-4 if batch_size == EXAMPLES else 0.4 * float(variance.sqrt().min())
    torch.testing.assert_close(torch.from_numpy(found.mean).double(), mean, atol=tolerance, rtol=0.0)
    assert found.is_point and not found.variance.any()


def test_elbo_at_the_optimum_is_the_evidence_less_the_mean_field_gap() -> None:
    model, data = problem()
    method = SVI(batch_size=EXAMPLES)
    state = method.init(model, data.N, 0)
    mean, variance = closed_form(data)
    torch.manual_seed(2)
    with torch.no_grad():
        state.guide.loc.weight.copy_(mean)
        state.guide.log_variance.weight.copy_(variance.log())
        draws = [method.terms(state, (data.train_x, data.train_y)) for _ in range(1000)]
    elbos = torch.stack([terms.data - terms.complexity for terms in draws])
    x, y = data.train_x.double(), data.train_y.double()
    covariance = NOISE**2 * torch.eye(EXAMPLES, dtype=torch.float64) + SCALE**2 * x @ x.T
    evidence = torch.distributions.MultivariateNormal(torch.zeros(EXAMPLES, dtype=torch.float64), covariance)
    precision = x.T @ x / NOISE**2 + torch.eye(3, dtype=torch.float64) / SCALE**2
    # the gap of the best mean-field normal is ½ (Σ ln Λ_ii − ln |Λ|) per output
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    expected = float(evidence.log_prob(y.T).sum() - 2 * gap)
    assert float(elbos.mean()) == pytest.approx(expected, abs=5 * float(elbos.std()) / math.sqrt(1000))


def test_kl_warm_up_rises_to_the_weight_and_is_reported() -> None:
    model, data = problem()
    method = SVI(epochs=8, batch_size=EXAMPLES, kl_weight=0.4, kl_warmup=0.5)
    posterior = fit(model, data, method)
    history = posterior.provenance["history"]
    assert isinstance(history, list)
    assert [record["kl_weight"] for record in history] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])
    assert posterior.provenance["kl_weight"] == 0.4


def test_elbo_is_reported_at_weight_one() -> None:
    model, data = problem()
    posterior = fit(model, data, SVI(epochs=1, batch_size=EXAMPLES, kl_weight=0.1, kl_warmup=0.0))
    numbers = posterior.statistics
    assert numbers["elbo_nats"] == pytest.approx(numbers["data_nats"] - numbers["complexity_nats"])
