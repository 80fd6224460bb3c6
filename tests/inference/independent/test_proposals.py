"""Proposals of all at once have the distributions that the model declares, each its own."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_compress.inference.independent import proposals
from pyro_compress.inference.independent.proposals import Proposer
from pyro_compress.models.program import Program

KNOWN = {
    "normal": (dist.Normal(1.0, 2.0), stats.norm(1, 2)),
    "half-cauchy": (dist.HalfCauchy(1.5), stats.halfcauchy(scale=1.5)),
    "cauchy": (dist.Cauchy(0.5, 2.0), stats.cauchy(0.5, 2)),
    "exponential": (dist.Exponential(3.0), stats.expon(scale=1 / 3)),
    "laplace": (dist.Laplace(1.0, 0.5), stats.laplace(1, 0.5)),
    "uniform": (dist.Uniform(-1.0, 3.0), stats.uniform(-1, 4)),
    "gamma": (dist.Gamma(0.5, 2.0), stats.gamma(0.5, scale=0.5)),
    "student": (dist.StudentT(4.0), stats.t(4)),
    "log-normal": (dist.LogNormal(0.2, 0.7), stats.lognorm(0.7, scale=1.2214027)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_proposal_has_noise_of_its_own(name: str) -> None:
    family, expected = KNOWN[name]

    def model() -> None:
        top = pyro.sample("top", family)
        pyro.sample("below", dist.Normal(top, 1.0))

    proposer = Proposer(Program(model, ()), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = proposer.draw(2000, ())
    assert proposer.vectorised
    top, below = found.values["top"], found.values["below"]
    assert stats.kstest(top.double().numpy(), expected.cdf).pvalue > 0.01
    assert stats.kstest((below - top).double().numpy(), stats.norm.cdf).pvalue > 0.01
    log_prior = family.log_prob(top) + dist.Normal(top, 1.0).log_prob(below)
    torch.testing.assert_close(found.log_prior.float(), log_prior, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.log_proposal, found.log_prior)
    assert not found.log_likelihood.any()


def test_a_branch_on_a_value_runs_one_by_one_and_gives_the_same_densities() -> None:
    def model(x: torch.Tensor) -> None:
        mean: Any = pyro.sample("mean", dist.Normal(0.0, 1.0))
        width = 0.5 if mean > 0 else 2.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, width), obs=x)

    x = torch.tensor([0.3, -0.8])
    proposer = Proposer(Program(model, (x,)), 6)
    found = proposer.draw(40, (x,))
    assert proposer.vectorised is False
    mean = found.values["mean"][:, None]
    expected = 3 * dist.Normal(mean, torch.where(mean > 0, 0.5, 2.0)).log_prob(x).sum(1)
    torch.testing.assert_close(found.log_likelihood.float(), expected, rtol=1e-4, atol=1e-4)


def test_finding_out_how_to_run_draws_no_noise() -> None:
    def model() -> None:
        pyro.sample("mean", dist.Normal(0.0, 1.0))

    program, drawn = Program(model, ()), []
    with torch.random.fork_rng(devices=[]):
        for known in (None, True):
            torch.manual_seed(2)
            proposer = Proposer(program, 0)
            proposer.vectorised = known
            drawn.append(proposer.draw(5, ()).values["mean"])
    assert torch.equal(*drawn)


def test_many_examples_are_evaluated_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    monkeypatch.setattr(proposals, "MOST_ROWS", 21)
    x = torch.linspace(-1, 1, 5)
    proposer = Proposer(Program(model, (x,)), 5)
    found = proposer.draw(11, (x,))
    mean = found.values["mean"]
    assert proposer.vectorised and len(torch.unique(mean)) == 11
    expected = dist.Normal(mean[:, None], 0.5).log_prob(x).sum(1)
    torch.testing.assert_close(found.log_likelihood.float(), expected, rtol=1e-4, atol=1e-4)
