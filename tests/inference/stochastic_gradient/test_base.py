"""SGLD, preconditioned SGLD, SGHMC and cyclical schedules: closed forms, weights, both modes, what is refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.speed.normal_stream import Noise
from pyro_compress.inference.stochastic_gradient.base import GradientChainState, StochasticGradientChains
from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGHMC, CyclicalSGLD
from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

MEAN, SD = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.0, 1.5])
EVERY = [SGLD, PreconditionedSGLD, SGHMC, CyclicalSGLD, CyclicalSGHMC]


def gaussian() -> None:
    pyro.sample("x", dist.Normal(MEAN, SD).to_event(1))


def moments(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Of site x, over all chains."""
    assert posterior.draws is not None
    return posterior.draws.moments()["x"]


def assert_gaussian(method: StochasticGradientChains, variance: Tensor, tolerance: float) -> None:
    found_mean, found_variance = moments(fit(gaussian, None, method, seed=2))
    np.testing.assert_allclose(found_mean, MEAN, atol=0.03)
    np.testing.assert_allclose(found_variance, variance.numpy(), rtol=tolerance)


# ---- one normal target: the bias of a constant step is known


@pytest.mark.parametrize("step", [0.4, 0.2, 0.1])
def test_sgld_has_the_known_bias_of_a_constant_step(step: float) -> None:
    square = SD.square()
    method = SGLD(epochs=600, chains=1500, a=step, gamma=0.0, draws=60)
    # 0.4 inflates the smallest variance by two thirds, 0.2 by a quarter, 0.1 by a ninth
    assert_gaussian(method, square / (1 - step / (4 * square)), 0.03)


def test_temperature_scales_the_target() -> None:
    square, step = 0.3 * SD.square(), 0.3 * 0.2
    method = SGLD(epochs=600, chains=1500, a=0.2, gamma=0.0, draws=60, temperature=0.3)
    assert_gaussian(method, square / (1 - step / (4 * square)), 0.03)


@pytest.mark.parametrize("friction", [0.1, 0.5])
def test_sghmc_has_the_variance_of_its_recursion(friction: float) -> None:
    square, size = SD.square(), 0.2 * friction
    method = SGHMC(epochs=600, chains=1500, a=size, gamma=0.0, friction=friction, draws=60)
    assert_gaussian(method, square / (1 - size / (2 * square * (2 - friction))), 0.03)


def test_sghmc_at_another_temperature() -> None:
    square = 2.5 * SD.square()
    method = SGHMC(epochs=900, chains=1500, a=0.01, gamma=0.0, draws=60, temperature=2.5)
    assert_gaussian(method, square, 0.04)


def test_preconditioned_sgld_is_exact_up_to_its_step() -> None:
    method = PreconditionedSGLD(epochs=900, chains=1500, a=0.05, gamma=0.0, decay=0.995, draws=60)
    assert_gaussian(method, SD.square(), 0.07)
    # adapting all along has a bias of its own
    assert_gaussian(replace(method, freeze=False), SD.square(), 0.2)


def test_the_preconditioner_is_rmsprop_and_freezes() -> None:
    method = PreconditionedSGLD(epochs=20, a=0.1, decay=0.9, damping=0.05, warmup=0.5, temperature=0.5)
    state: Any = method.init(Program(gaussian, ()), 0, 0, 0)
    squares, kept = torch.zeros(1, 3), []
    for step in range(20):
        if step < 10:
            gradient = (MEAN - state.position) / SD.square()
            squares = 0.9 * squares + 0.1 * gradient.square()
            expected = 1 / (0.05 + (squares / (1 - 0.9 ** (step + 1))).sqrt())
        method.step(state, ())
        kept.append(state.scale.clone())
        torch.testing.assert_close(state.scale, expected)
    assert torch.equal(kept[9], kept[-1]) and not torch.equal(kept[8], kept[9])


