"""Soft weight sharing: density, merging and responsibilities against other computations, and the road to a file."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

import pyro_compress as pc
from pyro_compress.errors import InferenceError, PriorError
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.soft_weight_sharing import SharedMixture, SoftWeightSharing
from pyro_compress.network.quantizers import Codebook
from pyro_compress.pipeline.decision_settings import DecisionSettings
from pyro_compress.posterior.posterior import Posterior

SHARES, MEANS, PRECISIONS = (
    torch.tensor(each, dtype=torch.float64)
    for each in ([0.7, 0.1, 0.15, 0.05], [0.0, -0.4, 0.3, 0.34], [2500.0, 400.0, 900.0, 60.0])
)
MIXTURE = SharedMixture(SHARES, MEANS, PRECISIONS)


def test_the_density_and_its_gradients_are_those_of_torchs_mixture() -> None:
    value = torch.linspace(-0.8, 0.8, 60, dtype=torch.float64).reshape(3, 20).requires_grad_()
    learned = [each.clone().requires_grad_() for each in (SHARES, MEANS, PRECISIONS)]
    found = SharedMixture(*learned).log_prob(value)
    shares, means, precisions = learned
    expected = MixtureSameFamily(Categorical(shares), Normal(means, precisions.rsqrt())).log_prob(value)
    torch.testing.assert_close(found, expected)
    # torch normalises shares, so only what does not move their sum is compared
    moves = [value, means, precisions]
    for one, other in zip(
        torch.autograd.grad(found.sum(), moves, retain_graph=True),
        torch.autograd.grad(expected.sum(), moves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    single = SharedMixture(SHARES.float(), MEANS.float(), PRECISIONS.float()).log_prob(value.detach().float())
    torch.testing.assert_close(single.double(), expected.detach(), rtol=1e-4, atol=1e-4)


def test_what_lies_far_from_all_components_is_pulled_by_the_nearest() -> None:
    """Far below single precision's smallest number: −½ λ (w − μ)² with λ = 400 and w − μ = 3 is −1,800 nats."""
    mixture = SharedMixture(torch.tensor([0.9, 0.1]), torch.tensor([0.0, 0.5]), torch.tensor([2500.0, 400.0]))
    value = torch.tensor([[3.5], [-3.0]], requires_grad=True)
    density = mixture.log_prob(value)
    assert density.flatten().tolist() == pytest.approx(
        [math.log(0.1) + stats.norm.logpdf(3.5, 0.5, 0.05), math.log(0.1) + stats.norm.logpdf(-3.0, 0.5, 0.05)]
    )
    density.sum().backward()
    assert value.grad is not None and value.grad.flatten().tolist() == pytest.approx([-400 * 3.0, 400 * 3.5])
    assert mixture.most_responsible(value.detach()).tolist() == [[1], [1]]


def test_draws_follow_the_density() -> None:
    torch.manual_seed(0)
    draws = SharedMixture(SHARES.float(), MEANS.float(), PRECISIONS.float()).sample((20_000,)).numpy()

    def cumulative(w: Any) -> Any:
        parts = zip(SHARES.tolist(), MEANS.tolist(), PRECISIONS.tolist(), strict=True)
        return sum(share * stats.norm.cdf(w, mean, precision**-0.5) for share, mean, precision in parts)

    assert stats.kstest(draws, cumulative).pvalue > 1e-4


def test_a_weight_belongs_to_its_most_responsible_component() -> None:
    value = np.linspace(-0.8, 0.8, 401)
    joint = SHARES.numpy() * stats.norm.pdf(value[:, None], MEANS.numpy(), PRECISIONS.numpy() ** -0.5)
    found = MIXTURE.most_responsible(torch.from_numpy(value).reshape(1, -1)).numpy()[0]
    np.testing.assert_array_equal(found, joint.argmax(1))
    # not the nearest mean: the wide component has what lies far out, and the one of large share more than its half
    nearest = np.abs(value[:, None] - MEANS.numpy()).argmin(1)
    assert (found != nearest).sum() > 20


