"""Pyro programs as users write them: what `--targets user` fits with default arguments only.

`TUNED` were looked at while the defaults were made, `HELD_OUT` were not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


@dataclass(frozen=True)
class Written:
    """A model and its arguments."""

    model: Callable[..., Any]
    data: tuple[Tensor, ...] | None


def seeded(seed: int) -> torch.Generator:
    """A generator of its own per program."""
    return torch.Generator().manual_seed(seed)


# ---- looked at while the defaults were made


def line() -> Written:
    """Regression with an intercept and an unknown noise."""
    g = seeded(0)
    x = torch.randn(200, 3, generator=g)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.7 + 0.5 * torch.randn(200, generator=g)

    def model(x: Tensor, y: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 2.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ weight + bias, noise), obs=y)

    return Written(model, (x, y))


def wide_units() -> Written:
    """Heights in cm with vague priors: nothing is near 0 or 1."""
    g = seeded(1)
    y = 172.0 + 9.0 * torch.randn(60, generator=g)

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1000.0))
        sd = pyro.sample("sd", dist.HalfCauchy(25.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, sd), obs=y)

    return Written(model, (y,))


def poisson() -> Written:
    """Counts with a log-linear rate."""
    g = seeded(2)
    x = torch.randn(80, 2, generator=g)
    y = torch.poisson((1.0 + x @ torch.tensor([0.6, -0.4])).exp(), generator=g)

    def model(x: Tensor, y: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Poisson((x @ weight + bias).exp()), obs=y)

    return Written(model, (x, y))


def autoregression() -> Written:
    """AR(1) with unknown coefficient and noise."""
    g = seeded(3)
    values = [torch.zeros(())]
    for _ in range(120):
        values.append(0.2 + 0.8 * values[-1] + 0.5 * torch.randn((), generator=g))
    y = torch.stack(values)

    def model(y: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        pyro.sample("y", dist.Normal(level + phi * y[:-1], noise).to_event(1), obs=y[1:])

    return Written(model, (y,))


def rates() -> Written:
    """Six success rates with a common Beta prior that is learned."""
    trials, wins = torch.tensor([20.0, 15, 40, 8, 30, 25]), torch.tensor([4.0, 2, 12, 3, 5, 9])

    def model(trials: Tensor, wins: Tensor) -> None:
        centre = pyro.sample("centre", dist.Beta(2.0, 2.0))
        strength = pyro.sample("strength", dist.Gamma(2.0, 0.1))
        with pyro.plate("group", len(trials)):
            rate = pyro.sample("rate", dist.Beta(centre * strength, (1 - centre) * strength))
            pyro.sample("wins", dist.Binomial(trials, rate), obs=wins)

    return Written(model, (trials, wins))


def outliers() -> Written:
    """Regression with Student's t noise."""
    g = seeded(4)
    x = torch.linspace(-2, 2, 50)
    y = 0.5 + 1.2 * x + 0.3 * torch.randn(50, generator=g)
    y[::10] += 4.0

    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
        bias = pyro.sample("bias", dist.Normal(0.0, 5.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.StudentT(freedom, slope * x + bias, scale), obs=y)

    return Written(model, (x, y))


def groups() -> Written:
    """Varying intercepts, written non-centred."""
    g = seeded(5)
    group = torch.arange(60) % 6
    y = (1.0 + 0.7 * torch.randn(6, generator=g))[group] + 0.5 * torch.randn(60, generator=g)

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = pyro.sample("spread", dist.HalfCauchy(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("groups", 6):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean + spread * z[group], noise), obs=y)

    return Written(model, (y,))


# ---- held out: not looked at while the defaults were made


def exponential() -> Written:
    """A rate with a Gamma prior, few observations."""
    times = torch.tensor([0.2, 0.9, 0.4, 1.3, 0.7])

    def model(times: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        with pyro.plate("data", len(times)):
            pyro.sample("time", dist.Exponential(rate), obs=times)

    return Written(model, (times,))


def shares() -> Written:
    """Shares of five categories from their counts."""
    counts = torch.tensor([12.0, 3, 25, 7, 1])

    def model(counts: Tensor) -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(5)))
        pyro.sample("counts", dist.Multinomial(48, share), obs=counts)

    return Written(model, (counts,))


