"""Targets whose posterior moments are known.

Every target names a few quantities (weights, scales, predictions) with their mean and covariance under the posterior:
in closed form, by quadrature, or for the small network by importance sampling in numpy, which shares no code with
the package.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks.accuracy_errors import Moments, Sites, Target
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical, Gaussian
from pyro_compress.models.priors.normal import Normal


def weighted_moments(log_weight: np.ndarray, values: np.ndarray, within: np.ndarray | None = None) -> Moments:
    """Mean and covariance of points (n, k) with log weights (n,); `within`: variances that points have inside them."""
    weights = np.exp(log_weight - log_weight.max())
    weights /= weights.sum()
    mean = weights @ values
    covariance = (values - mean).T * weights @ (values - mean)
    return mean, covariance if within is None else covariance + np.diag(weights @ within)


def best_of_normal(mean: np.ndarray, covariance: np.ndarray) -> Callable[[str], Moments]:
    """Best guide of a normal posterior: itself, or under independence the variances 1/Λ_ii, Λ = Σ⁻¹.

    A low-rank guide holds the posterior if it has D − 1 directions or more.
    """
    independent = np.diag(1 / np.diag(np.linalg.inv(covariance)))
    return lambda guide: (mean, independent if guide == "mean-field" else covariance)


def grid(*axes: np.ndarray) -> np.ndarray:
    """(points, axes) of a rectangular grid."""
    return np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], -1)


# ---- conjugate linear regression, of a network of one layer


def regression() -> Target:
    """y = x·w + ε with three correlated inputs."""
    generator, noise, scale = torch.Generator().manual_seed(5), 0.8, 0.6
    mixing = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.6, -0.5], [0.0, 0.0, 0.7]])
    x = torch.randn(24, 3, generator=generator) @ mixing
    y = x @ torch.tensor([[0.9], [-0.5], [0.2]]) + noise * torch.randn(24, 1, generator=generator)
    precision = (x.T @ x / noise**2).double() + torch.eye(3).double() / scale**2
    covariance = torch.linalg.inv(precision)
    torch.manual_seed(0)
    model = BayesianNetwork(nn.Linear(3, 1, bias=False), Normal(scale, initial_log_variance=-4.0), Gaussian(noise))
    mean = (covariance @ (x.T @ y / noise**2).double())[:, 0]
    narrowest = float(1 / torch.linalg.eigvalsh(precision)[-1])
    exact = (mean.numpy(), covariance.numpy())
    return Target(
        model, (x, y), lambda sites: sites["weight"][..., 0, :], *exact, "closed form", narrowest, batch=12,
        best_normal=best_of_normal(*exact),
    )  # fmt: skip


# ---- correlated Gaussian: a prior N(0, I) and one observation of the difference


def gaussian() -> Target:
    """ρ = 0.9: of x ~ N(0, I) it is observed that x₁ − x₂ is 1, with an sd of 1/3."""

    def correlated_gaussian() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x[..., 0] - x[..., 1], 1 / 3), obs=torch.tensor(1.0))

    precision = np.eye(2) + 9 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.array([9.0, -9.0])
    return Target(
        correlated_gaussian, None, lambda sites: sites["x"], mean, covariance, "closed form", 1 / 19,
        best_normal=best_of_normal(mean, covariance),
    )  # fmt: skip


# ---- the mixture of Welling & Teh (2011), section 5.1


def mixture() -> Target:
    """x ~ ½ N(θ₁, 2) + ½ N(θ₁ + θ₂, 2): modes at (0, 1) and (1, −1)."""

    def gaussian_mixture(x: Tensor) -> None:
        first = pyro.sample("first", dist.Normal(0.0, math.sqrt(10.0)))
        second = pyro.sample("second", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            parts = dist.Normal(torch.stack([first, first + second]), math.sqrt(2.0))
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts), obs=x)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, generator=generator) * math.sqrt(2.0) + (torch.rand(100, generator=generator) < 0.5).float()
    points = grid(np.linspace(-2.5, 3.5, 300), np.linspace(-5.0, 5.0, 400))
    log_weight = -(points[:, 0] ** 2) / 20 - points[:, 1] ** 2 / 2
    for value in x.double().numpy():
        log_weight += np.logaddexp(-((value - points[:, 0]) ** 2) / 4, -((value - points.sum(1)) ** 2) / 4)
    return Target(
        gaussian_mixture, (x,), lambda sites: np.stack([sites["first"], sites["second"]], -1),
        *weighted_moments(log_weight, points), "quadrature", 0.02, batch=50,
    )  # fmt: skip


# ---- logistic regression, of a network of one layer


class OneLogit(nn.Module):
    """Logits (0, u) of two classes."""

    def forward(self, logit: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(logit), logit], -1)


def logistic() -> Target:
    """Two coefficients with priors N(0, 2²), 30 examples; skewed, since the classes nearly separate."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 2, generator=generator) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    y = (torch.rand(30, generator=generator) < torch.sigmoid(x @ torch.tensor([2.0, -1.0]))).long()
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 1, bias=False), OneLogit())
    model = BayesianNetwork(layers, Normal(2.0, initial_log_variance=-4.0), Categorical())
    points = grid(np.linspace(-10, 12, 500), np.linspace(-11, 11, 500))
    logits = points @ x.double().numpy().T
    signs = 2.0 * y.numpy() - 1
    log_weight = -np.square(points).sum(1) / 8 - np.logaddexp(0, -signs * logits).sum(1)
    moments = weighted_moments(log_weight, points)
    narrowest = float(np.linalg.eigvalsh(moments[1])[0])
    return Target(
        model, (x, y), lambda sites: sites["0.weight"][..., 0, :], *moments, "quadrature", narrowest, batch=15
    )


