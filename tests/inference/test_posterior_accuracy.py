"""Samplers against known moments, by the measure that benchmarks/posterior_accuracy.py prints; SBC.

Simulation-based calibration (Talts, Betancourt, Simpson, Vehtari & Gelman 2018): with θ from the prior and y from the
model, the rank of θ among draws of p(θ | y) is uniform.  Replicates stand side by side in one model, whose posterior is
the product of theirs, so that one run serves them all.  Two chi-square tests per method at 10⁻³: one false failure of
a method in 500 seeds, and the seed is fixed.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.accuracy_errors import Errors, Target, errors
from benchmarks.accuracy_guides import Fitted
from benchmarks.accuracy_targets import eight_schools, funnel, gaussian, logistic, regression
from benchmarks.posterior_accuracy import Row
from pyro_compress.inference.contract import Method, State
from pyro_compress.inference.fit import fit
from pyro_compress.inference.independent.importance import ImportanceSampling
from pyro_compress.inference.independent.rejection import RejectionSampling
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal

EXACT: dict[str, Callable[[], Method]] = {
    "metropolis": lambda: Metropolis(chains=50, warmup=300, draws=300, thin=2),
    "hmc": lambda: HMC(warmup=200, draws=250, compile="never"),
    "nuts": lambda: NUTS(warmup=200, draws=200, compile="never"),
    "importance": lambda: ImportanceSampling(draws=20_000),
    "rejection": lambda: RejectionSampling(draws=500),
}
SMALL: dict[str, Callable[[], Target]] = {"gaussian": gaussian, "regression": regression, "logistic": logistic}


def found(target: Target, method: Method) -> Errors:
    posterior = fit(target.model, target.data, method, seed=3)
    draws = posterior.draws
    assert draws is not None
    sites = {name: draws.site(name).astype(np.float64) for name in draws.shapes}
    return errors(target, sites, draws.weights(), posterior.kind != "chains")


def assert_within(errors: Errors) -> None:
    """4 standard errors in at most 9 figures: one false alarm in 1,700."""
    assert errors.effective > 100
    assert max(errors.standard_errors) < 4, errors


@pytest.mark.filterwarnings("ignore:20,000 proposals are worth")
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("target", SMALL)
def test_exact_samplers_have_the_moments_of_small_targets(target: str, name: str) -> None:
    assert_within(found(SMALL[target](), EXACT[name]()))


@pytest.mark.parametrize("name", ["nuts", "importance"])
def test_eight_schools_not_centred(name: str) -> None:
    assert_within(found(eight_schools(False), EXACT[name]()))


def test_errors_are_measured_in_standard_errors() -> None:
    """Independent draws of the target itself, weighted ones too, score as standard normals; shifted ones do not."""
    target, generator, scores = gaussian(), np.random.default_rng(0), []
    for _ in range(60):
        draws = generator.multivariate_normal(target.mean, target.covariance, size=(1, 4000))
        scores.append(errors(target, {"x": draws}, np.full((1, 4000), 1 / 4000), True).standard_errors)
    # mean and sd are the larger of two figures
    assert np.sqrt(np.square(scores).mean(0)) == pytest.approx([1.17, 1.17, 1.0], abs=0.3)
    proposals = generator.multivariate_normal(target.mean, 2 * target.covariance, size=(1, 4000))
    off = proposals - target.mean
    log_weight = -np.einsum("cdi,ij,cdj->cd", off, np.linalg.inv(target.covariance), off) / 4
    weights = np.exp(log_weight) / np.exp(log_weight).sum()
    weighted = errors(target, {"x": proposals}, weights, True)
    # a proposal with more in its tails can be worth more than as many draws of the target
    assert 2000 < weighted.effective < 6000 and max(weighted.standard_errors) < 4
    biased = errors(target, {"x": 1.1 * proposals + 0.2}, weights, True)
    assert min(biased.standard_errors[:2]) > 4
    assert biased.absolute[1] == pytest.approx(0.1, abs=0.04)


# ---- variational methods, by the best member of their family


def fitted(target: Target, method: Method, seed: int) -> Fitted:
    last: dict[str, State] = {}
    fit(target.model, target.data, method, seed=seed, callbacks=[lambda _, state: last.update(state=state)])
    return Fitted(target, last["state"])


@pytest.mark.parametrize("make", [gaussian, funnel])
@pytest.mark.parametrize("guide", ["declared", "full-rank"])
def test_the_best_member_of_a_family_is_its_closed_form(make: Callable[[], Target], guide: str) -> None:
    """Found from a guide that has hardly moved; 4,096 points of noise know an sd to 1.1 %."""
    target = make()
    found = fitted(target, SVI(epochs=5, batch_size=1, learning_rate=0.02, guide=guide, draws=10), seed=1)
    expected, best = found.aim(), without_closed_form(found).aim()
    sd, sd_found = (np.sqrt(np.diag(one.covariance)) for one in (expected, best))
    np.testing.assert_allclose((best.mean - expected.mean) / sd, 0.0, atol=0.07)
    np.testing.assert_allclose(sd_found / sd, 1.0, atol=0.05)
    np.testing.assert_allclose(
        best.covariance / np.outer(sd_found, sd_found), expected.covariance / np.outer(sd, sd), atol=0.05
    )


def without_closed_form(found: Fitted) -> Fitted:
    """The same without the closed form."""
    found.target = replace(found.target, best_normal=None)
    return found


@pytest.mark.parametrize(
    "method",
    [
        SVI(epochs=1500, batch_size=1, learning_rate=0.02, schedule="linear", kl_warmup=0.0),
        BayesByBackprop(epochs=1500, batch_size=1, learning_rate=0.02, schedule="linear", averaging=0.5),
    ],
)
def test_mean_field_finds_its_optimum_where_the_posterior_has_correlations(method: Method) -> None:
    """ρ = 0.9: frozen means would add noise of 9 σ to a direction of curvature 1, and this seed ended 0.37 sds off."""
    target = gaussian()
    guide = fitted(target, method, seed=2).guide
    sd = np.sqrt(1 / np.diag(np.linalg.inv(target.covariance)))
    np.testing.assert_allclose((guide.loc.joint.detach().numpy() - target.mean) / sd, 0.0, atol=0.12)
    np.testing.assert_allclose(guide.marginal_variance().detach().sqrt().numpy() / sd, 1.0, atol=0.1)


def row(method: str, target: str, off: float, flags: tuple[str, ...]) -> Row:
    return Row(method, target, "closed form", Errors(500.0, (9.0, 9.0, 9.0), (off, off, off)), flags=flags)


def test_rows_are_judged_by_their_budgets_and_in_necks_by_what_is_flagged() -> None:
    assert row("sgld", "linear regression", 0.09, ("r_hat",)).verdict == "ok"
    assert row("sgld", "linear regression", 0.11, ("r_hat",)).verdict == "OFF"
    assert row("nuts", "funnel", 0.11, ("divergences",)).verdict == "flagged"
    assert row("nuts", "funnel", 0.11, ("acceptance",)).verdict == "OFF"
    assert row("importance", "funnel", 0.11, ("pareto_k",)).verdict == "OFF"
    assert row("sgld", "funnel", math.nan, ()).verdict == "OFF"
    assert Row("csgld", "funnel", "closed form", message="not finite").verdict == "flagged"
    assert Row("csgld", "linear regression", "closed form", message="not finite").verdict == "OFF"


def test_variational_rows_are_judged_by_the_best_of_their_family() -> None:
    far, near = row("svi", "funnel", 0.9, ()), row("svi", "funnel", 0.05, ())
    assert replace(far, family=near.found).verdict == "ok"
    assert replace(near, family=far.found).verdict == "OFF"


# ---- simulation-based calibration

REPLICATES, BINS, RANKS = 160, 8, 64


def assert_uniform(truth: np.ndarray, draws: np.ndarray) -> None:
    p_values = uniformity(truth, draws)
    assert p_values.min() > 1e-3, p_values


def uniformity(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(k,) p-values of the ranks of truth (replicate, k) among draws (RANKS − 1, replicate, k), in bins."""
    assert len(draws) == RANKS - 1
    ranks = (draws < truth).sum(0)
    counts = np.stack([np.bincount(column * BINS // RANKS, minlength=BINS) for column in ranks.T])
    return np.asarray(stats.chisquare(counts, axis=1).pvalue)


def test_sbc_of_nuts() -> None:
    """Intercept and slope of regressions, each with five observations of its own."""
    generator = torch.Generator().manual_seed(2)
    x = torch.linspace(0.0, 2.0, 5)
    truth = torch.tensor([1.0, 0.5]) * torch.randn(REPLICATES, 2, generator=generator)
    y = truth[:, :1] + truth[:, 1:] * x + 0.7 * torch.randn(REPLICATES, 5, generator=generator)

    def regressions(y: Tensor) -> None:
        intercept = pyro.sample("intercept", dist.Normal(torch.zeros(REPLICATES), 1.0).to_event(1))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(REPLICATES), 0.5).to_event(1))
        with pyro.plate("data", REPLICATES):
            expected = intercept[..., None] + slope[..., None] * x
            pyro.sample("y", dist.Normal(expected, 0.7).to_event(1), obs=y)

    draws = fit(regressions, (y,), NUTS(chains=3, warmup=100, draws=21, thin=2, compile="never"), seed=4).draws
    assert draws is not None
    values = np.stack([draws.site("intercept"), draws.site("slope")], -1).reshape(RANKS - 1, REPLICATES, 2)
    assert_uniform(truth.numpy(), values)


def regressions_of_a_network(replicates: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, truth): four examples of two correlated inputs, so that weights are correlated; y is (4, replicates)."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(4, 2, generator=generator) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]])
    truth = 0.8 * torch.randn(replicates, 2, generator=generator)
    return x, x @ truth.T + torch.randn(4, replicates, generator=generator), truth


def network(outputs: int) -> BayesianNetwork:
    torch.manual_seed(0)
    prior = Normal(0.8, initial_log_variance=-1.5)
    return BayesianNetwork(nn.Linear(2, outputs, bias=False), prior, Gaussian(noise=1.0))


def test_sbc_of_svi_where_its_guide_is_exact() -> None:
    """One replicate after the other, each from where the last one ended; the last is held to its closed form."""
    replicates, count = 48, 50
    x, y, truth = regressions_of_a_network(replicates)
    method = SVI(
        epochs=count, batch_size=4, learning_rate=0.3, optimizer="sgd", schedule="linear", kl_warmup=0.0,
        guide="full-rank", draws=RANKS - 1, rates={"log_variance": 1.0},
    )  # fmt: skip
    covariance = torch.linalg.inv(x.T @ x + torch.eye(2) / 0.64)
    drawn = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = method.init(network(1), 4, seed=0)
        for replicate in [0, 0, 0, *range(replicates)]:
            state.steps_done, state.seed = 0, replicate
            for _ in range(count):
                method.step(state, (x, y[:, replicate : replicate + 1]))
            draws = method.draw(state).draws
            assert draws is not None
            drawn.append(draws.site("weight").reshape(RANKS - 1, 2))
    mean = (covariance @ x.T @ y[:, -1]).numpy()
    found = method.draw_for_validation(state).parameters["weight"]
    np.testing.assert_allclose(found.mean[0], mean, atol=0.02)
    np.testing.assert_allclose(found.variance[0], covariance.diagonal().numpy(), rtol=0.1)
    assert_uniform(truth.numpy(), np.stack(drawn[3:], 1))


def test_sbc_finds_that_independent_weights_are_too_narrow() -> None:
    """The same test has the power to refuse a mean-field guide, whose sds are too small by √(1 − ρ²)."""
    x, y, truth = regressions_of_a_network(REPLICATES)
    method = SVI(epochs=500, batch_size=4, learning_rate=0.02, schedule="linear", kl_warmup=0.0)
    posterior = fit(network(REPLICATES), (x, y), method, seed=1)
    drawn = posterior.sample_latents(RANKS - 1, seed=2)["weight"]
    assert uniformity(truth.numpy(), drawn).min() < 1e-6
