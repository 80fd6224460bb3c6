"""NUTS against closed forms, a simulation-based calibration, the trees themselves, divergences."""

import functools
import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_compress.inference.fit import fit
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.leapfrog import MOMENTUM, POSITION, Leapfrog, drive
from pyro_compress.inference.mcmc.nuts import NUTS, Tally, grow
from pyro_compress.models.program import Program
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


@pytest.mark.parametrize("settings", [{}, {"mass": "dense", "precision": "double"}])
def test_mean_sd_and_correlations_of_a_gaussian(settings: dict[str, Any]) -> None:
    found = fit(gaussian, None, NUTS(warmup=300, draws=500, **settings), seed=1).draws
    assert_gaussian(found, "x", LOCATION.numpy(), COVARIANCE.numpy())


def test_a_tempered_regression_has_its_closed_form() -> None:
    found = fit(conjugate, (X, Y), NUTS(warmup=300, draws=500, temperature=0.3), seed=1).draws
    assert_gaussian(found, "weight", *exact_conjugate(0.3))


def test_constrained_sites_have_their_own_distribution() -> None:
    assert_constrained(fit(constrained, None, NUTS(warmup=300, draws=600), seed=2).draws)


def eight_schools() -> None:
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * offset, sigma), obs=y)


def test_eight_schools_without_arguments() -> None:
    found = fit(eight_schools, None, NUTS(warmup=250, draws=400), seed=3).draws
    assert found is not None
    # marginal over the effects, by quadrature over (mu, tau) on a grid
    mu, tau = np.meshgrid(np.linspace(-25, 30, 400), np.linspace(0.01, 80, 1500))
    y, sigma = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    variance = tau[..., None] ** 2 + sigma**2
    log = -0.5 * (np.square(y - mu[..., None]) / variance + np.log(variance)).sum(-1)
    log += -(mu**2) / 50 - np.log1p(np.square(tau / 5))
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    for name, values, grid in (("mu", found.site("mu"), mu), ("tau", np.log(found.site("tau")), np.log(tau))):
        mean = float((weight * grid).sum())
        sd = math.sqrt(float((weight * np.square(grid - mean)).sum()))
        assert abs(values.mean() - mean) < 4 * sd / math.sqrt(effective(values)) + 0.01 * sd, name
    assert found.statistics["diverging"].mean() < 0.01


def funnel() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(0.0, (v / 2).exp()).expand([9]).to_event(1))


def non_centred_funnel() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    white = pyro.sample("white", dist.Normal(0.0, 1.0).expand([9]).to_event(1))
    pyro.deterministic("x", white * (v / 2).exp())


def test_divergences_are_flagged_on_a_funnel_and_absent_without_its_neck() -> None:
    # steps of 0.8 are too long where x has a scale below 0.4, at v < -1.8, a quarter of the prior
    method = NUTS(warmup=50, draws=200, step_size=0.8, target_acceptance=0.0, mass="identity", max_tree_depth=5)
    centred = fit(funnel, None, method, seed=1).draws
    mended = fit(non_centred_funnel, None, method, seed=1).draws
    assert centred is not None and mended is not None
    assert centred.statistics["diverging"].sum() > 0
    assert set(np.unique(centred.statistics["diverging"])) <= {0.0, 1.0}
    assert mended.statistics["diverging"].sum() == 0
    v = mended.site("v")
    assert abs(v.mean()) < 4 * 3 / math.sqrt(effective(v))
    assert v.std() == pytest.approx(3.0, rel=4 / math.sqrt(2 * effective(np.square(v))))


@functools.cache
def standard_leapfrog() -> Leapfrog:
    return Leapfrog(LogJoint(Program(standard, ()), 0, dtype=torch.float64), (), np.ones((1, 1)))


