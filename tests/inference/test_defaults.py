"""Fits of Pyro models that set nothing: the best normal guide and the mode, against closed forms."""

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from benchmarks.accuracy_targets import funnel, gaussian
from pyro_compress.inference.contract import left_at_defaults
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.guides.newton_guides import fixed_noise, guide_at, improved, polished
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.normal import Normal

GENERATOR = torch.Generator().manual_seed(6)
# columns of very different units
X = torch.randn(40, 3, generator=GENERATOR) @ torch.tensor([[1.0, 80.0, 0.0], [0.0, 60.0, 0.0], [0.0, 0.0, 0.01]])
Y = X @ torch.tensor([0.5, 0.02, 40.0]) + 0.6 * torch.randn(40, generator=GENERATOR)
SCALES = torch.tensor([2.0, 1.0, 100.0])
PRECISION = (X.T @ X / 0.36 + torch.diag(SCALES**-2)).double()
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = (COVARIANCE @ (X.T @ Y / 0.36).double()).numpy()
SD = COVARIANCE.diag().sqrt().numpy()


def regression(x: Tensor, y: Tensor) -> None:
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), SCALES).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.6), obs=y)


def test_noise_has_the_moments_of_a_standard_normal() -> None:
    noise = fixed_noise(64, 5, seed=3)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(noise.T @ noise / 64, np.eye(5), atol=1e-12)
    assert not torch.equal(noise, fixed_noise(64, 5, seed=4))


def test_on_a_normal_posterior_one_step_is_the_answer() -> None:
    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        away = u - torch.from_numpy(MEAN)
        return -0.5 * ((away @ PRECISION) * away).sum(1), -(away @ PRECISION)

    noise = fixed_noise(32, 3, seed=0)
    start = guide_at(evaluate, noise, torch.zeros(3).double(), torch.diag(torch.from_numpy(SD) / 2))
    found = improved(evaluate, noise, start, independent=False)
    np.testing.assert_allclose(found.mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(found.root @ found.root.T, COVARIANCE, rtol=1e-4)
    off = guide_at(evaluate, noise, torch.from_numpy(MEAN + SD), torch.diag(torch.from_numpy(SD)))
    for independent, variance in ((True, 1 / PRECISION.diag()), (False, COVARIANCE.diag())):
        polish = polished(evaluate, noise, off, independent, 200)
        np.testing.assert_allclose((polish.mean.numpy() - MEAN) / SD, 0.0, atol=1e-3)
        np.testing.assert_allclose((polish.root @ polish.root.T).diagonal(), variance, rtol=1e-2)


def test_defaults_are_exact_on_a_regression_whose_columns_have_different_units() -> None:
    found = fit(regression, (X, Y), SVI(), seed=1)
    weight = found.parameters["weight"]
    np.testing.assert_allclose((weight.mean - MEAN) / SD, 0.0, atol=1e-2)
    np.testing.assert_allclose(weight.variance, SD**2, rtol=1e-2)
    assert found.provenance["method"] == "SVI" and found.provenance["guide"]["family"] == "full-rank"  # type: ignore[index]
    independent = fit(regression, (X, Y), BayesByBackprop(), seed=1).parameters["weight"]
    np.testing.assert_allclose((independent.mean - MEAN) / SD, 0.0, atol=1e-2)
    np.testing.assert_allclose(independent.variance, 1 / PRECISION.diag(), rtol=1e-2)
    mode = fit(regression, (X, Y), MAP(), seed=1)
    assert mode.kind == "point"
    np.testing.assert_allclose((mode.parameters["weight"].mean - MEAN) / SD, 0.0, atol=1e-3)


def test_defaults_find_the_best_of_their_family_where_it_is_not_the_posterior() -> None:
    correlated = gaussian()
    found = fit(correlated.model, None, BayesByBackprop(), seed=1).parameters["x"]
    np.testing.assert_allclose(found.mean, correlated.mean, atol=1e-3)
    np.testing.assert_allclose(found.variance, 1 / np.diag(np.linalg.inv(correlated.covariance)), rtol=1e-3)
    neck = fit(funnel().model, None, SVI(), seed=1).parameters["v"]
    # the best normal of the funnel, see `accuracy_targets.funnel`
    assert float(neck.mean) == pytest.approx(0.0, abs=0.1)
    assert math.sqrt(float(neck.variance)) == pytest.approx(1 / math.sqrt(1 / 9 + 9 / 2), rel=0.06)


def test_the_mode_is_that_of_the_density_in_its_own_space() -> None:
    def gamma() -> None:
        pyro.sample("rate", dist.Gamma(3.0, 2.0))

    assert float(fit(gamma, None, MAP(), seed=1).parameters["rate"].mean) == pytest.approx(1.0, abs=1e-4)

    def two_modes() -> None:
        parts = dist.Normal(torch.tensor([-5.0, 6.0]), torch.tensor([1.0, 0.5]))
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts))

    assert float(fit(two_modes, None, MAP(), seed=1).parameters["x"].mean) == pytest.approx(6.0, abs=1e-2)