def test_components_that_are_alike_are_merged_and_zero_stays() -> None:
    shares, means = torch.tensor([0.5, 0.1, 0.3, 0.1]), torch.tensor([0.0, 0.001, 0.4, 0.402])
    precisions = torch.tensor([1000.0, 1100.0, 2000.0, 2400.0])
    mixture = SharedMixture(shares, means, precisions)

    def divergence(i: int, j: int) -> float:
        normals = [Normal(m, p.rsqrt()) for m, p in zip(means, precisions, strict=True)]
        one, other = normals[i], normals[j]
        both = torch.distributions.kl_divergence(one, other) + torch.distributions.kl_divergence(other, one)
        return float(both)

    near, nearer = sorted((divergence(0, 1), divergence(2, 3)), reverse=True)
    assert divergence(0, 2) > 1 > near > nearer > 0
    assert len(mixture.merged(0.99 * nearer).means) == 4
    assert len(mixture.merged(1.01 * nearer).means) == 3
    found = mixture.merged(1.01 * near)
    torch.testing.assert_close(found.shares, torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(found.means, torch.tensor([0.0, (0.3 * 0.4 + 0.1 * 0.402) / 0.4]))
    torch.testing.assert_close(found.precisions, torch.tensor([(500 + 110) / 0.6, (600 + 240) / 0.4]))
    torch.testing.assert_close(mixture.merged(0.0).means, means)


X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.linspace(-1, 1, 12).reshape(4, 3)


def line(**options: Any) -> BayesianNetwork:
    torch.manual_seed(0)
    prior = SoftWeightSharing(components=2, **options)
    return BayesianNetwork(nn.Linear(4, 3), prior, Gaussian(noise=1.0))


@pytest.mark.parametrize("method", [MAP(batch_size=40, kl_weight=0.3), SVI(batch_size=40)], ids=["map", "svi"])
def test_the_complexity_counts_every_weight_and_the_densities_of_the_precisions_once(method: Any) -> None:
    model = line(initial_log_variance=-60.0)
    state = method.init(model, len(X), 0)
    terms = method.terms(state, (X, Y))
    shares = np.array([0.99, 0.005, 0.005])
    weights = np.concatenate([parameter.detach().numpy().ravel() for parameter in model.network.parameters()])
    means = np.array([0.0, weights.min(), weights.max()])
    density = (shares * stats.norm.pdf(weights[:, None], means, 0.25)).sum(1)
    gamma = stats.gamma.logpdf(16.0, a=[5e3, 250, 250], scale=[0.5, 10, 10]).sum()
    assert float(terms.by_site["prior.precisions"].detach()) == pytest.approx(-gamma, rel=1e-4)
    entropy = 0.0
    if isinstance(method, SVI):
        entropy = len(weights) * 0.5 * (math.log(2 * math.pi * math.e) - 60.0)
    expected = -np.log(density).sum() - gamma - entropy
    assert float(terms.complexity.detach()) == pytest.approx(expected, rel=1e-4)
    assert {"weight", "bias", "prior.precisions"} == set(terms.by_site)
    info = method.step(state, (X, Y))
    if isinstance(method, MAP):
        assert info.kl_weight == 0.3 and info.complexity_nats == pytest.approx(expected, rel=1e-4)
    else:
        scored = SVI(batch_size=40, estimator="score").terms(state, (X, Y))
        torch.testing.assert_close(scored.by_site["prior.precisions"], terms.by_site["prior.precisions"])
        assert float(scored.complexity.detach()) == pytest.approx(expected, rel=0.1)


def test_the_gamma_densities_rule_precisions_that_no_weight_depends_on() -> None:
    """Of components far from all weights −ln p changes with ln λ by β λ − (α − 1), which is zero at the mode."""
    model = line(shape=50.0, rate=2.0)
    with torch.no_grad():
        model.hyper.tensor("prior.means").copy_(torch.tensor([-40.0, 40.0]))
    method = MAP(batch_size=40)
    method.terms(method.init(model, len(X), 0), (X, Y)).complexity.backward()
    found = model.hyper.tensor("prior.precisions").grad
    assert found is not None and found[1:].tolist() == pytest.approx([2.0 * 16.0 - 49.0] * 2, rel=1e-4)


def test_map_moves_by_rates_of_roles_and_weighs_the_prior() -> None:
    still = MAP(epochs=2, batch_size=40, rates={"weight": 0.0, "scale": 6.0}, kl_weight=0.1)
    found = pc.fit(line(), (X, Y), still)
    network = line().network
    np.testing.assert_array_equal(
        found.parameters["weight"].mean, dict(network.named_parameters())["weight"].detach().numpy()
    )
    assert (found.hyperparameters["prior.log_shares"] != 0).any() and found.provenance["kl_weight"] == 0.1
    # without the densities of the prior it is maximum likelihood
    flat = pc.fit(BayesianNetwork(network, {}, Gaussian(noise=1.0)), (X, Y), MAP(epochs=5, batch_size=40))
    weightless = pc.fit(line(), (X, Y), MAP(epochs=5, batch_size=40, kl_weight=0.0))
    np.testing.assert_array_equal(weightless.parameters["bias"].mean, flat.parameters["bias"].mean)
    model = BayesianNetwork(network, {"weight": SoftWeightSharing()}, Gaussian())
    state = MAP(rates={"free": 0.5, "weight": 0.25}).init(model, 40, 0)
    multipliers = {group["multiplier"]: len(group["params"]) for group in state.optimizer.param_groups}
    assert multipliers == {0.25: 1, 0.5: 1, 1.0: 4}
    with pytest.raises(InferenceError, match=r"unknown learning rate 'weights'.*Did you mean 'weight'"):
        MAP(rates={"weights": 1.0})
    with pytest.raises(InferenceError, match="kl_weight must be finite and not negative, found -1"):
        MAP(kl_weight=-1.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"components": 0}, "a mixture has 1 to 255 components besides that at zero: 0"),
        ({"zero_share": 1.0}, "zero_share is a probability between 0 and 1, found 1.0"),
        ({"deviation": 0.0}, "deviation must be positive, found 0.0"),
        ({"rate": -1.0}, "rate must be positive, found -1.0"),
        ({"shape": 0.5}, "need shapes of at least 1, so that they have a mode; found zero_shape=5000.0, shape=0.5"),
        ({"merge_nats": -0.1}, "merge_nats must not be negative, found -0.1"),
    ],
)
def test_what_makes_no_mixture_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PriorError, match=text):
        SoftWeightSharing(**options)


