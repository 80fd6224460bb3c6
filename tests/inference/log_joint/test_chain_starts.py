"""Where chains start, what they do where the model cannot be computed, and supports that depend on other sites."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.independent.importance import ImportanceSampling
from pyro_compress.inference.independent.rejection import RejectionSampling
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Gaussian
from pyro_compress.models.priors.normal import Normal
from pyro_compress.models.program import Program
from tests.inference.chain_targets import X, Y

SHORT: dict[str, Any] = {"chains": 2, "warmup": 20, "draws": 20}
NAN = torch.tensor(math.nan)


# ---- starts


def beyond(y: torch.Tensor) -> None:
    """No point that the usual start gives has a probability: θ is at least 60, e² is 7."""
    theta = pyro.sample("theta", dist.LogNormal(4.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Uniform(0.0, theta, validate_args=False), obs=y)


@pytest.mark.parametrize("method", [NUTS(**SHORT, compile="never"), Metropolis(**SHORT), SGLD(epochs=2, a=1e-4)])
def test_starts_are_drawn_until_they_have_a_probability(method: Any) -> None:
    draws = fit(beyond, (torch.tensor([60.0, 3.0]),), method, seed=0).draws
    assert draws is not None and draws.site("theta").min() >= 60


def test_chains_start_where_they_are_told_to() -> None:
    each = {"rate": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}

    def model() -> None:
        pyro.sample("rate", dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(0.0, 1.0))

    def starts(start: Any, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        state = HMC(chains=3, spread=spread, start=start).init(Program(model, ()), 1, 0)
        found = state.log_joint.constrained(state.position)
        return found["rate"].numpy(), found["x"].numpy()

    rate, x = starts(each)
    np.testing.assert_allclose(rate, each["rate"], rtol=1e-5)
    assert len(set(x)) == 3
    rate, _ = starts({"rate": torch.tensor([1.0, 2.0])}, spread=0.0)
    np.testing.assert_allclose(rate, np.tile([1.0, 2.0], (3, 1)), rtol=1e-5)
    rate, _ = starts({"rate": [1.0, 2.0]})
    assert 0 < np.abs(np.log(rate / [1.0, 2.0])).max() < 0.5
    posterior = fit(model, None, Metropolis(chains=2, warmup=5, draws=30), seed=0)
    rate, x = starts(posterior)
    assert posterior.draws is not None
    held = posterior.draws.site("rate").reshape(-1, 2)
    assert all(np.isclose(held, row, rtol=1e-4).all(1).any() for row in rate)


def test_networks_start_where_they_are_told_to() -> None:
    model = BayesianNetwork(nn.Linear(3, 1), Normal(), Gaussian(noise=0.5))
    weight = torch.tensor([[1.0, -2.0, 0.5]])
    state = NUTS(chains=2, spread=0.0, start={"weight": weight}).init(model, 20, 0)
    torch.testing.assert_close(state.log_joint.constrained(state.position)["weight"], weight.expand(2, 1, 3))


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ({"z": 1.0}, "start names 'z', and the sites of the model are theta"),
        ({"theta": [1.0, 2.0, 3.0]}, r"the start of 'theta' has the shape \(3,\), expected \(\), or \(2,\) with one"),
        ({"theta": -1.0}, "the start of 'theta' lies outside its support"),
        (
            {"theta": 1.0},
            r"at the start: the log joint of chain 0 is -inf, the log-likelihood first; 100 points near",
        ),
    ],
)
def test_starts_that_cannot_be_are_refused(start: Any, text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        fit(beyond, (torch.tensor([60.0]),), NUTS(**SHORT, start=start, compile="never"))


# ---- points at which the model cannot be computed


def breaks(kind: str, where: float = 1.0) -> Any:
    """x ~ N(0, 1) where x is below `where`, and an error beyond it."""

    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if kind == "cholesky":
            torch.linalg.cholesky((where - x).reshape(1, 1))
        elif kind == "inverse":
            torch.linalg.inv((x < where).to(x.dtype).reshape(1, 1))
        elif float(x) >= where:
            dist.Normal(0.0, NAN, validate_args=True) if kind == "validation" else math.log(-1.0)

    return model


@pytest.mark.filterwarnings("ignore:the model cannot be traced")
@pytest.mark.parametrize("kind", ["cholesky", "inverse", "validation", "arithmetic"])
def test_a_point_that_cannot_be_computed_has_no_probability(kind: str) -> None:
    """The truncated normal has the mean −φ(1)/Φ(1); three chains go on where one cannot."""
    replayed = kind in ("cholesky", "inverse")
    count = 400 if replayed else 40
    draws = fit(breaks(kind), None, NUTS(chains=3, warmup=100, draws=count, compile="never"), seed=1).draws
    assert draws is not None and draws.site("x").max() < 1
    assert draws.statistics["diverging"].sum() > 0
    if replayed:
        assert draws.site("x").mean() == pytest.approx(-0.2876, abs=0.12)


def test_metropolis_rejects_what_cannot_be_computed_and_counts_it() -> None:
    draws = fit(breaks("cholesky"), None, Metropolis(chains=4, warmup=300, draws=2000, thin=2), seed=0).draws
    assert draws is not None and draws.site("x").max() < 1
    assert draws.site("x").mean() == pytest.approx(-0.2876, abs=0.12)
    assert 0.02 < draws.statistics["no_probability"].mean() < 0.5


def test_only_the_chain_that_cannot_be_computed_gets_no_number() -> None:
    log_joint = LogJoint(Program(breaks("cholesky"), ()), 1)
    flat = torch.tensor([[0.0], [2.0], [-1.0]])
    found = log_joint(flat, ())
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(flat[:, 0])
    torch.testing.assert_close(found.log_joint, torch.where(flat[:, 0] < 1, normal, NAN), equal_nan=True)
    torch.testing.assert_close(found.gradient[[0, 2], 0], -flat[[0, 2], 0])
    assert log_joint.failure is not None and "LinAlgError" in log_joint.failure


def test_what_never_can_be_computed_is_said() -> None:
    def never() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if x.requires_grad or float(x) > -100:
            torch.linalg.cholesky(-torch.eye(2))

    with pytest.raises(InferenceError, match=r"LinAlgError"):
        fit(never, None, Metropolis(**SHORT))


def test_gradient_samplers_and_guides_say_where_the_model_cannot_be_computed() -> None:
    with pytest.raises(InferenceError, match=r"step \d+ of \d+: the model cannot be computed where chain 0 is \(Lin"):
        fit(breaks("cholesky"), None, SGLD(epochs=4000, a=0.5, gamma=0.0))
    with pytest.raises(InferenceError, match=r"the model cannot be computed .*LinAlgError.*NUTS"):
        fit(breaks("cholesky"), None, SVI(epochs=400, particles=8, learning_rate=0.1))


def test_proposals_that_cannot_be_computed_weigh_nothing() -> None:
    draws = fit(breaks("cholesky"), None, ImportanceSampling(draws=1500), seed=0).draws
    assert draws is not None
    weights = draws.weights().ravel()
    assert float(weights @ draws.site("x").ravel()) == pytest.approx(-0.2876, abs=0.08)


# ---- supports that depend on other sites


def within() -> None:
    """a ~ Γ(3, 1), b ~ U(0, a), and b is seen to be 2 with an sd of 0.5."""
    a = pyro.sample("a", dist.Gamma(3.0, 1.0))
    b = pyro.sample("b", dist.Uniform(torch.zeros(()), a))
    pyro.sample("seen", dist.Normal(b, 0.5), obs=torch.tensor(2.0))


def moments_within() -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of (a, b) by quadrature."""
    a, b = np.meshgrid(np.linspace(0.005, 25, 1500), np.linspace(0.005, 6, 800), indexing="ij")
    density = np.where(b < a, a * np.exp(-a) * np.exp(-2 * (b - 2) ** 2), 0.0)
    density /= density.sum()
    mean = np.array([(density * v).sum() for v in (a, b)])
    return mean, np.sqrt([(density * (v - m) ** 2).sum() for v, m in zip((a, b), mean, strict=True)])


