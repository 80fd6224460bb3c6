"""Full-rank and low-rank normals against the closed forms of linear regression, and what the posterior carries.

y = X w + ε:  precision Λ = XᵀX N/(n σ²) + β I/s², the posterior is N(Λ⁻¹ XᵀyN/(nσ²), β Λ⁻¹)
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.stats import multivariate_normal
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.gradient.elbo import elbo_terms, sampled
from pyro_compress.inference.guides.joint import FullRank, JointGuide, LowRank
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.base import Prior
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.draws import GUIDE_DENSITY
from pyro_compress.posterior.posterior import Posterior

NOISE, SCALE, HELD = 0.8, 0.6, 24


def problem(size: int | None = None) -> tuple[BayesianNetwork, DataSet]:
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.6, -0.5], [0.0, 0.0, 0.7]])
    x = torch.randn(HELD, 3) @ mixing
    y = x @ torch.tensor([[0.9], [-0.5], [0.2]]) + NOISE * torch.randn(HELD, 1)
    network = nn.Linear(3, 1, bias=False)
    return BayesianNetwork(network, Normal(scale=SCALE, initial_log_variance=-4.0), Gaussian(noise=NOISE)), as_data(
        (x, y), N=size
    )


def closed_form(data: DataSet, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (3,) and covariance (3, 3)."""
    copies = data.N / len(data.train_x)
    x, y = data.train_x.double(), data.train_y.double()
    precision = copies * x.T @ x / NOISE**2 + beta * torch.eye(3, dtype=torch.float64) / SCALE**2
    mean = torch.linalg.solve(precision, copies * x.T @ y / NOISE**2)
    return mean[:, 0], beta * torch.linalg.inv(precision)


def covariance(guide: JointGuide) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = guide.distribution().covariance_matrix
    return found.double()


@pytest.mark.parametrize("guide", ["full-rank", "low-rank"])
@pytest.mark.parametrize(("size", "beta"), [(None, 1.0), (60, 0.4)])
def test_exact_posterior_with_its_correlations(guide: str, size: int | None, beta: float) -> None:
    """Of three weights, a diagonal and two directions hold any covariance."""
    model, data = problem(size)
    method = SVI(
        epochs=1500, batch_size=HELD, learning_rate=0.05, schedule="linear", kl_weight=beta, kl_warmup=0.0,
        guide=guide, rank=2, draws=4000, rates={"log_variance": 5.0},
    )  # fmt: skip
    states: list[Any] = []
    posterior = fit(model, data, method, seed=1, callbacks=[lambda record, state: states.append(state)])
    mean, expected = closed_form(data, beta)
    found = covariance(states[-1].guide)
    deviation = expected.diagonal().sqrt()
    # the gradient has no noise at the optimum
    assert float(((states[-1].guide.loc.joint.detach() - mean).abs() / deviation).max()) < 0.01
    torch.testing.assert_close(found.diagonal(), expected.diagonal(), rtol=0.02, atol=0.0)
    torch.testing.assert_close(correlation(found), correlation(expected), rtol=0.0, atol=0.01)
    assert float(correlation(expected).abs().fill_diagonal_(0).max()) > 0.5, "the problem must have correlations"
    assert_posterior_is_the_guide(posterior, states[-1].guide)


def correlation(matrix: torch.Tensor) -> torch.Tensor:
    deviation = matrix.diagonal().sqrt()
    return matrix / deviation / deviation[:, None]