def test_a_fit_that_sets_nothing_stops_by_itself_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    class Stop(Exception):
        """As if the process had been killed."""

    def stop(record: EpochRecord, state: object) -> None:
        if record.epoch == 1:
            raise Stop

    path = tmp_path / "fit.pt"
    whole = fit(regression, (X, Y), SVI(), seed=2)
    assert 2 < len(whole.provenance["history"]) < 20  # type: ignore[arg-type]
    with pytest.raises(Stop):
        fit(regression, (X, Y), SVI(), seed=2, checkpoint=path, callbacks=[stop])
    resumed = fit(regression, (X, Y), SVI(), seed=2, checkpoint=path, resume=True)
    again = fit(regression, (X, Y), SVI(), seed=2, checkpoint=path, resume=True)
    for other in (resumed, again):
        assert whole.draws is not None and other.draws is not None
        np.testing.assert_array_equal(whole.draws.flat, other.draws.flat)


def test_what_is_set_stands() -> None:
    """Any setting of the descent: 60 epochs given are 60 epochs, and a network has what it had."""
    given = fit(regression, (X, Y), SVI(epochs=60), seed=1)
    assert len(given.provenance["history"]) == 60  # type: ignore[arg-type]
    for method in (SVI(learning_rate=1e-3), SVI(batch_size=128), SVI(particles=2), SVI(kl_weight=0.5), MAP(clip=1.0)):
        assert not left_at_defaults(method)
    assert left_at_defaults(SVI(guide="full-rank", draws=50), ("guide", "draws"))
    model = BayesianNetwork(nn.Sequential(nn.Linear(3, 2)), Normal())
    history = fit(model, (X, (Y > 0).long()), SVI(), seed=1).provenance["history"]
    assert len(history) == 60  # type: ignore[arg-type]


def test_a_model_that_runs_at_one_point_at_a_time_is_fitted_all_the_same() -> None:
    def in_place(x: Tensor, y: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), SCALES).to_event(1))
        expected = torch.zeros(len(x))
        expected.copy_(x @ weight)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(expected, 0.6), obs=y)

    weight = fit(in_place, (X, Y), SVI(), seed=1).parameters["weight"]
    np.testing.assert_allclose((weight.mean - MEAN) / SD, 0.0, atol=1e-2)
    np.testing.assert_allclose(weight.variance, SD**2, rtol=1e-2)


def test_what_cannot_be_looked_at_whole_is_fitted_in_steps() -> None:
    def noisy(x: Tensor, y: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), SCALES).to_event(1))
        with pyro.plate("data", len(x), subsample_size=10) as chosen:
            pyro.sample("y", dist.Normal(x[chosen] @ weight, 0.6), obs=y[chosen])

    assert len(fit(noisy, (X, Y), SVI(), seed=1).provenance["history"]) == 60  # type: ignore[arg-type]
