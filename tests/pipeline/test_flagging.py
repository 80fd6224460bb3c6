"""What `pc.fit` says of its own posterior: against closed forms, and nothing where there is nothing to say."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.analysis.diagnosis.fit_flags import trend_flags
from pyro_compress.errors import PosteriorWarning
from pyro_compress.inference.contract import Method
from pyro_compress.inference.log_joint.curvature import largest_curvature, newton_step
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.models.program import Program

GENERATOR = torch.Generator().manual_seed(6)
X = torch.randn(30, 2, generator=GENERATOR) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
Y = X @ torch.tensor([0.5, -0.4]) + 0.6 * torch.randn(30, generator=GENERATOR)
PRECISION = (X.T @ X / 0.36 + torch.eye(2)).double()
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ (X.T @ Y / 0.36).double()
STEEPEST = float(torch.linalg.eigvalsh(PRECISION)[-1])
LONG: dict[str, Any] = {"epochs": 600, "batch_size": 30, "learning_rate": 0.05, "schedule": "linear", "kl_warmup": 0.0}


def regression(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.6), obs=y)


def fitted(method: Method, model: Any = regression, data: Any = (X, Y)) -> tuple[pc.Posterior, list[str]]:
    """The posterior, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = pc.fit(model, data, method, seed=1)
    return posterior, [str(one.message) for one in caught if issubclass(one.category, PosteriorWarning)]


def names(posterior: pc.Posterior) -> set[str]:
    return {flag.name for flag in posterior.flags}


def test_a_fit_that_was_stopped_early_says_so_in_one_line(tmp_path: Path) -> None:
    posterior, warned = fitted(pc.inference.SVI(epochs=20, batch_size=30, learning_rate=1e-3, guide="full-rank"))
    assert "not_converged" in names(posterior)
    assert len(warned) == 1 and warned[0].startswith("SVI: the fit has not converged: by the gradient at its draws")
    expected = float(
        ((MEAN - torch.tensor(posterior.parameters["weight"].mean)) / COVARIANCE.diag().sqrt()).abs().max()
    )
    assert posterior.statistics["shift_sds"] == pytest.approx(expected, rel=0.01)
    posterior.save(tmp_path / "posterior.safetensors")
    read = pc.Posterior.load(tmp_path / "posterior.safetensors")
    assert read.flags == posterior.flags
    assert {flag.name for flag in pc.diagnose(read, regression, (X, Y)).flags} == names(posterior)


def test_a_fit_that_is_right_is_not_flagged() -> None:
    posterior, warned = fitted(pc.inference.SVI(**LONG, guide="full-rank", averaging=0.5))
    assert not posterior.flags and not warned
    assert posterior.statistics["pareto_k"] < 0.5 and posterior.statistics["shift_sds"] < 0.1
    diagnosis = pc.diagnose(posterior, regression, (X, Y))
    assert not diagnosis.flags and len(diagnosis.rows) == 2


def test_correlations_that_a_guide_leaves_out_are_named() -> None:
    posterior, warned = fitted(pc.inference.SVI(**LONG, averaging=0.5))
    assert names(posterior) & {"correlations", "posterior_sd"} and not names(posterior) & {"not_converged", "trend"}
    best = 1 / (PRECISION.diag() * COVARIANCE.diag()).sqrt()
    assert posterior.statistics["family_sd_ratio"] == pytest.approx(float(best.min()), rel=0.02)
    assert "even the best has" in posterior.flags[0].sentence and len(warned) == 1


def test_beta_and_temperature_are_said() -> None:
    posterior, warned = fitted(pc.inference.SVI(**LONG, guide="full-rank", averaging=0.5, kl_weight=0.5))
    assert "β = 0.5: this is the posterior of data that count 2 times" in warned[0]
    assert "kl_weight" in names(posterior) and "not_converged" not in names(posterior)
    cold, warned = fitted(pc.inference.NUTS(chains=2, warmup=100, draws=400, temperature=0.25, compile="never"))
    assert "temperature" in names(cold) and "to the power 1/0.25" in warned[0]