# ---- eight schools (Rubin 1981)

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
DEVIATIONS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools_centred() -> None:
    """μ ~ N(0, 5²), τ ~ C⁺(5), θ_j ~ N(μ, τ²), y_j ~ N(θ_j, σ_j²)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, DEVIATIONS), obs=EFFECTS)


def eight_schools_non_centred() -> None:
    """The same with θ = μ + τ z."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, DEVIATIONS), obs=EFFECTS)


def eight_schools(centred: bool) -> Target:
    """μ, ln τ and θ₁: the posterior of θ given μ and τ is normal, so two dimensions are left."""
    points = grid(np.linspace(-20, 30, 401), np.linspace(-12, 6, 1201))
    mu, tau = points[:, :1], np.exp(points[:, 1:])
    y, variance = EFFECTS.double().numpy(), DEVIATIONS.double().numpy() ** 2
    marginal = variance + tau**2
    # uniform in ln τ: the density of τ is multiplied by τ
    log_weight = -(mu[:, 0] ** 2) / 50 - np.log1p(tau[:, 0] ** 2 / 25) + points[:, 1]
    log_weight -= (np.log(marginal) / 2 + (y - mu) ** 2 / marginal / 2).sum(1)
    share = tau[:, 0] ** 2 / marginal[:, 0]
    theta = mu[:, 0] + share * (y[0] - mu[:, 0])
    within = np.stack([0 * share, 0 * share, share * variance[0]], -1)
    moments = weighted_moments(log_weight, np.column_stack([points, theta]), within)

    def quantities(sites: Sites) -> np.ndarray:
        first = sites["theta"][..., 0] if centred else sites["mu"] + sites["tau"] * sites["z"][..., 0]
        return np.stack([sites["mu"], np.log(sites["tau"]), first], -1)

    model = eight_schools_centred if centred else eight_schools_non_centred
    return Target(model, None, quantities, *moments, "quadrature", 0.08 if centred else 0.3)


# ---- Neal's funnel (2003), in its centred form


