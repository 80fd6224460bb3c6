"""HMC against closed forms."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_compress.inference.fit import fit
from pyro_compress.inference.mcmc.hmc import HMC
from tests.inference.chain_targets import (
    COVARIANCE,
    LOCATION,
    X,
    Y,
    assert_constrained,
    assert_gaussian,
    conjugate,
    constrained,
    effective,
    exact_conjugate,
    gaussian,
)


@pytest.mark.parametrize("settings", [{}, {"mass": "dense", "precision": "double"}, {"leapfrog_steps": 5}])
def test_mean_sd_and_correlations_of_a_gaussian(settings: dict[str, Any]) -> None:
    found = fit(gaussian, None, HMC(warmup=300, draws=700, **settings), seed=1).draws
    assert_gaussian(found, "x", LOCATION.numpy(), COVARIANCE.numpy())


def test_a_tempered_regression_has_its_closed_form() -> None:
    found = fit(conjugate, (X, Y), HMC(warmup=300, draws=700, temperature=0.3), seed=1).draws
    assert_gaussian(found, "weight", *exact_conjugate(0.3))


def test_constrained_sites_have_their_own_distribution() -> None:
    assert_constrained(fit(constrained, None, HMC(warmup=300, draws=1000), seed=2).draws)


def wide() -> None:
    pyro.sample("x", dist.Normal(0.0, torch.linspace(0.5, 1.5, 20)).to_event(1))


def test_step_sizes_reach_the_target_acceptance_and_stay() -> None:
    for target in (0.65, 0.9):
        method = HMC(warmup=400, draws=300, target_acceptance=target, mass="identity")
        found = fit(wide, None, method).draws
        assert found is not None
        statistics = found.statistics
        assert (statistics["step_size"] == statistics["step_size"][:, :1]).all()
        assert statistics["acceptance_rate"].mean() == pytest.approx(target, abs=0.35 * (1 - target))
        assert set(statistics) == {
            *("lp", "acceptance_rate", "step_size", "n_steps", "diverging", "energy", "tree_depth")
        }


def collinear(x: torch.Tensor, y: torch.Tensor) -> None:
    """A regression whose inputs are not centred: intercept and slope have a correlation of −0.99."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 100.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(intercept + slope * x, 5.0), obs=y)


def test_default_paths_reach_what_is_far_and_collinear() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 30 + 4 * torch.randn(100, generator=generator)
    y = -60 + 1.3 * x + 5 * torch.randn(100, generator=generator)
    design = torch.stack([torch.ones(100), x], 1).double()
    precision = design.T @ design / 25 + torch.diag(torch.tensor([1e-4, 1e-2], dtype=torch.float64))
    covariance = torch.linalg.inv(precision)
    mean = covariance @ design.T @ y.double() / 25
    draws = fit(collinear, (x, y), HMC(chains=2, warmup=260, draws=200, compile="never"), seed=0).draws
    assert draws is not None
    for index, name in enumerate(("intercept", "slope")):
        values, sd = draws.site(name), float(covariance[index, index].sqrt())
        assert effective(values) > 40
        assert values.mean() == pytest.approx(float(mean[index]), abs=0.5 * sd)
        assert values.std() == pytest.approx(sd, rel=0.3)