def assert_posterior_is_the_guide(posterior: Posterior, guide: JointGuide) -> None:
    site, draws = posterior.parameters["weight"], posterior.draws
    assert draws is not None and posterior.kind == "guide" and not posterior.latents
    matrix = covariance(guide)
    np.testing.assert_allclose(site.mean.ravel(), guide.loc.joint.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(site.variance.ravel(), matrix.diagonal().numpy(), rtol=1e-4)
    assert draws.flat.shape == (1, 4000, 3) and draws.flat.dtype == np.float32
    drawn = np.cov(draws.flat[0].T)
    # 5 standard errors of a covariance over 4,000 draws are at most 5 √(2/4000) = 0.11 of σ_i σ_j
    deviation = matrix.diagonal().sqrt().numpy()
    assert (np.abs(drawn - matrix.numpy()) < 0.11 * np.outer(deviation, deviation)).all()


@pytest.mark.parametrize("kind", ["full-rank", "low-rank"])
def test_elbo_is_pyros(kind: str) -> None:
    """With a log-normal site, so that the change of variables counts."""
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(2, 1), Normal(scale=SCALE), Gaussian())
    guide: Any = FullRank(model) if kind == "full-rank" else LowRank(model, 2)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        guide.log_variance.joint.fill_(-1.0)
    x, y, count = torch.randn(4, 2), torch.randn(4, 1), 400
    with torch.no_grad():
        torch.manual_seed(1)
        one = elbo_terms(model.forward, guide.forward, None, x, y, size=10, divergence=sampled)
        torch.manual_seed(1)
        assert float(one.objective(1.0)) == pytest.approx(
            Trace_ELBO().loss(model.forward, guide.forward, x, y, size=10), rel=1e-4
        )
        ours = torch.tensor(
            [float(elbo_terms(model.forward, guide.forward, None, x, y, size=10).objective(1.0)) for _ in range(count)]
        )
        theirs = torch.tensor(
            [Trace_ELBO().loss(model.forward, guide.forward, x, y, size=10) for _ in range(count)], dtype=ours.dtype
        )
    error = float(((ours.var() + theirs.var()) / count).sqrt())
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=5 * error)


@pytest.mark.parametrize("prior", [Normal(), GroupHorseshoe(tau=0.5)], ids=["normal", "group-horseshoe"])
def test_draws_hold_all_sites_and_what_follows_from_them(prior: Prior, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(4, 3), {"weight": prior}, Gaussian())
    data = (torch.randn(8, 4), torch.randn(8, 3))
    method = SVI(epochs=2, batch_size=8, guide="low-rank", rank=3, draws=50)
    posterior = fit(model, data, method, seed=2)
    draws = posterior.draws
    assert draws is not None
    assert set(draws.shapes) == {site.name for site in model.latents()} | {"weight", "bias"}
    assert (draws.site("noise") > 0).all() and not np.ptp(draws.site("bias"), 1).any()
    again = fit(model, data, method, seed=2).draws
    assert again is not None
    np.testing.assert_array_equal(draws.flat, again.flat)
    if isinstance(prior, GroupHorseshoe):
        logs = sum(np.log(draws.site(f"weight.{part}")) for part in ("s_a", "s_b")).reshape(1, 50, 1)
        logs = logs + sum(np.log(draws.site(f"weight.{part}")) for part in ("z_a", "z_b"))
        expected = draws.site("weight.unscaled") * np.exp(0.5 * logs)[:, :, None, :]
        np.testing.assert_allclose(draws.site("weight"), expected, rtol=1e-4, atol=1e-7)
        weight = posterior.parameters["weight"]
        np.testing.assert_allclose(weight.variance, draws.site("weight")[0].var(0), rtol=1e-3)
    posterior.save(tmp_path / "posterior.safetensors")
    loaded = Posterior.load(tmp_path / "posterior.safetensors").draws
    assert loaded is not None
    np.testing.assert_array_equal(loaded.flat, draws.flat)


def test_draws_by_default_fit_into_memory() -> None:
    model, data = problem()
    draws = fit(model, data, SVI(epochs=1, batch_size=HELD, guide="full-rank")).draws
    assert draws is not None and draws.count == 1000


