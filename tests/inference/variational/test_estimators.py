"""Every estimator of the ELBO against the exact value and gradient, and their published order by variance.

Outputs are linear in the weights, so with m and v the mean and variance of an output under the guide

    E_q log p(y | w) = −½ ((y − m)² + v) / σ² − ln σ − ½ ln 2π.

Monte Carlo comparisons allow 5 standard errors, about 6e-7 false failures per number; seeds are fixed.
"""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Normal as NormalDistribution
from torch.distributions import kl_divergence

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.variational.base import VariationalMethod
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.gradient_variance import gradient_variance
from pyro_compress.inference.variational.state import VariationalState
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.priors.scale_mixture import ScaleMixture

NOISE, SCALE, SIZE, BETA, DRAWS = 0.8, 0.6, 12, 0.3, 600

METHODS: list[Any] = [
    pytest.param(SVI(batch_size=4, kl_weight=BETA, estimator=name), id=name)
    for name in ("local", "flipout", "shared", "score")
]
BBB = BayesByBackprop(batch_size=4, kl_weight=BETA, complexity_cost="uniform")
LAYERS = pytest.mark.parametrize("layer", ["dense", "convolution"])


def problem(layer: str) -> tuple[BayesianNetwork, tuple[torch.Tensor, torch.Tensor]]:
    """A linear network with biases and 4 of SIZE examples."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2) if layer == "dense" else nn.Conv2d(2, 2, (2, 1), stride=(1, 2), padding=(1, 0))
    x = torch.randn((4, 3) if layer == "dense" else (4, 2, 2, 3))
    y = network(x).detach() + 0.7 * torch.randn_like(network(x))
    return BayesianNetwork(network, Normal(scale=SCALE), Gaussian(noise=NOISE)), (x, y)


def fresh(method: VariationalMethod, model: BayesianNetwork) -> VariationalState:
    state = method.init(model, SIZE, 0)
    with torch.no_grad():
        torch.manual_seed(1)
        for spread in state.guide.log_variance.parameters():
            spread.copy_(-1.5 + 0.5 * torch.randn_like(spread))
    return state


def exact(state: VariationalState, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The tempered negative ELBO, total nats, of one covered weight and bias."""
    (x, y), guide = batch, state.guide
    weight, weight_scale = guide.location_and_scale("weight")
    bias, bias_scale = guide.location_and_scale("bias")
    network = state.model.network
    mean = torch.func.functional_call(network, {"weight": weight, "bias": bias}, (x,))
    squares = {"weight": weight_scale.square(), "bias": bias_scale.square()}
    variance = torch.func.functional_call(network, squares, (x.square(),))
    log_density = -0.5 * ((y - mean).square() + variance) / NOISE**2 - math.log(NOISE) - 0.5 * math.log(2 * math.pi)
    prior = NormalDistribution(0.0, SCALE)
    pairs = ((weight, weight_scale), (bias, bias_scale))
    complexity = sum(kl_divergence(NormalDistribution(*pair), prior).sum() for pair in pairs)
    return BETA * complexity - SIZE / len(x) * log_density.sum()


def value_and_gradient(loss: torch.Tensor, state: VariationalState) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, list(state.guide.parameters()))
    return torch.cat([loss.detach().reshape(1), *(gradient.flatten() for gradient in gradients)])


@LAYERS
@pytest.mark.parametrize("method", [*METHODS, pytest.param(BBB, id="bbb")])
def test_value_and_gradient_are_those_of_the_elbo(method: VariationalMethod, layer: str) -> None:
    model, batch = problem(layer)
    state = fresh(method, model)
    expected = value_and_gradient(exact(state, batch), state)
    torch.manual_seed(2)
    rows = [
        value_and_gradient(method.objective(state, batch, method.terms(state, batch), BETA), state)
        for _ in range(DRAWS)
    ]
    found = torch.stack(rows)
    error = found.std(0) / math.sqrt(DRAWS)
    assert bool(((found.mean(0) - expected).abs() < 5 * error + 1e-4).all())
    # and the comparison can fail: no standard error hides a factor of two of all of the gradient
    assert bool(((found.mean(0) - 2 * expected).abs() > 5 * error).any())