@pytest.mark.parametrize(
    "method",
    [
        NUTS(chains=4, warmup=200, draws=500, compile="never"),
        Metropolis(chains=20, warmup=300, draws=200, thin=4),
        ImportanceSampling(draws=20_000),
        RejectionSampling(draws=1500),
    ],
)
def test_supports_that_depend_on_other_sites_agree_with_quadrature(method: Any) -> None:
    draws = fit(within, None, method, seed=0).draws
    assert draws is not None
    mean, sd = moments_within()
    found = draws.moments()
    for index, name in enumerate(("a", "b")):
        assert float(found[name][0]) == pytest.approx(mean[index], abs=0.12 * sd[index])
        assert math.sqrt(float(found[name][1])) == pytest.approx(sd[index], rel=0.12)
    assert (draws.site("b") < draws.site("a")).all()


def test_a_dependent_support_has_the_right_jacobian_and_inverse() -> None:
    log_joint = LogJoint(Program(within, ()), 1, dtype=torch.float64)
    flat = torch.tensor([[0.3, -0.7], [1.1, 0.4]], dtype=torch.float64)
    values = log_joint.constrained(flat)
    a, share = flat[:, 0].exp(), flat[:, 1].sigmoid()
    torch.testing.assert_close(values["b"], a * share)
    torch.testing.assert_close(log_joint.unconstrained({name: v[1] for name, v in values.items()}), flat[1])
    exact = torch.distributions.Gamma(torch.tensor(3.0).double(), torch.tensor(1.0).double()).log_prob(a) - a.log()
    exact += torch.distributions.Normal(a * share, 0.5).log_prob(torch.tensor(2.0))
    exact += flat[:, 0] + a.log() + share.log() + (1 - share).log()
    torch.testing.assert_close(log_joint.at(flat, ()).log_joint, exact)


