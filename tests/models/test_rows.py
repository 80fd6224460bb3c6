"""Which programs may see their data in batches: what a trace says of it, and what is tried."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_compress.errors import InferenceError
from pyro_compress.inference.fit import fit
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.program import Program
from tests.conformance.programs import booleans

GENERATOR = torch.Generator().manual_seed(3)
Y = torch.randn(24, generator=GENERATOR).cumsum(0)
X = torch.randn(24, 2, generator=GENERATOR)


def mean_of(name: str = "mean") -> torch.Tensor:
    found: torch.Tensor = pyro.sample(name, dist.Normal(0.0, 2.0))
    return found


def plain(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def weighted(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", len(y)), poutine.scale(scale=0.5 + (y > 0)), poutine.mask(mask=booleans(y < 3)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def looped(y: torch.Tensor) -> None:
    mean = mean_of()
    for row in pyro.plate("rows", len(y)):
        pyro.sample(f"y_{row}", dist.Normal(mean, 1.0), obs=y[int(row)])


def with_columns(x: torch.Tensor) -> None:
    means = pyro.sample("means", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", len(x), dim=-2):
        pyro.sample("x", dist.Normal(means, 1.0), obs=x)


def scaled_by_its_plate(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", 24, subsample_size=len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def as_many_groups_as_rows(y: torch.Tensor) -> None:
    with pyro.plate("groups", 24):
        means = pyro.sample("means", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(means.mean(), 1.0), obs=y)


def with_what_is_no_row(y: torch.Tensor) -> None:
    mean = mean_of()
    pyro.deterministic("twice", 2 * mean)
    pyro.factor("soft", -((mean - 1) ** 2))
    pyro.sample("measured", dist.Normal(mean, 3.0), obs=torch.tensor(0.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def with_size(y: torch.Tensor, size: int) -> None:
    mean = mean_of()
    with pyro.plate("rows", size, subsample=torch.arange(len(y))):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (plain, Y),
        (weighted, Y),
        (looped, Y),
        (with_columns, X),
        (as_many_groups_as_rows, Y),
        (with_what_is_no_row, Y),
        (with_size, Y),
        (poutine.condition(plain, data={}), Y),
    ],
)
def test_rows_that_come_apart_are_scaled(model: Callable[..., Any], data: torch.Tensor) -> None:
    program = Program(model, (data,))
    assert program.rows().plates == {"rows"} and program.rows().checked
    assert program.rows() is program.rows()
    parts, whole = LogJoint(program, 24, replay=False), LogJoint(program, 24, replay=False)
    at = torch.randn(whole.width, generator=GENERATOR)
    order = torch.randperm(24, generator=GENERATOR)
    # the mean over the batches of one epoch is the log joint
    each = torch.stack([parts.terms(at, data[rows])[0] for rows in order.split(6)])
    torch.testing.assert_close(each.mean(), whole.terms(at, data)[0], rtol=1e-4, atol=1e-3)
    pointwise, rest = whole.apart(at, data)
    torch.testing.assert_close(pointwise.sum() + rest, whole.terms(at, data)[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(whole.apart(at, data[order])[0], pointwise[order], rtol=1e-4, atol=1e-4)


def lagged(y: torch.Tensor) -> None:
    phi, before = mean_of("phi"), torch.cat([torch.zeros(1), y[:-1]])
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(phi * before, 1.0), obs=y)


def shorter_plate(y: torch.Tensor) -> None:
    phi = mean_of("phi")
    with pyro.plate("t", len(y) - 1):
        pyro.sample("y", dist.Normal(phi * y[:-1], 1.0), obs=y[1:])


def trend(y: torch.Tensor) -> None:
    slope = mean_of("slope")
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(slope * torch.arange(len(y)), 1.0), obs=y)


def standardised(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=(y - y.mean()) / y.std())


def chained(y: torch.Tensor) -> None:
    state = mean_of()
    for t in pyro.markov(range(len(y))):
        pyro.sample(f"y_{t}", dist.Normal(0.9 * state, 1.0), obs=y[t])
        state = y[t]


def process(y: torch.Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    distance = torch.arange(len(y))[:, None] - torch.arange(len(y))
    covariance = torch.exp(-(distance.square() / 8)) * scale + torch.eye(len(y))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(y)), covariance), obs=y)


def schools(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("schools", len(y)):
        pyro.sample("y", dist.Normal(pyro.sample("effect", dist.Normal(mean, 1.0)), 1.0), obs=y)


def empirical(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.mean(), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def counted(y: torch.Tensor) -> None:
    mean = mean_of()
    pyro.factor("likelihood", -0.5 * (y - mean).square().sum())


def subsampled(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", len(y), subsample_size=4) as chosen:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[chosen])


def missing(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=booleans(y > 0))


def fixed_rows(y: torch.Tensor) -> None:
    mean = mean_of()
    with pyro.plate("rows", 24):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lagged, "row depends on which rows are given with it"),
        (shorter_plate, "observed site 'y' is in no plate of the batch's 24 examples"),
        (trend, "row depends on which rows are given with it"),
        (standardised, "row depends on which rows are given with it"),
        (scaled_by_its_plate, r"scales observed site 'y' by itself .* as a plate with subsample_size does"),
        (chained, "observed site 'y_0' is in no plate"),
        (process, "observed site 'y' is in no plate"),
        (schools, "latent site 'effect' is drawn per example"),
        (empirical, "the prior of latent site 'mean' depends on which rows"),
        (counted, "observed site 'likelihood' is in no plate"),
        (subsampled, "observed site 'y' is in no plate"),
        (missing, "latent site 'y_unobserved' is drawn per example"),
        (fixed_rows, "runs on all 24 rows of its data and not on 12 of them"),
    ],
)
def test_rows_that_must_stay_together_are_refused_in_smaller_batches(model: Callable[..., Any], text: str) -> None:
    with pytest.raises(InferenceError, match=rf"{text}.*cannot come in batches: fit all of it in one batch .*least 24"):
        fit(model, (Y,), SVI(epochs=1, batch_size=8))
    fit(model, (Y,), SVI(epochs=1, batch_size=24))


def test_numbers_that_are_drawn_beside_the_sites_are_said() -> None:
    def noisy(y: torch.Tensor) -> None:
        mean = mean_of()
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean + torch.nn.functional.dropout(y), 1.0), obs=y)

    with pytest.warns(UserWarning, match="noisy draws random numbers beside its sample sites"):
        assert not Program(noisy, (Y,)).rows().checked


def test_one_batch_keeps_the_order_and_smaller_ones_do_not() -> None:
    seen: list[torch.Tensor] = []

    def watched(y: torch.Tensor) -> None:
        seen.append(y)
        plain(y)

    fit(watched, (Y,), SVI(epochs=3, batch_size=24))
    assert all(torch.equal(one, Y) for one in seen)
    seen.clear()
    fit(watched, (Y,), SVI(epochs=1, batch_size=20))
    batches = seen[-2:]
    assert [len(one) for one in batches] == [20, 4] and not torch.equal(batches[0], Y[:20])
    torch.testing.assert_close(torch.cat(batches).sort().values, Y.sort().values)