PRIOR = SoftWeightSharing(components=8)


def fresh() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="module")
def pretrained() -> nn.Sequential:
    network = fresh()
    found = pc.fit(BayesianNetwork(network, {}), pc.data.load("digits"), MAP(epochs=12, learning_rate=0.01))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(found.parameters[name].mean))
    return network


@pytest.fixture(scope="module")
def fitted(pretrained: nn.Sequential) -> Posterior:
    rates = {"hyper": 0.2, "scale": 6.0}
    method = MAP(epochs=30, learning_rate=5e-3, schedule="linear", rates=rates, kl_weight=0.03)
    return pc.fit(BayesianNetwork(pretrained, PRIOR), pc.data.load("digits"), method)


def test_the_whole_network_shares_the_means_of_a_few_components(fitted: Posterior, pretrained: nn.Sequential) -> None:
    hyper = fitted.hyperparameters
    values = torch.cat([parameter.detach().flatten() for parameter in pretrained.parameters()])
    start = np.linspace(float(values.min()), float(values.max()), 8)
    assert hyper["prior.means"].shape == (8,) and np.abs(hyper["prior.means"] - start).max() > 1e-3
    assert hyper["prior.precisions"].shape == (9,) and (hyper["prior.precisions"] > 100).all()
    others = np.exp(hyper["prior.log_shares"]) / np.exp(hyper["prior.log_shares"]).sum()
    shares = np.concatenate([[PRIOR.zero_share], (1 - PRIOR.zero_share) * others])
    means = np.concatenate([[0.0], hyper["prior.means"]])
    zeros = count = 0
    for site in fitted.parameters.values():
        deviations = hyper["prior.precisions"] ** -0.5
        joint = np.log(shares) + stats.norm.logpdf(site.mean[..., None].astype(np.float64), means, deviations)
        expected = means[joint.argmax(-1)]
        assert isinstance(site.quantizer, Codebook) and site.value is not None
        # nothing was near enough to be merged, so that all are levels
        np.testing.assert_allclose(site.quantizer.levels, np.sort(means[1:]), rtol=1e-6)
        same = np.isclose(site.value, expected, rtol=1e-5)
        assert same.mean() > 0.999
        zeros, count = zeros + int((site.value == 0).sum()), count + site.value.size
    assert zeros > 0.5 * count


def test_the_file_holds_the_means_and_predicts_as_well(fitted: Posterior, pretrained: nn.Sequential) -> None:
    data = pc.data.load("digits")
    decision = pc.decide(fitted, pretrained, data, DecisionSettings(fine_tune_epochs=0, refine=False))
    for name, site in decision.sites.items():
        np.testing.assert_array_equal(site.stored(), fitted.parameters[name].value)
    artifact = pc.compress(pretrained, decision, data=data)
    x, y = data.part("test")
    with torch.no_grad():
        before = (pretrained(x).argmax(1) != y).float().mean()
    after = (artifact.to_torch()(x).argmax(1) != y).float().mean()
    assert float(before) < 0.08 and float(after) < float(before) + 0.05
    book = fitted.parameters["1.weight"].quantizer
    assert isinstance(book, Codebook)
    for tensor in artifact.network.tensors.values():
        # biases may have taken over what units without inputs give
        assert len(tensor.shape) < 2 or set(np.unique(tensor.dense()).tolist()) <= {0.0, *book.levels}
    assert len(artifact.data) < 700