def collinear() -> Written:
    """Earnings on height in inches, not centred: intercept and slope with a correlation of -0.99."""
    g = seeded(11)
    height = 66.0 + 3.8 * torch.randn(150, generator=g)
    earnings = -2.0 + 0.35 * height + 4.0 * torch.randn(150, generator=g)

    def model(height: Tensor, earnings: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 100.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        noise = pyro.sample("noise", dist.HalfCauchy(5.0))
        with pyro.plate("data", len(height)):
            pyro.sample("earnings", dist.Normal(bias + slope * height, noise), obs=earnings)

    return Written(model, (height, earnings))


def scores() -> Written:
    """Children's scores on two predictors of their mothers."""
    g = seeded(12)
    school = (torch.rand(300, generator=g) < 0.8).float()
    iq = 100.0 + 15.0 * torch.randn(300, generator=g)
    score = 26.0 + 6.0 * school + 0.56 * iq + 18.0 * torch.randn(300, generator=g)

    def model(school: Tensor, iq: Tensor, score: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(0.0, 50.0).expand([3]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        with pyro.plate("children", len(score)):
            pyro.sample("score", dist.Normal(beta[0] + beta[1] * school + beta[2] * iq, sigma), obs=score)

    return Written(model, (school, iq, score))


def logits() -> Written:
    """Logistic regression with unscaled inputs, switching wells."""
    g = seeded(13)
    distance, arsenic = 100 * torch.rand(250, generator=g), 0.5 + 2 * torch.rand(250, generator=g)
    switched = (torch.rand(250, generator=g) < torch.sigmoid(-0.01 * distance + 0.5 * arsenic)).float()

    def model(distance: Tensor, arsenic: Tensor, switched: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 5.0))
        by_distance = pyro.sample("by_distance", dist.Normal(0.0, 1.0))
        by_arsenic = pyro.sample("by_arsenic", dist.Normal(0.0, 1.0))
        with pyro.plate("wells", len(switched)):
            logit = bias + by_distance * distance + by_arsenic * arsenic
            pyro.sample("switched", dist.Bernoulli(logits=logit), obs=switched)

    return Written(model, (distance, arsenic, switched))


def overdispersed() -> Written:
    """Negative binomial counts."""
    g = seeded(14)
    x = torch.randn(70, generator=g)
    level = (1.5 + 0.5 * x).exp()
    y = torch.poisson(level * (0.3 + 1.4 * torch.rand(70, generator=g)), generator=g)

    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        bias = pyro.sample("bias", dist.Normal(0.0, 5.0))
        shape = pyro.sample("shape", dist.HalfCauchy(5.0))
        with pyro.plate("data", len(x)):
            mean = (bias + slope * x).exp()
            pyro.sample("y", dist.NegativeBinomial(shape, logits=mean.log() - shape.log()), obs=y)

    return Written(model, (x, y))


def growth() -> Written:
    """Length over age of dugongs: α − β γ^age."""
    g = seeded(15)
    age = torch.linspace(1, 30, 27)
    length = 2.65 - 0.97 * 0.87**age + 0.1 * torch.randn(27, generator=g)

    def model(age: Tensor, length: Tensor) -> None:
        alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
        beta = pyro.sample("beta", dist.HalfNormal(10.0))
        gamma = pyro.sample("gamma", dist.Uniform(0.5, 1.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        with pyro.plate("animals", len(age)):
            pyro.sample("length", dist.Normal(alpha - beta * gamma**age, sigma), obs=length)

    return Written(model, (age, length))


def survival() -> Written:
    """Weibull times, some of them censored."""
    g = seeded(16)
    time = 3.0 * (-torch.rand(60, generator=g).log()) ** (1 / 1.5)
    seen, time = (time < 4.0).float(), time.clamp(max=4.0)

    def model(time: Tensor, seen: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
        hazard = shape.log() - scale.log() + (shape - 1) * (time.log() - scale.log())
        pyro.factor("likelihood", (seen * hazard - (time / scale) ** shape).sum())

    return Written(model, (time, seen))


def centred_groups() -> Written:
    """Varying intercepts, written centred, with data that say a lot of each group."""
    g = seeded(17)
    group = torch.arange(160) % 8
    y = (2.0 + 1.0 * torch.randn(8, generator=g))[group] + 0.8 * torch.randn(160, generator=g)

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        spread = pyro.sample("spread", dist.HalfNormal(2.0))
        noise = pyro.sample("noise", dist.HalfNormal(2.0))
        with pyro.plate("groups", 8):
            intercept = pyro.sample("intercept", dist.Normal(mean, spread))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(intercept[group], noise), obs=y)

    return Written(model, (y,))


def kernel() -> Written:
    """Length scale, amplitude and noise of a Gaussian process."""
    g = seeded(18)
    x = torch.linspace(0, 5, 25)
    y = torch.sin(1.5 * x) + 0.2 * torch.randn(25, generator=g)
    squared = (x[:, None] - x).square()

    def model(y: Tensor) -> None:
        length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
        amplitude = pyro.sample("amplitude", dist.LogNormal(0.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        covariance = amplitude**2 * torch.exp(-squared / (2 * length**2)) + noise**2 * torch.eye(25)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(25), covariance), obs=y)

    return Written(model, (y,))


def walk() -> Written:
    """A level that walks at random, observed with noise."""
    g = seeded(19)
    y = torch.cumsum(0.4 * torch.randn(12, generator=g), 0) + 0.3 * torch.randn(12, generator=g)

    def model(y: Tensor) -> None:
        step = pyro.sample("step", dist.HalfNormal(1.0))
        innovation = pyro.sample("innovation", dist.Normal(torch.zeros(12), 1.0).to_event(1))
        with pyro.plate("time", len(y)):
            pyro.sample("y", dist.Normal(step * innovation.cumsum(-1), 0.3), obs=y)

    return Written(model, (y,))


def two_components() -> Written:
    """A mixture whose means are kept in order."""
    g = seeded(20)
    y = torch.where(torch.rand(120, generator=g) < 0.35, -1.5, 2.0) + 0.8 * torch.randn(120, generator=g)

    def model(y: Tensor) -> None:
        first = pyro.sample("first", dist.Normal(0.0, 5.0))
        gap = pyro.sample("gap", dist.HalfNormal(5.0))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        sd = pyro.sample("sd", dist.HalfNormal(2.0))
        with pyro.plate("data", len(y)):
            parts = dist.Normal(torch.stack([first, first + gap]), sd)
            weights = dist.Categorical(torch.stack([share, 1 - share]))
            pyro.sample("y", dist.MixtureSameFamily(weights, parts), obs=y)

    return Written(model, (y,))


def seeds() -> Written:
    """Germination of 21 plates with an effect of each, a binomial logistic mixed model."""
    g = seeded(21)
    kind = (torch.arange(21) % 2).float()
    total = torch.randint(10, 60, (21,), generator=g).float()
    true = torch.sigmoid(-0.5 + 0.9 * kind + 0.3 * torch.randn(21, generator=g))
    sprouted = torch.round(total * true)

    def model(kind: Tensor, total: Tensor, sprouted: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 10.0))
        effect = pyro.sample("effect", dist.Normal(0.0, 10.0))
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        with pyro.plate("plates", len(kind)):
            own = pyro.sample("own", dist.Normal(0.0, spread))
            logit = bias + effect * kind + own
            pyro.sample("sprouted", dist.Binomial(total, logits=logit), obs=sprouted)

    return Written(model, (kind, total, sprouted))


TUNED: Mapping[str, Callable[[], Written]] = {
    "line": line,
    "wide units": wide_units,
    "poisson": poisson,
    "autoregression": autoregression,
    "rates": rates,
    "outliers": outliers,
    "groups": groups,
}
HELD_OUT: Mapping[str, Callable[[], Written]] = {
    "exponential": exponential,
    "shares": shares,
    "collinear": collinear,
    "test scores": scores,
    "logits": logits,
    "overdispersed": overdispersed,
    "growth": growth,
    "survival": survival,
    "centred groups": centred_groups,
    "kernel": kernel,
    "walk": walk,
    "two components": two_components,
    "seeds": seeds,
}
PROGRAMS = {**TUNED, **HELD_OUT}