@pytest.mark.parametrize("method", [SVI(epochs=2), MAP(epochs=2)])
def test_guides_refuse_supports_that_depend_on_other_sites(method: Any) -> None:
    with pytest.raises(InferenceError, match="the support of site 'b' depends on other sites"):
        fit(within, None, method)


# ---- log joints that are random


class Noisy(nn.Module):
    """A layer that draws noise in training and evaluation alike."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.01 * torch.randn_like(x)


def network(layer: nn.Module) -> BayesianNetwork:
    torch.manual_seed(0)
    return BayesianNetwork(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 1)), Normal(), Gaussian(noise=0.5))


def subsampled(x: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x), subsample_size=5) as chosen:
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x[chosen])


SAMPLERS = (
    NUTS(**SHORT, compile="never", max_tree_depth=4),
    Metropolis(**SHORT),
    ImportanceSampling(draws=20),
    SGLD(epochs=2),
)


@pytest.mark.parametrize("method", [*SAMPLERS, RejectionSampling(draws=5, log_bound=0.0)])
def test_modules_that_draw_noise_are_named(method: Any) -> None:
    with pytest.raises(InferenceError, match=r"site 'y' is random, since module '1' \(Noisy\) is"):
        fit(network(Noisy()), (X, Y[:, None]), method)


@pytest.mark.parametrize("method", SAMPLERS[:3])
def test_plates_that_subsample_are_named(method: Any) -> None:
    with pytest.raises(InferenceError, match="the plate 'rows' draws a subsample each time"):
        fit(subsampled, (Y,), method)


def test_noise_without_a_module_is_named_by_its_site() -> None:
    def model(y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean + 0.1 * torch.randn(len(y)), 1.0), obs=y)

    with pytest.raises(
        InferenceError, match=r"NUTS needs the same log joint .* site 'y' is random: take the noise out"
    ):
        fit(model, (Y,), SAMPLERS[0])


def test_dropout_is_off_where_a_posterior_is_sampled() -> None:
    """The same chain as without the layer, step by step."""
    method = NUTS(chains=2, warmup=30, draws=10, compile="never", max_tree_depth=3)
    found = [fit(network(layer), (X, Y[:, None]), method, seed=0).draws for layer in (nn.Dropout(0.5), nn.Identity())]
    assert found[0] is not None and found[1] is not None
    np.testing.assert_array_equal(found[0].flat, found[1].flat)


def test_batch_norm_keeps_the_statistics_that_it_came_with_or_is_refused() -> None:
    with pytest.raises(InferenceError, match=r"module '1' \(BatchNorm1d\) has running statistics that no data have"):
        fit(network(nn.BatchNorm1d(4)), (X, Y[:, None]), SAMPLERS[0])
    seen = nn.BatchNorm1d(4)
    seen(2 + torch.randn(30, 4))
    posterior = fit(network(seen), (X, Y[:, None]), SAMPLERS[0], seed=0)
    np.testing.assert_array_equal(posterior.buffers["1.running_mean"], seen.running_mean)
