"""Pyro programs as users write them, each with the true moments of its posterior: what all methods are held to.

Truths are closed forms, or sums over a grid of densities that are written down here in numpy and know nothing of Pyro.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.reparam import LocScaleReparam
from scipy import special, stats
from torch import Tensor

Moments = tuple[Any, Any]


@dataclass(frozen=True)
class Case:
    """A program and its posterior.

    Attributes:
        model: the program.
        data: its arguments.
        truth: (mean, sd) by site; of sites that are left out nothing is asked.
        shape: 'normal' where every posterior marginal is normal and sites are independent, so that mean field is exact;
            'skewed' where it is not.
    """

    model: Callable[..., Any]
    data: tuple[Tensor, ...] = ()
    truth: Mapping[str, Moments] = field(default_factory=dict)
    shape: str = "normal"


GENERATOR = torch.Generator().manual_seed(0)
N = 30
Y = torch.randn(N, generator=GENERATOR) + 1.5
KEEP = torch.arange(N) % 3 == 0
WEIGHTS = 0.2 + 2.0 * torch.rand(N, generator=GENERATOR)


def booleans(keep: Tensor) -> torch.BoolTensor:
    return cast(torch.BoolTensor, keep.bool())


def y_of(y: Tensor) -> np.ndarray:
    return y.double().numpy()


def normal_mean(y: Any, weights: Any = 1.0, prior_precision: float = 0.25, prior_mean: float = 0.0) -> Moments:
    """Of the mean of N(mean, 1) with observations that count so often each."""
    weights = np.broadcast_to(np.asarray(weights, dtype=float), np.shape(y))
    precision = prior_precision + weights.sum()
    return (prior_precision * prior_mean + (weights * y).sum()) / precision, precision**-0.5


def grid_moments(density: np.ndarray, *values: np.ndarray) -> list[Moments]:
    """(mean, sd) of functions on a grid under a log density on it."""
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    found = []
    for value in values:
        mean = (weight * value).sum()
        found.append((mean, np.sqrt((weight * (value - mean) ** 2).sum())))
    return found


# ---- handlers; the mean of N(mean, 1) under N(0, 2²)


def masked_rows(y: Tensor, keep: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=booleans(keep)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def masked_site(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        with poutine.mask(mask=False):
            pyro.sample("wrong", dist.Normal(mean + 3, 0.1), obs=y)


def masked_distribution(y: Tensor, keep: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0).mask(keep), obs=y)


def missing(y: Tensor, keep: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=booleans(keep))


def scaled_rows(y: Tensor, weights: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)), poutine.scale(scale=weights):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def plain(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def two_sites(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        pyro.sample("also", dist.Normal(mean, 1.0), obs=y + 1)


def scaled_prior(y: Tensor) -> None:
    with poutine.scale(scale=3.0):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def flat_prior(y: Tensor) -> None:
    with poutine.mask(mask=False):
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def padded(y: Tensor) -> None:
    """Three series in a matrix of which the second half is padding."""
    with pyro.plate("series", 3), poutine.mask(mask=booleans(torch.arange(3) < 2)):
        means = pyro.sample("means", dist.Normal(0.0, 2.0))
        with pyro.plate("time", 10):
            pyro.sample("y", dist.Normal(means, 1.0), obs=y.reshape(10, 3))


def with_scale(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def with_param(y: Tensor) -> None:
    mean = pyro.param("mean", torch.tensor(0.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def two_levels(y: Tensor) -> None:
    top = pyro.sample("top", dist.Normal(0.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(top, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def learned_top(y: Tensor) -> None:
    """The parameter is estimated by the maximum of the marginal likelihood, which is at the mean of y."""
    top = pyro.param("top", torch.tensor(0.0))
    mean = pyro.sample("mean", dist.Normal(top, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def local(y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def local_truth(y: Tensor) -> dict[str, Moments]:
    """Of (theta, z) together: normal, with this precision."""
    count = len(y)
    precision = np.diag([0.25 + count, *[1.0 + 4.0] * count])
    precision[0, 1:] = precision[1:, 0] = -1.0
    covariance = np.linalg.inv(precision)
    mean, sd = covariance @ np.concatenate([[0.0], 4.0 * y_of(y)]), np.sqrt(covariance.diagonal())
    return {"theta": (mean[0], sd[0]), "z": (mean[1:], sd[1:])}


def with_factor(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    pyro.factor("soft", -5.0 * (mean - 1.0) ** 2)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def factor_alone(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    pyro.factor("likelihood", -0.5 * ((y - mean) ** 2).sum())


def with_deterministic(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    twice = pyro.deterministic("twice", 2 * mean)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(twice / 2, 1.0), obs=y)


def prior_alone() -> None:
    pyro.sample("mean", dist.Normal(1.0, 2.0))


def subsampled(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y), subsample_size=15) as chosen:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[chosen])


def first_half(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y), subsample=torch.arange(15)) as chosen:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[chosen])


def nested(y: Tensor) -> None:
    with pyro.plate("columns", 3, dim=-1):
        means = pyro.sample("means", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", 10, dim=-2):
            pyro.sample("y", dist.Normal(means, 1.0), obs=y.reshape(10, 3))


def looped(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    for row in pyro.plate("data", len(y)):
        pyro.sample(f"y_{row}", dist.Normal(mean, 1.0), obs=y[int(row)])


def scalar_first(prior_sd: Tensor, y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, prior_sd))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


# ---- typical models

SERIES = torch.zeros(60)
for _t in range(1, 60):
    SERIES[_t] = 0.8 * SERIES[_t - 1] + 0.5 * torch.randn((), generator=GENERATOR)


def ar1(y: Tensor) -> None:
    phi = pyro.sample("phi", dist.Normal(0.0, 1.0))
    with pyro.plate("t", len(y) - 1):
        pyro.sample("y", dist.Normal(phi * y[:-1], 0.5), obs=y[1:])


def ar1_padded(y: Tensor) -> None:
    """The same with a plate over all rows; the first is drawn from N(0, 0.5²)."""
    phi, before = pyro.sample("phi", dist.Normal(0.0, 1.0)), torch.cat([torch.zeros(1), y[:-1]])
    with pyro.plate("t", len(y)):
        pyro.sample("y", dist.Normal(phi * before, 0.5), obs=y)


def ar1_loop(y: Tensor) -> None:
    phi, before = pyro.sample("phi", dist.Normal(0.0, 1.0)), torch.zeros(())
    for t in pyro.markov(range(12)):
        before = pyro.sample(f"y_{t}", dist.Normal(phi * before, 0.5), obs=y[t])


def ar1_truth(y: Tensor) -> Moments:
    values = y_of(y)
    precision = 1 + (values[:-1] ** 2).sum() / 0.25
    return (values[:-1] * values[1:]).sum() / 0.25 / precision, precision**-0.5


EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools_centred(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(10.0))
    with pyro.plate("schools", len(y)):
        pyro.sample("y", dist.Normal(pyro.sample("theta", dist.Normal(mu, tau)), sigma), obs=y)


def schools(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(10.0))
    with pyro.plate("schools", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * effect, sigma), obs=y)


def schools_truth(y: Tensor, sigma: Tensor) -> dict[str, Moments]:
    mu, tau = np.meshgrid(np.linspace(-20, 25, 300), np.linspace(0.02, 50, 400), indexing="ij")
    density = stats.norm.logpdf(mu, 0, 5) + stats.norm.logpdf(tau, 0, 10)
    for value, error in zip(y_of(y), y_of(sigma), strict=True):
        density += stats.norm.logpdf(value, mu, np.sqrt(tau**2 + error**2))
    return dict(zip(("mu", "tau"), grid_moments(density, mu, tau), strict=True))


PLACES = torch.linspace(0, 3, 12)
HEIGHTS = torch.sin(2 * PLACES) + 0.2 * torch.randn(12, generator=GENERATOR)


def process(x: Tensor, y: Tensor) -> None:
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    height = pyro.sample("height", dist.LogNormal(0.0, 0.5))
    covariance = height * torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 0.04 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def process_truth(x: Tensor, y: Tensor) -> dict[str, Moments]:
    a, b = np.meshgrid(np.linspace(-2, 2, 80), np.linspace(-2.5, 2.5, 80), indexing="ij")
    density = stats.norm.logpdf(a, 0, 0.5) + stats.norm.logpdf(b, 0, 0.5)
    distance = (y_of(x)[:, None] - y_of(x)) ** 2
    covariance = np.exp(b)[..., None, None] * np.exp(-0.5 * distance / np.exp(2 * a)[..., None, None])
    covariance = covariance + 0.04 * np.eye(len(x))
    solved = np.linalg.solve(covariance, np.broadcast_to(y_of(y)[:, None], (*a.shape, len(y), 1)))[..., 0]
    density += -0.5 * (solved * y_of(y)).sum(-1) - 0.5 * np.linalg.slogdet(covariance)[1]
    return dict(zip(("length", "height"), grid_moments(density, np.exp(a), np.exp(b)), strict=True))


FEATURE = torch.randn(N, generator=GENERATOR)
GROUP = torch.arange(N) % 5
OUTCOME = 0.7 * FEATURE + torch.randn(5, generator=GENERATOR)[GROUP] + 0.5 * torch.randn(N, generator=GENERATOR)


def hierarchical(x: Tensor, group: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("groups", 5):
        intercept = pyro.sample("intercept", dist.Normal(0.0, spread))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(intercept[group] + slope * x, 0.5), obs=y)


def hierarchical_truth(x: Tensor, group: Tensor, y: Tensor) -> dict[str, Moments]:
    """Normal given the spread, over which a grid is summed."""
    spreads = np.linspace(0.05, 5, 600)
    design = np.column_stack([y_of(x), np.eye(5)[group.numpy()]])
    density, means, squares = np.empty(len(spreads)), [], []
    for index, spread in enumerate(spreads):
        prior = np.array([1.0, *[spread**2] * 5])
        covariance = design * prior @ design.T + 0.25 * np.eye(len(y))
        density[index] = stats.norm.logpdf(spread, 0, 1) + stats.multivariate_normal.logpdf(y_of(y), cov=covariance)
        inside = np.linalg.inv(design.T @ design / 0.25 + np.diag(1 / prior))
        mean = inside @ design.T @ y_of(y) / 0.25
        means.append(mean)
        squares.append(inside.diagonal() + mean**2)
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    mean = weight @ np.array(means)
    sd = np.sqrt(weight @ np.array(squares) - mean**2)
    (of_spread,) = grid_moments(density, spreads)
    return {"slope": (mean[0], sd[0]), "intercept": (mean[1:], sd[1:]), "spread": of_spread}


PAIRS = torch.randn(N, 2, generator=GENERATOR) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]])


def correlated(x: Tensor) -> None:
    factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=factor), obs=x)


def correlated_truth(x: Tensor) -> dict[str, Moments]:
    """Of the Cholesky factor of [[1, ρ], [ρ, 1]], whose density in ρ is (1 − ρ²)^(2 − 1)."""
    rho = np.linspace(-0.999, 0.999, 4000)
    values, left = y_of(x), 1 - rho**2
    quadratic = (values[:, 0] ** 2).sum() + (values[:, 1] ** 2).sum() - 2 * rho * values.prod(1).sum()
    density = np.log(left) - 0.5 * len(x) * np.log(left) - 0.5 * quadratic / left
    (low, corner) = grid_moments(density, rho, np.sqrt(left))
    return {"factor": (np.array([[1, 0], [low[0], corner[0]]]), np.array([[0, 0], [low[1], corner[1]]]))}


KINDS = torch.tensor([0, 0, 1, 2, 2, 2, 0, 2, 2, 1, 2, 2])


def simplex(kinds: Tensor) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([2.0, 2.0, 2.0])))
    with pyro.plate("data", len(kinds)):
        pyro.sample("kind", dist.Categorical(share), obs=kinds)


def dirichlet(concentration: np.ndarray) -> Moments:
    total = concentration.sum()
    mean = concentration / total
    return mean, np.sqrt(mean * (1 - mean) / (total + 1))


def ordered(kinds: Tensor) -> None:
    cuts = pyro.sample(
        "cuts",
        dist.TransformedDistribution(dist.Normal(0.0, 1.0).expand([2]), [dist.transforms.OrderedTransform()]),
    )
    with pyro.plate("data", len(kinds)):
        pyro.sample("kind", dist.OrderedLogistic(torch.zeros(()), cuts), obs=kinds)


def ordered_truth(kinds: Tensor) -> dict[str, Moments]:
    u, v = np.meshgrid(np.linspace(-4, 4, 300), np.linspace(-4, 4, 300), indexing="ij")
    low, high = u, u + np.exp(v)
    first, second = special.expit(low), special.expit(high)
    counts = np.bincount(kinds.numpy())
    density = stats.norm.logpdf(u) + stats.norm.logpdf(v)
    for count, share in zip(counts, (first, second - first, 1 - second), strict=True):
        density += count * np.log(np.maximum(share, 1e-300))
    (one, other) = grid_moments(density, low, high)
    return {"cuts": (np.array([one[0], other[0]]), np.array([one[1], other[1]]))}


HITS = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1])


def bounded(hits: Tensor) -> None:
    rate = pyro.sample("rate", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", len(hits)):
        pyro.sample("hit", dist.Bernoulli(rate), obs=hits)


COUNTS = torch.tensor([3.0, 5, 2, 4, 6, 1, 3, 4])


def poisson(counts: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("data", len(counts)):
        pyro.sample("count", dist.Poisson(rate), obs=counts)


def negative_binomial(counts: Tensor) -> None:
    chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(counts)):
        pyro.sample("count", dist.NegativeBinomial(4.0, probs=chance), obs=counts)


def beta(a: float, b: float) -> Moments:
    return a / (a + b), np.sqrt(a * b / (a + b) ** 2 / (a + b + 1))


def gamma(a: float, rate: float) -> Moments:
    return a / rate, np.sqrt(a) / rate


def with_scale_truth(y: Tensor) -> dict[str, Moments]:
    mean, scale = np.meshgrid(np.linspace(0, 3, 300), np.linspace(0.4, 2.5, 300), indexing="ij")
    density = stats.norm.logpdf(mean, 0, 2) + stats.norm.logpdf(scale)
    density += stats.norm.logpdf(y_of(y)[:, None, None], mean, scale).sum(0)
    return dict(zip(("mean", "scale"), grid_moments(density, mean, scale), strict=True))


def dependent(y: Tensor) -> None:
    top = pyro.sample("top", dist.Uniform(0.5, 3.0))
    below = pyro.sample("below", dist.Uniform(torch.zeros(()), top))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(below, 1.0), obs=y)


def dependent_truth(y: Tensor) -> dict[str, Moments]:
    top, below = np.meshgrid(np.linspace(0.5, 3, 600), np.linspace(0, 3, 600), indexing="ij")
    density = np.where(below < top, -np.log(top), -np.inf)
    density = density + stats.norm.logpdf(y_of(y)[:, None, None], below, 1.0).sum(0)
    return dict(zip(("top", "below"), grid_moments(density, top, below), strict=True))


POINTS = torch.tensor([-1.2, -0.8, 1.9, 2.2])


@config_enumerate
def mixture(x: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        kind = pyro.sample("kind", dist.Bernoulli(share))
        pyro.sample("x", dist.Normal(3 * kind - 1, 1.0), obs=x)


def mixture_truth(x: Tensor) -> dict[str, Moments]:
    """Sum over the kinds of every point."""
    share = np.linspace(0.0005, 0.9995, 1000)
    left, right = stats.norm.pdf(y_of(x)[:, None], -1), stats.norm.pdf(y_of(x)[:, None], 2)
    mixed = share * right + (1 - share) * left
    density = np.log(share * (1 - share)) + np.log(mixed).sum(0)
    weight = np.exp(density - density.max())
    kind = (weight * share * right / mixed).sum(1) / weight.sum()
    return {"share": grid_moments(density, share)[0], "kind": (kind, np.sqrt(kind * (1 - kind)))}


def summed_out(x: Tensor) -> None:
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        parts = dist.Normal(torch.tensor([-1.0, 2.0]), 1.0)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.stack([1 - share, share])), parts), obs=x)


def branching(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    if mean > 1.0:
        mean = mean + 0.1 * pyro.sample("more", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


_y, _keep, _weights = y_of(Y), KEEP.numpy(), y_of(WEIGHTS)
_all = {"mean": normal_mean(_y)}
_columns = np.array([normal_mean(_y[column::3]) for column in range(3)]).T
_levels = np.linalg.inv(np.array([[1.25, -1.0], [-1.0, 1.0 + N]]))

CASES: Mapping[str, Case] = {
    "masked rows": Case(masked_rows, (Y, KEEP), {"mean": normal_mean(_y, _keep)}),
    "masked site": Case(masked_site, (Y,), _all),
    "masked distribution": Case(masked_distribution, (Y, KEEP), {"mean": normal_mean(_y, _keep)}),
    "mask around the model": Case(poutine.mask(plain, mask=True), (Y,), _all),
    "missing data": Case(missing, (Y, KEEP), {"mean": normal_mean(_y, _keep)}),
    "scaled rows": Case(scaled_rows, (Y, WEIGHTS), {"mean": normal_mean(_y, _weights)}),
    "scale around the model": Case(
        poutine.scale(plain, scale=0.3), (Y,), {"mean": normal_mean(_y, 0.3, prior_precision=0.3 * 0.25)}
    ),
    "scaled prior": Case(scaled_prior, (Y,), {"mean": normal_mean(_y, prior_precision=3.0)}),
    "flat prior": Case(flat_prior, (Y,), {"mean": normal_mean(_y, prior_precision=0.0)}),
    "padded": Case(padded, (Y,), {"means": (np.array([*_columns[0][:2], 0.0]), np.array([*_columns[1][:2], 2.0]))}),
    "condition": Case(poutine.condition(with_scale, data={"scale": torch.tensor(1.0)}), (Y,), _all),
    "do": Case(
        poutine.do(two_levels, data={"top": torch.tensor(3.0)}),
        (Y,),
        {"mean": normal_mean(_y, prior_precision=1.0, prior_mean=3.0), "top": (0.0, 2.0)},
    ),
    "block": Case(poutine.block(two_sites, hide=["also"]), (Y,), _all),
    "uncondition": Case(poutine.uncondition(plain), (Y[:3],), {"mean": (0.0, 2.0), "y": (0.0, 5.0**0.5)}, "skewed"),
    "infer config": Case(poutine.infer_config(plain, config_fn=lambda site: {"is_auxiliary": False}), (Y,), _all),
    "lift": Case(poutine.lift(with_param, prior=dist.Normal(0.0, 2.0)), (Y,), _all),
    "reparam": Case(
        poutine.reparam(two_levels, config={"mean": LocScaleReparam(0.0)}),
        (Y,),
        {"top": (_levels[0, 1] * _y.sum(), _levels[0, 0] ** 0.5)},
        "skewed",
    ),
    "factor": Case(with_factor, (Y,), {"mean": normal_mean(_y, prior_precision=10.25, prior_mean=10 / 10.25)}),
    "factor alone": Case(factor_alone, (Y,), _all),
    "deterministic": Case(with_deterministic, (Y,), _all),
    "no data": Case(prior_alone, (), {"mean": (1.0, 2.0)}),
    "subsample_size": Case(subsampled, (Y,), _all),
    "fixed subsample": Case(first_half, (Y,), {"mean": normal_mean(_y[:15], 2.0)}),
    "nested plates": Case(nested, (Y,), {"means": (_columns[0], _columns[1])}),
    "looped plate": Case(looped, (Y[:8],), {"mean": normal_mean(_y[:8])}),
    "scalar argument": Case(scalar_first, (torch.tensor(2.0), Y), _all),
    "two levels": Case(
        two_levels,
        (Y,),
        {
            "top": (_levels[0, 1] * _y.sum(), _levels[0, 0] ** 0.5),
            "mean": (_levels[1, 1] * _y.sum(), _levels[1, 1] ** 0.5),
        },
        "skewed",
    ),
    "trained parameter": Case(learned_top, (Y,), {"mean": (_y.mean(), (1.0 + N) ** -0.5)}),
    "local sites": Case(local, (Y[:4],), local_truth(Y[:4]), "skewed"),
    "AR(1)": Case(ar1, (SERIES,), {"phi": ar1_truth(SERIES)}),
    "AR(1) padded": Case(ar1_padded, (SERIES,), {"phi": ar1_truth(SERIES)}),
    "AR(1) in a loop": Case(ar1_loop, (SERIES[:12],), {"phi": ar1_truth(SERIES[:12])}),
    "eight schools": Case(schools, (EFFECTS, ERRORS), schools_truth(EFFECTS, ERRORS), "skewed"),
    "eight schools, centred": Case(schools_centred, (EFFECTS, ERRORS), schools_truth(EFFECTS, ERRORS), "skewed"),
    "Gaussian process": Case(process, (PLACES, HEIGHTS), process_truth(PLACES, HEIGHTS), "skewed"),
    "hierarchical regression": Case(
        hierarchical, (FEATURE, GROUP, OUTCOME), hierarchical_truth(FEATURE, GROUP, OUTCOME), "skewed"
    ),
    "unknown scale": Case(with_scale, (Y,), with_scale_truth(Y), "skewed"),
    "LKJ": Case(correlated, (PAIRS,), correlated_truth(PAIRS), "skewed"),
    "simplex": Case(simplex, (KINDS,), {"share": dirichlet(2.0 + np.bincount(KINDS.numpy()))}, "skewed"),
    "ordered": Case(ordered, (KINDS,), ordered_truth(KINDS), "skewed"),
    "bounded": Case(bounded, (HITS,), {"rate": beta(1 + 7, 1 + 3)}, "skewed"),
    "Poisson": Case(poisson, (COUNTS,), {"rate": gamma(2 + 28, 0.5 + 8)}, "skewed"),
    "negative binomial": Case(negative_binomial, (COUNTS,), {"chance": beta(2 + 28, 2 + 32)}, "skewed"),
    "dependent support": Case(dependent, (Y,), dependent_truth(Y), "skewed"),
    "discrete sites": Case(mixture, (POINTS,), mixture_truth(POINTS), "skewed"),
    "mixture summed out": Case(summed_out, (POINTS,), {"share": mixture_truth(POINTS)["share"]}, "skewed"),
    "sites that come and go": Case(branching, (Y,)),
}
