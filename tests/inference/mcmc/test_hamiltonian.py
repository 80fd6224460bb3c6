"""What HMC and NUTS share: resume, independent chains, fall-backs, refusals, agreement with random walks."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.analysis.diagnosis.arviz_export import to_arviz
from pyro_compress.analysis.diagnosis.arviz_versions import group
from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import EpochRecord, fit
from pyro_compress.inference.mcmc import hamiltonian
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.leapfrog import Leapfrog
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior
from tests.inference.chain_targets import (
    X,
    Y,
    conjugate,
    gaussian,
)


class InterruptedByTestError(Exception):
    pass


@pytest.mark.parametrize("method", [HMC(warmup=80, draws=90, chains=2), NUTS(warmup=80, draws=90, chains=2)])
def test_runs_resumed_in_the_warm_up_and_after_it_are_bit_identical(method: HMC, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()

    def leave(record: EpochRecord, state: Any) -> None:
        # as a run that is stopped here
        if record.epoch in (0, 2):
            shutil.copytree(whole, tmp_path / f"stopped{record.epoch}")

    straight = fit(gaussian, None, method, seed=4, checkpoint=whole / "checkpoint.pt", callbacks=[leave]).draws
    for epoch in (0, 2):
        torch.manual_seed(77)
        path = tmp_path / f"stopped{epoch}" / "checkpoint.pt"
        resumed = fit(gaussian, None, method, seed=4, checkpoint=path, resume=True).draws
        assert straight is not None and resumed is not None
        np.testing.assert_array_equal(straight.flat, resumed.flat)
        for name, values in straight.statistics.items():
            np.testing.assert_array_equal(values, resumed.statistics[name])


def test_long_runs_are_compiled_on_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def noted(log_joint: Any, batch: Any, scale: np.ndarray, *, compile_it: bool) -> Leapfrog:
        asked.append(compile_it)
        return Leapfrog(log_joint, batch, scale)

    def stop(record: EpochRecord, state: Any) -> None:
        raise InterruptedByTestError

    monkeypatch.setattr(hamiltonian, "Leapfrog", noted)
    # 150 transitions of 3 to 5 steps: the 100 left after the first block take at least 300
    method = HMC(warmup=100, draws=50, chains=1, step_size=0.5, leapfrog_steps=4, target_acceptance=0.0)
    monkeypatch.setattr(hamiltonian, "COMPILE_FROM_STEPS", 10_000)
    fit(gaussian, None, method, seed=4)
    assert asked == [False]
    monkeypatch.setattr(hamiltonian, "COMPILE_FROM_STEPS", 200)
    fit(gaussian, None, method, seed=4)
    assert asked == [False, False, True]
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InterruptedByTestError):
        fit(gaussian, None, method, seed=4, checkpoint=path, callbacks=[stop])
    del asked[:]
    fit(gaussian, None, method, seed=4, checkpoint=path, resume=True)
    assert asked == [True]
    del asked[:]
    fit(gaussian, None, dataclasses.replace(method, compile="never"), seed=4)
    assert asked == [False]


@pytest.mark.parametrize("method", [HMC(warmup=60, draws=60, chains=2), NUTS(warmup=60, draws=60, chains=2)])
def test_captured_states_are_copies(method: HMC) -> None:
    model, batch = Program(conjugate, (X, Y)), (X, Y)
    state = method.init(model, 20, 0)
    fresh = state.capture()
    method.step(state, batch)
    captured = state.capture()
    method.step(state, batch)
    ahead = state.capture()
    for taken, steps in ((captured, 1), (fresh, 2)):
        state.restore(taken)
        for _ in range(steps):
            method.step(state, batch)
        again = state.capture()
        assert torch.equal(again["phase"], ahead["phase"]) and again["randoms"] == ahead["randoms"]
        assert again["steps_done"] == 100


def test_chains_do_not_depend_on_each_other() -> None:
    # the third chain's neighbours differ, its numbers do not
    walked = []
    for chains in (3, 4):
        method = HMC(warmup=30, draws=50, chains=chains, precision="double", step_size=0.5)
        state = method.init(Program(gaussian, ()), 0, 0)
        for chain in range(3):
            state.position[chain] = torch.tensor([1.0, -2.0 + chain, 3.0])
            state.randoms[chain] = np.random.Generator(np.random.PCG64(chain))
        method.step(state, ())
        walked.append(state.phase[2])
    np.testing.assert_allclose(walked[0], walked[1], rtol=1e-6)


@pytest.mark.parametrize("method", [HMC, NUTS])
def test_networks_with_batch_norm_keep_their_statistics(method: Any) -> None:
    torch.manual_seed(0)
    modules = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    modules(X)
    model = BayesianNetwork(modules, {"*.weight": Normal(), "*.bias": Normal()}, Gaussian(noise=0.5))
    found = fit(model, (X, Y[:, None]), method(warmup=4, draws=3, chains=2)).draws
    assert found is not None and np.isfinite(found.flat).all()


def infinite() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("never", x - math.inf)


def flat() -> None:
    pyro.sample("x", dist.Normal(0.0, 1e30))


def without_gradient() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("zero", (0.0 * x).sqrt())


@pytest.mark.parametrize(
    ("model", "method", "text"),
    [
        (gaussian, lambda: HMC(chains=0), "HMC needs at least 1 chain and 1 draw; found chains=0"),
        (gaussian, lambda: HMC(step_size=0.0), "HMC needs step_size > 0"),
        (gaussian, lambda: NUTS(target_acceptance=1.0), r"NUTS needs .*target_acceptance in \[0, 1\)"),
        (gaussian, lambda: HMC(mass="full"), "HMC: mass is one of diagonal, dense, identity; found 'full'"),
        (gaussian, lambda: HMC(jitter=1.0), r"trajectory_length > 0 and jitter in \[0, 1\)"),
        (gaussian, lambda: HMC(leapfrog_steps=0), "leapfrog_steps and max_steps of at least 1"),
        (gaussian, lambda: NUTS(max_tree_depth=0), "max_tree_depth of at least 1, found 0"),
        (infinite, lambda: HMC(draws=5), r"at the start: the log joint of chain 0 is -inf, .*HMC\(start={'x': \.\.\.}"),
        (flat, lambda: HMC(draws=5), r"transition 0: the step size grew beyond 10⁷ .*is the posterior proper"),
        (without_gradient, lambda: HMC(draws=5), "at the start: the gradient of chain 0 is not finite; 100 points"),
    ],
)
def test_what_cannot_be_run_is_refused(model: Any, method: Any, text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        fit(model, None, method())


def test_parameters_without_a_prior_are_refused() -> None:
    model = BayesianNetwork(nn.Linear(3, 1), {"weight": Normal()}, Gaussian(noise=0.5))
    with pytest.raises(InferenceError, match="HMC samples every parameter, and bias has no prior"):
        fit(model, (X, Y[:, None]), HMC())


def narrow() -> None:
    """A spread that single precision cannot resolve at its location."""
    location, spread = (torch.tensor(value, dtype=torch.float64) for value in (1e4, 1e-5))
    pyro.sample("x", dist.Normal(location, spread))


def test_draws_and_moments_keep_the_precision_asked_for(tmp_path: Path) -> None:
    method = NUTS(warmup=60, draws=60, chains=1, precision="double", compile="never", start={"x": [1e4]})
    posterior = fit(narrow, None, method, seed=0)
    posterior.save(tmp_path / "posterior.safetensors")
    read = Posterior.load(tmp_path / "posterior.safetensors")
    assert read.draws is not None
    x, moments = read.draws.site("x"), read.parameters["x"]
    assert x.dtype == moments.mean.dtype == np.float64
    assert 0.5e-5 < x.std() < 2e-5 and abs(float(moments.mean) - 1e4) < 1e-5
    assert float(moments.variance) == pytest.approx(float(x.var()), rel=1e-3)
    assert group(to_arviz(read), "posterior")["x"].dtype == np.float64


def test_draws_know_which_numbers_cannot_move() -> None:
    def model() -> None:
        pyro.sample("corr", dist.LKJCholesky(3, torch.tensor(1.0)))
        pyro.sample("x", dist.Normal(0.0, 1.0))

    draws = fit(model, None, NUTS(chains=1, warmup=5, draws=5, compile="never", max_tree_depth=3), seed=0).draws
    assert draws is not None and draws.fixed == {"corr": (0, 1, 2, 5)}