def test_long_cycles_sample_the_target() -> None:
    for method in (
        CyclicalSGLD(epochs=1200, chains=1000, a=0.15, cycles=2, exploration=0.1, draws=100),
        CyclicalSGHMC(epochs=1200, chains=1000, a=0.03, cycles=2, exploration=0.1, draws=100),
    ):
        assert_gaussian(method, SD.square(), 0.13)


# ---- data: batches, N, weights

GENERATOR = torch.Generator().manual_seed(4)
POINTS = 0.7 + torch.randn(40, generator=GENERATOR)


def location(x: Tensor) -> None:
    m = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=x)


def run(method: StochasticGradientChains, size: int, batch: int, steps: int) -> np.ndarray:
    """(chain, draw) of the location, from batches drawn with replacement, so that gradients are independent."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    state = method.init(Program(location, (POINTS,)), size, 3, len(POINTS))
    for _ in range(steps):
        chosen = torch.randint(0, len(POINTS), (batch,), generator=generator)
        method.step(state, (POINTS[chosen] if batch < len(POINTS) else POINTS,))
    return np.asarray(state.store.draws().site("x"), dtype=np.float64)


def gradient_variance(size: int, batch: int) -> float:
    return float(size**2 / batch * POINTS.var(correction=0))


def test_minibatch_noise_inflates_as_the_closed_form_says() -> None:
    size, batch, steps = 40, 2, 4000
    precision, a = size + 1.0, 0.2
    step = a / size
    expected = (1 + step * gradient_variance(size, batch) / 4) / precision / (1 - step * precision / 4)
    assert expected > 1.8 / precision
    method = SGLD(epochs=steps // 20, batch_size=2, chains=4, a=a, gamma=0.0, warmup=0.1, draws=4000)
    assert run(method, size, batch, steps).var() == pytest.approx(expected, rel=0.12)


def test_sghmc_takes_the_noise_of_batches_into_account() -> None:
    size, batch, steps = 40, 2, 4000
    precision, eta = size + 1.0, 0.02 / 40
    estimate = eta * gradient_variance(size, batch) / 2
    assert 0.1 < estimate < 0.25
    common: dict[str, Any] = {"batch_size": 2, "chains": 4, "a": 0.02, "gamma": 0.0, "warmup": 0.1, "draws": 4000}
    plain = SGHMC(epochs=steps // 20, friction=0.25, **common)
    corrected = replace(plain, noise_estimate=estimate)
    exact = 1 / precision / (1 - eta * precision / (2 * 1.75))
    assert run(corrected, size, batch, steps).var() == pytest.approx(exact, rel=0.12)
    assert run(plain, size, batch, steps).var() == pytest.approx(exact * (1 + estimate / 0.25), rel=0.12)


@pytest.mark.parametrize("kind", [SGLD, PreconditionedSGLD, SGHMC])
def test_examples_held_count_as_all_of_them(kind: Any) -> None:
    """N = 120, of which 40 are held and every batch has all 40; temperature ½."""
    size, temperature = 120, 0.5
    a = {SGLD: 0.04, PreconditionedSGLD: 0.005, SGHMC: 0.004}[kind]
    method = kind(epochs=4000, batch_size=40, chains=100, a=a, gamma=0.0, temperature=temperature, draws=100)
    draws = run(method, size, 40, 4000)
    assert draws.mean() == pytest.approx(float(3 * POINTS.sum()) / (size + 1), abs=0.01)
    assert draws.var() == pytest.approx(temperature / (size + 1), rel=0.08)


@pytest.mark.parametrize("gamma", [0.0, 0.55])
def test_draws_of_decreasing_steps_are_weighted(gamma: float) -> None:
    method = SGLD(epochs=40, batch_size=10, chains=2, a=0.3, b=5.0, gamma=gamma, warmup=0.25, draws=30)
    posterior = fit(location, (POINTS,), method, seed=1)
    assert posterior.draws is not None
    if gamma == 0.0:
        assert posterior.draws.log_weight is None
        return
    # 160 steps, 40 of warm-up, every 4th of the rest; the draw of step t is what ε_t was taken from
    steps = 40 + 4 * np.arange(1, 31) - 1
    size = 0.3 / 40 * (5.0 + steps) ** -gamma
    np.testing.assert_allclose(posterior.draws.statistics["step_size"], np.stack([size, size]), rtol=1e-12)
    np.testing.assert_allclose(posterior.draws.weights(), np.stack([size, size]) / (2 * size.sum()), rtol=1e-9)
    x = np.asarray(posterior.draws.site("x"), dtype=np.float64)
    mean = (x * size).sum() / (2 * size.sum())
    assert float(posterior.parameters["x"].mean) == pytest.approx(mean, rel=1e-5)
    assert float(posterior.parameters["x"].mean) != pytest.approx(x.mean(), rel=1e-4)


def test_decreasing_steps_remove_the_bias() -> None:
    constant = SGLD(epochs=1000, chains=1500, a=0.4, gamma=0.0, draws=100)
    decreasing = SGLD(epochs=1000, chains=1500, a=0.4 * 30**0.6, b=30.0, gamma=0.6, draws=100)
    biased, better = (moments(fit(gaussian, None, method, seed=5))[1][0] for method in (constant, decreasing))
    assert biased > 1.5 * 0.25 and better < 1.1 * 0.25


def test_a_draw_has_the_log_joint_that_is_noted_with_it() -> None:
    for method in (SGLD(epochs=6, batch_size=40, a=0.1, warmup=0.0), CyclicalSGLD(epochs=12, batch_size=40, cycles=2)):
        posterior = fit(location, (POINTS,), method)
        assert posterior.draws is not None
        for value, noted in zip(posterior.draws.site("x")[0], posterior.draws.statistics["lp"][0], strict=True):
            expected = dist.Normal(float(value), 1.0).log_prob(POINTS).sum() + dist.Normal(0.0, 1.0).log_prob(
                torch.tensor(value)
            )
            assert noted == pytest.approx(float(expected), rel=1e-5)


# ---- schedules


def test_cycles_explore_and_then_sample() -> None:
    method = CyclicalSGLD(epochs=100, a=0.4, cycles=3, exploration=0.5, draws=10)
    stages = [method.schedule(step, 100) for step in range(100)]
    # three cycles of 34 steps; the last is two steps short
    assert [stage.samples for stage in stages] == (([False] * 17 + [True] * 17) * 3)[:100]
    assert stages[0].size == stages[34].size == 0.4
    assert stages[17].size == pytest.approx(0.2)
    assert stages[33].size == pytest.approx(0.2 * (1 + math.cos(math.pi * 33 / 34)))
    assert method.budget(0) == (0, 4, 10)
    posterior = fit(gaussian, None, method)
    assert posterior.draws is not None and posterior.draws.count == 10
    # the 4th, 8th, 12th and 16th step of the first stage, then the 3rd of the second
    expected = [stages[step].size for step in (20, 24, 28, 32, 53)]
    np.testing.assert_allclose(posterior.draws.statistics["step_size"][0, :5], expected)


def test_exploration_is_plain_descent() -> None:
    method = CyclicalSGLD(epochs=40, a=0.4, cycles=1, exploration=0.9)
    torch.manual_seed(0)
    state = method.init(Program(gaussian, ()), 0, 0, 0)
    expected = state.position.clone()
    for step in range(30):
        size = 0.2 * (math.cos(math.pi * step / 40) + 1)
        expected = expected + 0.5 * size * (MEAN - expected) / SD.square()
        method.step(state, ())
    torch.testing.assert_close(state.position, expected)
    assert state.store.filled == 0


def mixture(x: Tensor) -> None:
    """Welling & Teh (2011), section 5.1: modes at (0, 1) and (1, −1)."""
    first = pyro.sample("first", dist.Normal(0.0, math.sqrt(10.0)))
    second = pyro.sample("second", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        parts = dist.Normal(torch.stack([first, first + second]), math.sqrt(2.0))
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts), obs=x)


@pytest.mark.parametrize("kind", [CyclicalSGLD, CyclicalSGHMC])
def test_cycles_visit_both_modes_of_the_mixture(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, generator=generator) * math.sqrt(2.0) + (torch.rand(100, generator=generator) < 0.5).float()
    method = kind(
        epochs=300, batch_size=10, a={CyclicalSGLD: 6.0, CyclicalSGHMC: 0.6}[kind], cycles=15, exploration=0.3
    )
    posterior = fit(mixture, (x,), method, seed=1)
    assert posterior.draws is not None
    second = posterior.draws.site("second")[0]
    assert 0.1 < (second > 0).mean() < 0.9
    assert second.max() > 0.8 and second.min() < -0.8


# ---- noise and point estimates


def network() -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Linear(4, 3), {"weight": Normal(0.5)}, Gaussian(noise=0.5))


@pytest.mark.parametrize("kind", EVERY)
def test_noise_is_drawn_once_per_step_for_what_has_a_prior(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = kind(epochs=40, chains=3)
    filled: list[tuple[int, ...]] = []
    state: GradientChainState = method.init(network(), 20, 0)
    assert state.log_joint.latents == slice(0, 12) and state.log_joint.width == 15
    fill = Noise.fill

    def counted(self: Noise, out: Tensor) -> Tensor:
        filled.append(tuple(out.shape))
        return fill(self, out)

    monkeypatch.setattr(Noise, "fill", counted)
    before = state.position.clone()
    method.move(state, torch.zeros_like(before), 0.1, True)
    assert filled == [(3, 12)]
    moved = state.position - before
    assert (moved[:, :12] != 0).all() and (moved[:, 12:] == 0).all()
    assert len(np.unique(moved[:, :12].numpy())) == 36
    method.move(state, torch.ones_like(before), 0.1, False)
    assert filled == [(3, 12)]
    assert (state.position[:, 12:] != before[:, 12:]).all()


def test_point_estimates_follow_the_gradient() -> None:
    x = torch.randn(200, 4, generator=GENERATOR)
    y = x @ torch.randn(4, 3, generator=GENERATOR) + 2.0 + 0.5 * torch.randn(200, 3, generator=GENERATOR)
    posterior = fit(network(), (x, y), SGLD(epochs=150, batch_size=200, a=0.2, gamma=0.0))
    assert posterior.parameters["bias"].is_point and not posterior.parameters["weight"].is_point
    np.testing.assert_allclose(posterior.parameters["bias"].mean, 2.0, atol=0.2)
    assert posterior.parameters["weight"].variance.min() > 0


def test_cyclical_methods_need_no_warmup() -> None:
    for kind in (CyclicalSGLD, CyclicalSGHMC):
        assert kind().warmup == 0.0


# ---- what is refused


def test_runs_that_diverge_stop_with_a_sentence() -> None:
    x = torch.randn(50, 4, generator=GENERATOR)
    y = x @ torch.randn(4, 3, generator=GENERATOR)
    with pytest.raises(InferenceError, match=r"step \d+ of \d+: the log joint of chain \d .*lower the step size"):
        fit(network(), (x, y), SGLD(epochs=400, batch_size=10, a=50.0, gamma=0.0))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: SGLD(a=0.0), "SGLD needs a > 0, b > 0 and gamma in"),
        (lambda: SGHMC(gamma=1.5), "SGHMC needs a > 0, b > 0 and gamma in"),
        (lambda: SGLD(chains=0), "at least 1 chain"),
        (lambda: SGHMC(friction=0.0), "friction in"),
        (lambda: CyclicalSGHMC(friction=0.2, noise_estimate=0.2), "noise_estimate in"),
        (lambda: PreconditionedSGLD(decay=1.0), "decay in"),
        (lambda: PreconditionedSGLD(warmup=0.0), "give warmup > 0, or freeze=False"),
        (lambda: CyclicalSGLD(cycles=0), "at least 1 cycle"),
        (lambda: CyclicalSGLD(epochs=4, cycles=4).budget(100), "leave no step for sampling"),
    ],
)
def test_settings_without_meaning_are_refused(build: Any, text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        build()
