"""Random-walk Metropolis against closed forms; what all chains share: draws, thinning, groups, refusals."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_compress.errors import DataError, InferenceError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.results.from_draws import best_chain, posterior_from_draws
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.horseshoe import GroupHorseshoe
from pyro_compress.models.priors.normal import Normal
from pyro_compress.posterior.draws import Draws

GENERATOR = torch.Generator().manual_seed(8)
X = torch.randn(20, 3, generator=GENERATOR)
Y = torch.randn(20, 1, generator=GENERATOR)


def conjugate(x: torch.Tensor, y: torch.Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(0.0, 0.7).expand([3]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)


def exact(temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the conjugate regression's tempered posterior."""
    precision = X.T @ X / 0.25 + torch.eye(3) / 0.49
    covariance = torch.linalg.inv(precision)
    return (covariance @ X.T @ Y[:, 0] / 0.25).numpy(), (temperature * covariance).numpy()


def effective(draws: np.ndarray) -> float:
    """Effective draws of (chain, draw) by ArviZ."""
    import arviz

    return float(arviz.ess(draws))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_mean_sd_and_correlations_of_a_conjugate_regression(temperature: float) -> None:
    method = Metropolis(warmup=600, draws=1500, thin=4, chains=4, temperature=temperature)
    found = fit(conjugate, (X, Y[:, 0]), method, seed=1).draws
    assert found is not None
    draws, (mean, covariance) = found.site("weight").astype(np.float64), exact(temperature)
    count = min(effective(draws[..., i]) for i in range(3))
    assert count > 500
    sd = np.sqrt(np.diag(covariance))
    flat = draws.reshape(-1, 3)
    # 4 standard errors in six figures: one false alarm in 2,600
    assert (np.abs(flat.mean(0) - mean) < 4 * sd / math.sqrt(count)).all()
    assert (np.abs(flat.std(0) / sd - 1) < 4 / math.sqrt(2 * count)).all()
    np.testing.assert_allclose(np.corrcoef(flat.T), covariance / np.outer(sd, sd), atol=4 / math.sqrt(count))


def test_step_sizes_adapt_in_the_warm_up_only() -> None:
    found = fit(conjugate, (X, Y[:, 0]), Metropolis(warmup=400, draws=200, chains=2), seed=1).draws
    assert found is not None
    step_size = found.statistics["step_size"]
    assert (step_size == step_size[:, :1]).all()
    assert found.statistics["acceptance_rate"].mean() == pytest.approx(0.234, abs=0.1)
    fixed = fit(conjugate, (X, Y[:, 0]), Metropolis(warmup=0, draws=5, target_acceptance=0.0, step_size=0.03)).draws
    assert fixed is not None and fixed.statistics["step_size"] == pytest.approx(0.03)


def test_constrained_sites_have_their_own_distribution() -> None:
    def model() -> None:
        pyro.sample("rate", dist.Gamma(3.0, 2.0))
        pyro.sample("share", dist.Beta(2.0, 5.0))

    found = fit(model, None, Metropolis(warmup=500, draws=2000, thin=3, chains=4, step_size=0.5), seed=2).draws
    assert found is not None
    for name, law in (("rate", dist.Gamma(3.0, 2.0)), ("share", dist.Beta(2.0, 5.0))):
        draws = found.site(name).astype(np.float64)
        error = float(law.variance) ** 0.5 / math.sqrt(effective(draws))
        assert draws.mean() == pytest.approx(float(law.mean), abs=4 * error)
        assert draws.var() == pytest.approx(float(law.variance), rel=0.15)


def test_log_joint_of_the_draws_is_theirs() -> None:
    found = fit(conjugate, (X, Y[:, 0]), Metropolis(warmup=3, draws=4, thin=2, chains=2), seed=1).draws
    assert found is not None and found.count == 4
    for chain, draw in ((0, 0), (1, 3)):
        weight = torch.from_numpy(np.array(found.site("weight")[chain, draw]))
        expected = dist.Normal(0.0, 0.7).log_prob(weight).sum() + dist.Normal(X @ weight, 0.5).log_prob(Y[:, 0]).sum()
        assert found.statistics["lp"][chain, draw] == pytest.approx(float(expected), rel=1e-4)