@pytest.mark.parametrize("baseline", [True, False])
def test_score_function_agrees_where_log_p_is_sampled(baseline: bool) -> None:
    """A scale mixture has no closed KL: its log p is part of what the score multiplies."""
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(2, 1), ScaleMixture(narrow=0.2), Gaussian(noise=NOISE))
    batch = (torch.randn(4, 2), torch.randn(4, 1))
    found = []
    for method in (SVI(kl_weight=BETA, estimator="score", baseline=baseline), SVI(kl_weight=BETA, estimator="shared")):
        state = fresh(method, model)
        torch.manual_seed(3)
        if method.estimator == "score":
            method.step(state, batch)  # the baseline must not be at its start; the guide must
            state.restore({**fresh(method, model).capture(), "baseline": state.capture()["baseline"]})
            assert state.baseline.steps == 1 and state.baseline.data < 0 and state.baseline.complexity > 0
        rows = [value_and_gradient(method.terms(state, batch).objective(BETA), state) for _ in range(800)]
        found.append(torch.stack(rows))
    error = (sum(part.var(0) for part in found) / 800) ** 0.5
    assert bool(((found[0].mean(0) - found[1].mean(0)).abs() < 5 * error).all())


def test_baseline_is_the_running_mean_of_the_steps_before() -> None:
    model, batch = problem("dense")
    method = SVI(batch_size=4, estimator="score", kl_warmup=0.0)
    state = fresh(method, model)
    seen = [method.step(state, batch).data_nats for _ in range(3)]
    assert state.baseline.data == pytest.approx(0.9 * (0.9 * seen[0] + 0.1 * seen[1]) + 0.1 * seen[2])
    assert state.capture()["baseline"]["steps"] == 3


@pytest.mark.parametrize("kind", ["loc", "log_variance"])
def test_gradient_variance_has_the_published_order(kind: str) -> None:
    """Score function > shared sample > flipout > local reparameterization (Kingma et al. 2015; Wen et al. 2018)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))
    model = BayesianNetwork(network, Normal(), Gaussian(noise=NOISE))
    x = torch.randn(48, 8)
    batch, found = (x, network(x).detach() + NOISE * torch.randn(48, 3)), {}
    for name in ("score", "shared", "flipout", "local"):
        method = SVI(batch_size=48, estimator=name)
        state = method.init(model, 480, 0)
        with torch.no_grad():
            for spread in state.guide.log_variance.parameters():
                spread.fill_(-4.0)
        torch.manual_seed(1)
        found[name] = gradient_variance(method, state, batch, draws=200)[kind]
    for noisier, quieter in pairwise(("score", "shared", "flipout", "local")):
        assert found[noisier] > 1.2 * found[quieter], found


def test_unknown_estimators_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"unknown estimator 'reinforce'.*flipout"):
        SVI(estimator="reinforce")


def test_the_unit_of_the_targets_does_not_matter_to_the_noise_of_outputs() -> None:
    unit, generator = 1e-4, torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=generator)
    y = unit * (2 * x + 0.1 * torch.randn(500, 1, generator=generator))
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(2 * unit)
    prior = Normal(scale=2 * unit, initial_log_variance=2 * math.log(0.01 * unit))
    model = BayesianNetwork(network, prior, Gaussian(noise_log_mean=math.log(0.1 * unit)))
    method = SVI(epochs=200, batch_size=100, learning_rate=0.01, rates={"weight": unit}, kl_warmup=0.0)
    posterior = fit(model, (x, y), method, seed=0)
    assert math.exp(float(posterior.latents["noise"].loc)) == pytest.approx(0.1 * unit, rel=0.1)
