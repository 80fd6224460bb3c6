"""HMC against closed forms."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_compress.inference.fit import fit
from pyro_compress.inference.hmc import HMC
from tests.inference.chain_targets import (
    COVARIANCE,
    LOCATION,
    X,
    Y,
    assert_constrained,
    assert_gaussian,
    conjugate,
    constrained,
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
