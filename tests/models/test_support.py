"""Targets that have no probability are refused before the first step, by every likelihood and in every part."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_compress as pc
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.results.predictive import posterior_predictive
from pyro_compress.models.likelihoods import Likelihood

X, LABELS = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3


@dataclass(frozen=True)
class Own(Likelihood):
    """One of the user's own, by the name of a distribution."""

    kind: str = "beta"

    def distribution(self, output: Tensor) -> Any:
        made = {
            "beta": lambda: dist.Beta(output.exp(), 1.0),
            "exponential": lambda: dist.Exponential(output.exp()),
            "binomial": lambda: dist.Binomial(5, logits=output, validate_args=False),
            "student": lambda: dist.StudentT(4.0, output),
            "up to the output": lambda: dist.Uniform(0.0, output.exp(), validate_args=False),
            "simplex": lambda: dist.Dirichlet(output.exp().expand(len(output), 3)),
            "undeclared": lambda: _Undeclared(output, 1.0),
        }[self.kind]()
        return made if self.kind == "simplex" else made.to_event(1)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean(1)

    def mean(self, output: Tensor) -> Tensor:
        return output

    def link(self, mean: Tensor) -> Tensor:
        return mean


class _Undeclared(dist.Normal):
    @property
    def support(self) -> Any:  # type: ignore[override]
        raise NotImplementedError


COUNTS = LABELS[:, None].float()
REFUSED: list[tuple[Likelihood | str, int, Tensor, str]] = [
    ("bernoulli", 1, 2 * (COUNTS > 0) - 1.0, r"the target -1 at index \(0, 0\).*the Bernoulli likelihood.*are 0 or 1"),
    ("bernoulli", 2, torch.cat([COUNTS.clamp(max=1), COUNTS], 1), r"the target 2 at index \(2, 1\)"),
    ("categorical", 3, LABELS + 0.7, r"the target 0\.7 at index \(0,\).*the Categorical.*whole numbers from 0 to 2"),
    ("categorical", 3, LABELS - 1.0, r"the target -1 at index \(0,\)"),
    ("categorical", 2, LABELS.float(), r"the target 2 at index \(2,\).*whole numbers from 0 to 1"),
    ("poisson", 1, COUNTS - 1, r"the target -1 at index \(0, 0\).*the Poisson likelihood.*whole numbers from 0;"),
    ("poisson", 1, COUNTS + 0.5, r"the target 0\.5 at index \(0, 0\)"),
    (Own("beta"), 1, COUNTS, r"the target 2 at index \(2, 0\).*the Own likelihood.*numbers from 0 to 1"),
    (Own("exponential"), 1, COUNTS - 1, r"the target -1.*numbers from 0;"),
    (Own("binomial"), 1, 3 * COUNTS, r"the target 6 at index \(2, 0\).*whole numbers from 0 to 5"),
    (Own("simplex"), 3, torch.ones(30, 3), r"the target \[1\.0, 1\.0, 1\.0\] at index \(0,\).*Simplex"),
]
ALLOWED: list[tuple[Likelihood | str, int, Tensor]] = [
    ("bernoulli", 1, COUNTS.clamp(max=1)),
    ("categorical", 3, LABELS),
    ("categorical", 3, LABELS.float()),
    ("categorical", 5, LABELS),
    ("poisson", 1, COUNTS),
    ("gaussian", 1, COUNTS - 0.7),
    (Own("binomial"), 1, 2 * COUNTS),
    (Own("student"), 1, COUNTS - 0.7),
    # the support moves with the output, which is trained; nothing is declared
    (Own("up to the output"), 1, COUNTS * 100),
    (Own("undeclared"), 1, COUNTS - 0.7),
]


def model(likelihood: Likelihood | str, outputs: int) -> pc.BayesianNetwork:
    return pc.BayesianNetwork(nn.Sequential(nn.Linear(4, outputs)), pc.models.Normal(), likelihood)


@pytest.mark.parametrize(("likelihood", "outputs", "y", "sentence"), REFUSED)
def test_before_the_first_step(likelihood: Likelihood | str, outputs: int, y: Tensor, sentence: str) -> None:
    with pytest.raises(DataError, match=rf"^user data: train: {sentence}"):
        pc.fit(model(likelihood, outputs), (X, y), pc.inference.SVI(epochs=1))


@pytest.mark.parametrize(("likelihood", "outputs", "y"), ALLOWED)
def test_what_has_probability_is_taken(likelihood: Likelihood | str, outputs: int, y: Tensor) -> None:
    assert Feed.of(model(likelihood, outputs), (X, y)).held == 30


@pytest.mark.parametrize("part", ["validation", "test"])
def test_in_the_other_parts(part: Any) -> None:
    held: Any = {part: (X[:6] + 1, COUNTS[:6] + torch.eye(6)[:, 4:5] / 2)}
    data = as_data((X, COUNTS), **held)
    with pytest.raises(DataError, match=rf"^user data: {part}: the target 1\.5 at index \(4, 0\)"):
        pc.fit(model("poisson", 1), data, "map")


def test_where_targets_score_a_posterior() -> None:
    network = model("bernoulli", 1)
    posterior = pc.fit(network, (X, COUNTS.clamp(max=1)), pc.inference.MAP(epochs=1))
    with pytest.raises(DataError, match=r"posterior predictive: the target 2 at index \(2, 0\)"):
        posterior_predictive(network, posterior, X, COUNTS)
