"""The multi-spike prior: density and KL against quadrature, bounds of its guide, and the road to a ternary file."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyro_compress as pc
from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.errors import InferenceError, PriorError
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.kl import LOG_UNIFORM_CONSTANT, log_alpha, negative_kl_log_uniform
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.priors.multi_spike import MultiSpike, MultiSpikeDistribution
from pyro_compress.network.quantizers import Codebook, Uniform
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.pipeline.search import decide
from pyro_compress.posterior.posterior import Posterior

TERNARY = MultiSpikeDistribution(torch.tensor([0.2], dtype=torch.float64))
UNEVEN = MultiSpikeDistribution(torch.tensor([0.3, 0.1], dtype=torch.float64))


def exact_kl(mean: float, scale: float, p: MultiSpikeDistribution) -> float:
    """KL(N(mean, scale²) ‖ p) by quadrature between the spikes."""
    spikes = p.spikes.tolist()
    low, high = mean - 9 * scale, mean + 9 * scale
    edges = [low, *(spike for spike in spikes if low < spike < high), high]

    def cross(w: float) -> float:
        density = math.exp(-0.5 * ((w - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        return density * math.log(sum(1 / max(abs(w - spike), p.low) for spike in spikes))

    expected = sum(integrate.quad(cross, a, b, limit=400)[0] for a, b in pairwise(edges))
    return -0.5 * math.log(2 * math.pi * math.e * scale**2) - expected + float(p.log_normaliser)


@pytest.mark.parametrize("p", [TERNARY, UNEVEN], ids=["ternary", "uneven"])
def test_the_density_is_normalised_and_draws_follow_it(p: MultiSpikeDistribution) -> None:
    coarse = MultiSpikeDistribution(p.steps, low=0.01, high=3.0)
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(coarse.log_prob(grid).exp(), grid)
    assert float(cumulative[-1]) == pytest.approx(1.0, abs=1e-4)
    assert float(coarse.log_prob(torch.tensor(3.1))) == -math.inf
    torch.manual_seed(0)
    draws = coarse.sample((20_000,)).double()
    found = (draws[None] < grid[1::6000, None]).double().mean(1)
    # of 100 places, 5 standard errors
    assert float((found - cumulative[::6000]).abs().max()) < 5 * 0.5 / math.sqrt(20_000)


@pytest.mark.parametrize("p", [TERNARY, UNEVEN], ids=["ternary", "uneven"])
def test_the_kl_is_near_the_true_one_at_the_spikes_and_never_below_it(p: MultiSpikeDistribution) -> None:
    means = torch.linspace(-0.45, 0.45, 13, dtype=torch.float64)
    for scale in (1e-3, 0.02, 0.1, 0.6):
        q = Normal(torch.cat([means, p.spikes]), torch.tensor(scale, dtype=torch.float64))
        found = kl_divergence(q, p)
        exact = torch.tensor([exact_kl(float(mean), scale, p) for mean in q.loc], dtype=torch.float64)
        gap = found - exact
        assert float(gap.min()) > -0.03 and float(gap.max()) < math.log(len(p.spikes)) + 0.4
        if scale == 0.02:
            # the windows of neighbours reach that far
            assert float(gap[-len(p.spikes) :].abs().max()) < 0.4


def test_the_kl_of_a_ternary_codebook_is_the_published_one() -> None:
    """Of levels ±a it is that of ±0.2 at (θ/s, σ/s) with s = a/0.2, and windows of width 0.075 there."""
    mean, level = torch.linspace(-0.9, 0.9, 37, dtype=torch.float64), 0.5
    scale = torch.full_like(mean, 0.07)
    p = MultiSpikeDistribution(torch.tensor([level], dtype=torch.float64))
    theta, log_variance = mean * 0.2 / level, 2 * torch.log(scale * 0.2 / level)
    published, left = torch.zeros_like(mean), torch.ones_like(mean)
    for spike in (-0.2, 0.2):
        window = torch.exp(-0.5 * ((theta - spike) / 0.075) ** 2)
        published += window * negative_kl_log_uniform(log_alpha(theta - spike, log_variance))
        left -= window
    published += left * negative_kl_log_uniform(log_alpha(theta, log_variance))
    found = kl_divergence(Normal(mean, scale), p) - LOG_UNIFORM_CONSTANT - p.log_normaliser
    torch.testing.assert_close(found, -published)


def test_the_gradient_is_that_of_finite_differences_in_everything_that_is_learned() -> None:
    torch.manual_seed(0)
    mean = (0.5 * torch.randn(6, dtype=torch.float64)).requires_grad_()
    scale = (0.02 + 0.1 * torch.rand(6, dtype=torch.float64)).requires_grad_()
    steps = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)

    def divergence(mean: torch.Tensor, scale: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return kl_divergence(Normal(mean, scale), MultiSpikeDistribution(steps))

    assert torch.autograd.gradcheck(divergence, (mean, scale, steps))
    at_spikes = torch.tensor([0.0, 0.2, -0.2], requires_grad=True)
    total = kl_divergence(Normal(at_spikes, 0.1), MultiSpikeDistribution(torch.tensor([0.2]))).sum()
    assert bool(torch.isfinite(torch.autograd.grad(total, at_spikes)[0]).all())


X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = X @ torch.linspace(-2, 2, 15).reshape(5, 3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_means_stay_within_the_outer_funnels_whatever_moves_them(optimizer: str) -> None:
    """As programs and recorded; `tests/inference/variational/test_bounds.py` does so for compiled steps."""
    prior = MultiSpike(level=0.1, min_log_variance=-7.0, max_log_variance=-6.0)
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(5, 3), prior, Gaussian(noise=0.3))
    # the data want weights of up to two, and no noise on them
    method = SVI(batch_size=60, learning_rate=0.02, schedule="constant", kl_weight=1e-3, optimizer=optimizer)
    state = method.init(model, len(X), 0)
    for _ in range(120):
        method.step(state, (X, Y))
        mean, scale = state.guide.location_and_scale("weight")
        bound = state.model.hyper.value("weight.steps").sum() + math.exp(-1.5) * scale
        assert bool((mean.abs() <= bound * 1.000001).all())
    assert float((mean.abs() / bound).max().detach()) == pytest.approx(1.0, abs=1e-6)
    log_variance = state.guide.log_variance.get_parameter("weight").detach()
    assert float(log_variance.min()) == -7.0 and float(log_variance.max()) <= -6.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"levels": 4}, r"an odd number of levels, from 3 to 511: .*found levels=4"),
        ({"level": 0.0}, r"needs 0 < low < level"),
        ({"level": 60.0, "levels": 5}, r"its outermost level below high; found .*level=60.0, levels=5, high=100.0"),
        ({"min_log_variance": 2.0}, r"min_log_variance must lie below max_log_variance, found 2.0 and 1.0"),
    ],
)
def test_what_makes_no_codebook_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PriorError, match=text):
        MultiSpike(**options)


def test_guides_over_all_sites_cannot_keep_the_bounds_and_say_so() -> None:
    model = BayesianNetwork(nn.Linear(5, 3), MultiSpike(), Gaussian())
    with pytest.raises(
        InferenceError, match="bounds the mean or log-variance of site 'weight', which guide 'full-rank'"
    ):
        SVI(guide="full-rank").init(model, len(X), 0)


PRIOR = MultiSpike(level=0.6)
METHOD = SVI(epochs=25, learning_rate=0.01, schedule="linear", rates={"hyper": 0.03, "log_variance": 1.0}, shrink=False)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def fitted() -> Posterior:
    return pc.fit(BayesianNetwork(network(), PRIOR), pc.data.load("digits"), METHOD)


@pytest.fixture(scope="module")
def decided(fitted: Posterior) -> Decision:
    settings = DecisionSettings(fine_tune_epochs=0, refine=False)
    return decide(fitted, network(), pc.data.load("digits"), settings)


def test_weights_gather_at_levels_that_were_learned(fitted: Posterior) -> None:
    for name in ("1.weight", "3.weight"):
        site = fitted.parameters[name]
        level = float(fitted.hyperparameters[f"{name}.steps"][0])
        assert abs(level - PRIOR.level) > 0.005
        assert site.quantizer == Codebook((-level, level)) and site.value is None
        assert site.criterion is not None and site.criterion.threshold == 3.0
        nearest = level * np.clip(np.rint(site.mean / level), -1, 1) * site.kept()
        near = np.abs(site.mean - nearest) < 0.25 * level
        # no weight was larger than 0.18 at the start
        assert near.mean() > 0.9 and near[nearest != 0].mean() > 0.8
    assert fitted.parameters["1.bias"].quantizer is None


def test_the_file_holds_three_values_and_predicts_as_well(fitted: Posterior, decided: Decision) -> None:
    data = pc.data.load("digits")
    for name, site in decided.sites.items():
        if site.value.ndim > 1:
            level = np.float32(fitted.hyperparameters[f"{name}.steps"][0])
            assert set(np.unique(site.stored()).tolist()) == {-level, 0.0, level}
            assert not site.stored()[~fitted.parameters[name].kept()].any()
        else:
            assert isinstance(site.quantizer, Uniform)
    artifact = pc.compress(network(), decided, data.input_shape)
    kinds = [type(tensor.quantizer) for tensor in artifact.network.tensors.values() if len(tensor.shape) > 1]
    assert kinds == [Codebook, Codebook]
    x, y = data.part("test")
    errors = (artifact.to_torch()(x).argmax(1) != y).float().mean()
    values = {name: torch.tensor(site.mean) for name, site in fitted.parameters.items()}
    with torch.no_grad():
        before = (torch.func.functional_call(network(), values, (x,)).argmax(1) != y).float().mean()
    assert float(before) < 0.1 and float(errors) < float(before) + 0.03
    assert len(artifact.data) < 400


def test_a_layer_with_another_prior_is_not_quantised_to_levels() -> None:
    prior = {"1.weight": LogUniform(), "3.weight": MultiSpike(level=0.6, levels=5)}
    posterior = pc.fit(BayesianNetwork(network(), prior), pc.data.load("digits"), SVI(epochs=1, shrink=False))
    assert posterior.parameters["1.weight"].quantizer is None
    found = posterior.parameters["3.weight"].quantizer
    assert isinstance(found, Codebook) and found.sides == (2, 2)