def test_score_function_serves_a_joint_guide() -> None:
    """Its gradient has the mean of the reparameterised one, 5 standard errors."""
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(2, 1, bias=False), Normal(scale=SCALE), Gaussian())
    batch, rows = (torch.randn(4, 2), torch.randn(4, 1)), []
    for estimator in ("score", "shared"):
        method = SVI(guide="full-rank", estimator=estimator)
        state = method.init(model, 8, 0)
        with torch.no_grad():
            state.guide.log_variance.joint.fill_(-1.5)
            state.guide.factor.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0], [-0.4, 0.3, 0.0]]))
        torch.manual_seed(3)
        found = []
        for _ in range(1500):
            loss = method.terms(state, batch).objective(0.5)
            gradients = torch.autograd.grad(loss, list(state.guide.parameters()))
            found.append(torch.cat([gradient.flatten() for gradient in gradients]))
        rows.append(torch.stack(found))
    error = ((rows[0].var(0) + rows[1].var(0)) / 1500).sqrt()
    assert bool(((rows[0].mean(0) - rows[1].mean(0)).abs() <= 5 * error).all())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"guide": "diagonal"}, r"unknown guide 'diagonal'.*low-rank"),
        ({"guide": "full-rank", "estimator": "flipout"}, r"'flipout' needs independent weights.*'shared' or 'score'"),
        ({"guide": "low-rank", "rank": 0}, "at least 1, found rank=0"),
        ({"guide": "low-rank", "draws": 1}, "at least 2 draws, found draws=1"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        SVI(**settings)


def test_models_that_are_too_large_are_refused() -> None:
    model = BayesianNetwork(nn.Linear(1001, 2), {"weight": Normal()}, Gaussian(noise=1.0))
    with pytest.raises(InferenceError, match=r"2,002 latent numbers .* at most 2,000; use guide='low-rank'"):
        FullRank(model)
    with pytest.raises(InferenceError, match=r"2,002 latent numbers needs a rank of at most 2,002, found rank=3000"):
        LowRank(model, 3000)
    assert math.isfinite(float(LowRank(model, 4).marginal_variance().sum().detach()))


@pytest.mark.parametrize("width", [1, 4, 30])
def test_rank_is_ten_or_as_many_as_there_are_latent_numbers(width: int) -> None:
    model = BayesianNetwork(nn.Linear(width, 1), {"weight": Normal(scale=SCALE)}, Gaussian(noise=0.5))
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    found = fit(model, (x, x.sum(1, keepdim=True)), SVI(epochs=2, batch_size=20, guide="low-rank", draws=10))
    assert found.parameters["weight"].mean.shape == (1, width)
    assert LowRank(model).rank == min(10, width)
    if width == 4:
        with pytest.raises(InferenceError, match="4 latent numbers needs a rank of at most 4, found rank=10"):
            fit(model, (x, x.sum(1, keepdim=True)), SVI(epochs=1, batch_size=20, guide="low-rank", rank=10))


@pytest.mark.parametrize("kind", ["full-rank", "low-rank"])
def test_draws_carry_their_density(kind: str) -> None:
    """Σ of the log-density over a grid of draws is that of N(μ, Σ), less ln x of a log-normal site."""
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(2, 1), Normal(scale=SCALE), Gaussian())
    guide: Any = FullRank(model) if kind == "full-rank" else LowRank(model, 2)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        guide.log_variance.joint.fill_(-1.0)
    drawn = guide.draws(model, 50, seed=1)
    (positive,) = [name for name, site in guide.sites.items() if site.family == "lognormal"]
    columns = [drawn.site(name)[0].reshape(50, -1).astype(float) for name in guide.sites]
    logs = [np.log(c) if name == positive else c for name, c in zip(guide.sites, columns, strict=True)]
    u = np.concatenate(logs, axis=1)
    mean, matrix = guide.loc.joint.detach().double().numpy(), covariance(guide).numpy()
    expected = multivariate_normal(mean, matrix).logpdf(u) - np.log(drawn.site(positive)[0].astype(float)).ravel()
    np.testing.assert_allclose(drawn.statistics[GUIDE_DENSITY][0], expected, rtol=0, atol=2e-4)


def test_a_large_covariance_does_not_outgrow_its_scale() -> None:
    """Adam moves every number by about the rate at first: 400 numbers of a row at one rate would sum to a wide row."""
    torch.manual_seed(0)
    guide = FullRank(BayesianNetwork(nn.Sequential(nn.Linear(20, 20, bias=False)), Normal()))
    groups = {
        group["params"][0]: group["multiplier"]
        for group in guide.parameter_groups({"weight": 1.0, "log_variance": 3.0})
    }
    assert groups[guide.loc.joint] == 1.0 and groups[guide.log_variance.joint] == 3.0
    assert groups[guide.factor] == pytest.approx(3.0 * math.sqrt(16 / 400))
    small = FullRank(BayesianNetwork(nn.Sequential(nn.Linear(4, 4, bias=False)), Normal()))
    assert [group["multiplier"] for group in small.parameter_groups({"weight": 1.0, "log_variance": 3.0})][-1] == 3.0