def network(prior: Any) -> BayesianNetwork:
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), prior, Gaussian(noise=0.5))


def test_a_group_prior_gives_weights_and_group_statistics() -> None:
    prior = {"*.weight": GroupHorseshoe(tau=0.1), "*.bias": Normal()}
    posterior = fit(network(prior), (X, Y), Metropolis(warmup=5, draws=30, chains=2, step_size=0.02), seed=1)
    draws = posterior.draws
    assert draws is not None and draws.derived == ("0.weight", "2.weight")
    scale = np.sqrt(
        np.prod([draws.site(f"0.weight.{part}").astype(np.float64) for part in ("s_a", "s_b")], 0)[..., None]
        * draws.site("0.weight.z_a")
        * draws.site("0.weight.z_b")
    )
    weight = draws.site("0.weight.unscaled") * scale[:, :, None, :]
    np.testing.assert_allclose(draws.site("0.weight"), weight, rtol=1e-3)
    best = int(draws.statistics["lp"].mean(1).argmax())
    found = posterior.parameters["0.weight"]
    np.testing.assert_allclose(found.mean, weight[best].mean(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.variance, weight[best].var(0), rtol=1e-2, atol=1e-9)
    assert found.groups is not None and found.groups.unscaled == "0.weight.unscaled" and found.statistic is not None
    np.testing.assert_allclose(found.statistic, np.log(scale[best]).var(0), rtol=1e-2)
    assert f"chain {best} of 2" in str(posterior.provenance["moments"])


def test_moments_are_those_of_the_better_chain() -> None:
    shapes = {name: tuple(p.shape) for name, p in network(Normal()).network.named_parameters()}
    flat = np.stack([np.full((3, 21), 0.0), np.full((3, 21), 1.0)]).astype(np.float32)
    draws = Draws(flat, shapes, None, {"lp": np.array([[0.0, 0.0, 0.0], [-1.0, np.nan, 2.0]])})
    assert best_chain(draws) == 0
    assert (posterior_from_draws(network(Normal()), draws, "chains").parameters["0.weight"].mean == 0).all()
    assert (posterior_from_draws(network(Normal()), draws, "iid").parameters["0.weight"].mean == 0.5).all()


def test_progress_tells_acceptance() -> None:
    records: list[EpochRecord] = []
    method = Metropolis(warmup=60, draws=50, chains=2)
    fit(conjugate, (X, Y[:, 0]), method, callbacks=[lambda record, state: records.append(record)])
    assert [record.round_name for record in records] == ["transitions"] * 3
    assert all(0 <= record.extra["acceptance_rate"] <= 1 for record in records)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Metropolis(chains=0), "Metropolis needs at least 1 chain and 1 draw; found chains=0"),
        (lambda: Metropolis(draws=0), "found chains=4, draws=0"),
        (lambda: Metropolis(warmup=-1), "warmup is a number of transitions, at least 0, found -1"),
        (lambda: Metropolis(thin=0), "needs thin of at least 1"),
        (lambda: Metropolis(temperature=0.0), r"needs spread ≥ 0 and temperature > 0"),
        (lambda: Metropolis(step_size=0.0), "needs step_size > 0"),
        (lambda: fit(network({"*.weight": Normal()}), (X, Y), Metropolis(draws=1)), r"0\.bias, 2\.bias have no prior"),
    ],
)
def test_what_cannot_be_sampled_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(InferenceError, match=sentence):
        make()


def test_a_pyro_model_takes_no_loader() -> None:
    with pytest.raises(DataError, match=r"a tuple of tensors and of what else it takes; found a DataLoader"):
        fit(conjugate, DataLoader(TensorDataset(X, Y)), Metropolis(draws=1))