def test_point_estimates_are_held_against_their_maximum() -> None:
    good, warned = fitted(pc.inference.MAP(epochs=400, batch_size=30, learning_rate=0.05))
    assert not good.flags and not warned
    bad, warned = fitted(pc.inference.MAP(epochs=5, batch_size=30, learning_rate=1e-3))
    off = float(((MEAN - torch.tensor(bad.parameters["weight"].mean)) / COVARIANCE.diag().sqrt()).abs().max())
    assert bad.statistics["shift_sds"] == pytest.approx(off, rel=1e-3)
    assert "sds from the maximum of the density" in warned[0]

    def unbounded() -> None:
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        pyro.sample("x", dist.Normal(torch.zeros(5), scale).to_event(1))

    funnel, _ = fitted(pc.inference.MAP(epochs=20, learning_rate=1e-3), unbounded, None)
    assert "not_converged" in names(funnel)


@pytest.mark.parametrize(
    ("kind", "options", "share"),
    [
        (pc.inference.SGLD, {}, 0.25),
        (pc.inference.SGHMC, {"friction": 0.4}, 0.5 / 1.6),
        (pc.inference.CyclicalSGLD, {"cycles": 1, "exploration": 0.0}, 0.25),
    ],
)
@pytest.mark.parametrize("step", [0.2, 1.2])
def test_steps_are_held_against_the_smallest_variance(kind: Any, options: Any, share: float, step: float) -> None:
    steady = {} if kind is pc.inference.CyclicalSGLD else {"gamma": 0.0}
    method = kind(epochs=40, batch_size=30, a=30 * step / STEEPEST, **steady, **options)
    posterior, _ = fitted(method)
    assert posterior.draws is not None
    mean = float((posterior.draws.weights() * posterior.draws.statistics["step_size"]).sum()) * STEEPEST * share
    assert posterior.statistics["variance_inflation"] == pytest.approx(mean / (1 - mean), rel=0.01)
    assert ("step_size" in names(posterior)) == (mean / (1 - mean) > 0.1)


def test_preconditioned_steps_count_as_they_are() -> None:
    method = pc.inference.PreconditionedSGLD(epochs=200, batch_size=30, a=1.0, gamma=0.0)
    posterior, _ = fitted(method)
    root = torch.tensor(posterior.provenance["langevin_step"]).double().sqrt()
    share = float(torch.linalg.eigvalsh(root[:, None] * PRECISION * root)[-1]) / 4
    expected = share / (1 - share) if share < 1 else float("inf")
    assert posterior.statistics["variance_inflation"] == pytest.approx(expected, rel=0.01)


def test_curvatures_of_a_normal_posterior() -> None:
    log_joint = LogJoint(Program(regression, (X, Y)), 30)
    u = torch.tensor([0.3, 0.2])
    step = newton_step(log_joint, u, (X, Y), jacobian=True)
    assert step is not None
    np.testing.assert_allclose(u + step[0], MEAN, rtol=1e-4)
    np.testing.assert_allclose(step[1], COVARIANCE.diag().sqrt(), rtol=1e-4)
    assert largest_curvature(log_joint, u, (X, Y), torch.ones(2)) == pytest.approx(STEEPEST, rel=1e-3)


def test_the_trend_of_a_history_is_told_from_its_noise() -> None:
    def history(values: np.ndarray) -> list[dict[str, Any]]:
        return [{"data_nats": value, "complexity_nats": 0.0, "objective_name": "ELBO"} for value in values]

    noise = np.random.default_rng(0).standard_normal(80)
    still: dict[str, float] = {}
    assert not list(trend_flags(history(-1000 + noise), still))
    assert not list(trend_flags(history(-1000 + 20 * noise), {}))
    rising = list(trend_flags(history(-1000 + 2.0 * np.arange(80) + noise), still))
    assert rising[0].name == "trend" and "the ELBO still rose by" in rising[0].sentence
    assert still["objective_rise_nats"] == pytest.approx(20.0, abs=1.5)