def walked(depth: int, size: float, random: np.random.Generator) -> tuple[Any, Tally, list[np.ndarray]]:
    """A new half of a trajectory from −1 at momentum 1 on a standard normal, its tally, and every state it passed."""
    passed: list[np.ndarray] = []
    found: list[Any] = []
    start = np.array([[-1.0], [1.0], [1.0]])
    tally = Tally(1.0 + 0.5 * math.log(2 * math.pi))

    def walk() -> Generator[Any, Any, None]:
        inner = grow(start, size, depth, random, tally)
        request = next(inner)
        while True:
            reply = yield request
            passed.append(reply[0])
            try:
                request = inner.send(reply)
            except StopIteration as end:
                found.append(end.value)
                return

    drive(standard_leapfrog(), {0: walk()})
    return found[0], tally, passed


def standard() -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))


def test_a_half_of_a_tree_is_the_sum_of_its_states() -> None:
    random = np.random.default_rng(1)
    span, tally, passed = walked(3, 0.1, random)
    assert tally.steps == len(passed) == 8 and not tally.diverging
    np.testing.assert_allclose(span.rho, sum(phase[MOMENTUM] for phase in passed))
    assert span.first is passed[0] and span.last is passed[-1]
    energies = [
        0.5 * float(phase[MOMENTUM, 0] ** 2 + phase[POSITION, 0] ** 2) + 0.5 * math.log(2 * math.pi) for phase in passed
    ]
    assert span.log_weight == pytest.approx(math.log(sum(math.exp(tally.energy - energy) for energy in energies)))
    assert tally.acceptance == pytest.approx(sum(min(1.0, math.exp(tally.energy - energy)) for energy in energies))


def test_states_of_a_half_are_drawn_by_their_weights() -> None:
    random = np.random.default_rng(2)
    phases = [np.array([[float(index)], [1.0], [0.0]]) for index in range(8)]
    energies = np.log([1.0, 3.0, 2.0, 0.5, 1.5, 4.0, 1.0, 2.5])
    counts = np.zeros(8)
    for _ in range(2000):
        inner = grow(phases[0], 0.1, 3, random, Tally(0.0))
        next(inner)
        with pytest.raises(StopIteration) as ended:
            for phase, energy in zip(phases, energies, strict=True):
                inner.send((phase, -energy, 0.0))
        span = ended.value.value
        counts[int(span.chosen[POSITION, 0])] += 1
        assert span.value == -energies[int(span.chosen[POSITION, 0])]
    expected = 2000 * np.exp(-energies) / np.exp(-energies).sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_trajectories_end_where_they_turn() -> None:
    random = np.random.default_rng(1)
    # the momentum, √2 cos(t − π/4), turns at t = 2.36, between the eleventh and the twelfth step of 0.2
    span, tally, _ = walked(5, 0.2, random)
    assert span is None and not tally.diverging and 12 <= tally.steps <= 16
    span, tally, _ = walked(3, 30.0, random)
    assert span is None and tally.diverging and tally.steps == 1


def test_ranks_of_the_truth_are_uniform() -> None:
    """Simulation-based calibration (Talts et al. 2018): 60 data sets at once, as plates of one model."""
    random = torch.Generator().manual_seed(11)
    truth = torch.randn(60, generator=random)
    scale = torch.empty(60).exponential_(generator=random)
    y = truth[:, None] + scale[:, None] * torch.randn(60, 4, generator=random)

    def model() -> None:
        with pyro.plate("set", 60):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            sd = pyro.sample("sd", dist.Exponential(1.0))
            pyro.sample("y", dist.Normal(mean[:, None], sd[:, None]).expand([60, 4]).to_event(1), obs=y)

    draws = fit(model, None, NUTS(warmup=100, draws=60, thin=2, chains=2), seed=5).draws
    assert draws is not None
    for name, values in (("mean", truth), ("sd", scale)):
        found = draws.site(name).reshape(-1, 60)
        ranks = (found < values.numpy()).mean(0)
        counts = np.histogram(ranks, bins=6, range=(0, 1))[0]
        chi_square = float((np.square(counts - 10) / 10).sum())
        assert chi_square < 20.5, (name, counts)  # 0.1 % of a χ² with 5 degrees of freedom