def funnel_model() -> None:
    """v ~ N(0, 3²), x_i ~ N(0, e^v) for nine i."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(9), (v / 2).exp().unsqueeze(-1)).to_event(1))


def funnel() -> Target:
    """Of v and ln |x₁| = v/2 + ln |z|, z ~ N(0, 1): E ln |z| = −(γ + ln 2)/2, Var ln |z| = π²/8.

    Under q(v) = N(m, s²), q(x_i) = N(0, t²) the ELBO is −(m² + s²)/18 − 9m/2 − 9/2 t² exp(s²/2 − m) + ln s + 9 ln t and
    a constant, so m = 0, t² = exp(−s²/2), 1/s² = 1/9 + 9/2.  A covariance of q only makes it smaller.
    """
    mean = np.array([0.0, -(np.euler_gamma + math.log(2)) / 2])
    covariance = np.array([[9.0, 4.5], [4.5, 2.25 + math.pi**2 / 8]])

    def quantities(sites: Sites) -> np.ndarray:
        return np.stack([sites["v"], np.log(np.abs(sites["x"][..., 0]))], -1)

    variance = 1 / (1 / 9 + 9 / 2)
    best = (mean - [0, variance / 4], np.diag([variance, math.pi**2 / 8]))
    return Target(funnel_model, None, quantities, mean, covariance, "closed form", 0.02, best_normal=lambda guide: best)


# ---- a small Bayesian network: predictions

NOISE, UNITS = 0.3, 3
INPUTS = torch.tensor([[-1.5], [-0.8], [-0.2], [0.5], [1.1]])
TARGETS = torch.tensor([[-0.6], [-0.9], [0.1], [0.7], [0.5]])
TEST_INPUTS = np.array([-2.0, 0.15, 2.0])


def outputs(first: np.ndarray, bias: np.ndarray, second: np.ndarray, last: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(..., points) of the network; first, bias and second are (..., units), last is (...)."""
    hidden = np.tanh(first[..., None] * at + bias[..., None])
    return np.asarray((second[..., None] * hidden).sum(-2) + last[..., None])


def network(draws: int = 3_000_000) -> Target:
    """1-3-1 with tanh, all priors N(0, 1): outputs at three points, by importance sampling from the prior."""
    generator, weights, values = np.random.default_rng(0), [], []
    at, y = INPUTS[:, 0].numpy(), TARGETS[:, 0].numpy()
    for _ in range(draws // 100_000):
        z = generator.standard_normal((100_000, 3 * UNITS + 1), dtype=np.float32)
        parts = (z[:, :UNITS], z[:, UNITS : 2 * UNITS], z[:, 2 * UNITS : 3 * UNITS], z[:, -1])
        weights.append(-np.square(y - outputs(*parts, at)).sum(-1).astype(np.float64) / (2 * NOISE**2))
        # what weighs nothing is not kept
        likely = weights[-1] > -40
        weights[-1] = weights[-1][likely]
        first, bias, second, last = (part[likely].astype(np.float64) for part in parts)
        values.append(outputs(first, bias, second, last, TEST_INPUTS))
    log_weight = np.concatenate(weights)
    share = np.exp(log_weight - log_weight.max())
    count = float(share.sum() ** 2 / np.square(share).sum())

    def quantities(sites: Sites) -> np.ndarray:
        parts = (sites["0.weight"][..., 0], sites["0.bias"], sites["2.weight"][..., 0, :], sites["2.bias"][..., 0])
        return outputs(*parts, TEST_INPUTS)

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(1, UNITS), nn.Tanh(), nn.Linear(UNITS, 1))
    return Target(
        BayesianNetwork(layers, Normal(1.0, initial_log_variance=-4.0), Gaussian(NOISE)), (INPUTS, TARGETS), quantities,
        *weighted_moments(log_weight, np.concatenate(values)),
        f"{draws:,} draws of the prior, weighted; effectively {count:,.0f}", 0.01, batch=5, reference_count=count,
    )  # fmt: skip


TARGETS_BY_NAME: Mapping[str, Callable[[], Target]] = {
    "linear regression": regression,
    "correlated Gaussian": gaussian,
    "Gaussian mixture": mixture,
    "logistic regression": logistic,
    "eight schools, centred": lambda: eight_schools(True),
    "eight schools, not centred": lambda: eight_schools(False),
    "funnel": funnel,
    "Bayesian network": network,
}