def test_networks_are_judged_by_the_gradient_where_they_are_small() -> None:
    torch.manual_seed(0)
    model = pc.BayesianNetwork(
        nn.Sequential(nn.Linear(2, 1, bias=False)), pc.models.Normal(), pc.models.Gaussian(noise=0.6)
    )
    data = (X, Y[:, None])
    short, warned = fitted(pc.inference.SVI(epochs=5, batch_size=30), model, data)
    assert "not_converged" in names(short) and len(warned) == 1
    long, _ = fitted(pc.inference.SVI(**LONG, averaging=0.5), model, data)
    assert not names(long) & {"not_converged", "sd_not_converged", "trend"}
    weighted, warned = fitted(pc.inference.SVI(**LONG, kl_weight=0.5), model, data)
    assert "kl_weight" in names(weighted) and not warned


def test_a_network_without_hidden_units_has_r_hats_to_believe() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    y = x @ torch.randn(10, 1, generator=generator) + 0.5 * torch.randn(100, 1, generator=generator)
    method = Metropolis(chains=4, warmup=200, draws=200)
    for network, flagged in ((nn.Linear(10, 1), True), (nn.Sequential(nn.Linear(10, 2), nn.Linear(2, 1)), False)):
        model = pc.BayesianNetwork(network, pc.models.Normal(), pc.models.Gaussian(noise=0.5))
        posterior = pc.fit(model, (x, y), method, seed=0)
        assert ("r_hat" in {flag.name for flag in posterior.flags}) == flagged


@pytest.mark.parametrize(
    "method",
    [
        SGLD(epochs=80, batch_size=20, a=0.16, gamma=0.0, chains=4),
        SGHMC(epochs=80, batch_size=20, a=0.016, gamma=0.0, chains=4),
        SGHMC(epochs=160, batch_size=20, a=0.0008, gamma=0.0, chains=4, noise_estimate=0.04),
    ],
    ids=["sgld", "sghmc", "estimated"],
)
def test_what_the_noise_of_batches_adds_is_said(method: Method) -> None:
    y = torch.randn(2000, generator=torch.Generator().manual_seed(0)) + 1.5

    def model(y: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    posterior, _ = fitted(method, model, (y,))
    found = float(posterior.statistics["batch_noise_inflation"])
    # V = N² / n Var g_i, and the steps are a / N
    share = method.a / 4 if isinstance(method, SGLD) else method.a / (2 * method.friction)  # type: ignore[attr-defined]
    known = getattr(method, "noise_estimate", 0.0) / 0.1
    assert found == pytest.approx(share * 2000 / 20 - known, rel=0.3, abs=0.2)
    assert float(posterior.parameters["m"].variance) * 2000.25 == pytest.approx(1 + found, rel=0.35)
    assert ("batch_noise" in {flag.name for flag in posterior.flags}) == (found > 0.1)


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_noise_that_pooling_averages_out_is_said(estimator: str) -> None:
    generator, noise = torch.Generator().manual_seed(0), 0.5
    x = torch.randn(100, 1, 1, 1, generator=generator) + 0.1 * torch.randn(100, 1, 8, 8, generator=generator)
    mean = x.mean((2, 3))
    y = 0.7 * mean + noise * torch.randn(100, 1, generator=generator)
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = pc.BayesianNetwork(network, pc.models.Normal(initial_log_variance=-6.0), pc.models.Gaussian(noise=noise))
    method = pc.inference.SVI(epochs=600, batch_size=100, learning_rate=0.02, kl_warmup=0.0, estimator=estimator)
    posterior = pc.fit(model, (x, y), method, seed=0)
    exact = (1 + float(mean.square().sum()) / noise**2) ** -0.5
    right = float(posterior.parameters["0.weight"].variance.item()) ** 0.5 == pytest.approx(exact, rel=0.3)
    assert right == (estimator == "flipout")
    assert ("noise_per_place" in {flag.name for flag in posterior.flags}) != right
    reads_all = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    model = pc.BayesianNetwork(reads_all, pc.models.Normal(), pc.models.Gaussian(noise=noise))
    posterior = pc.fit(model, (x, y), method, seed=0)
    assert "noise_per_place" not in {flag.name for flag in posterior.flags}
