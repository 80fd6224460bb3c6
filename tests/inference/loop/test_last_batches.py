"""No batch of one example: it joins the batch before, every count of batches says so, or one sentence does."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_compress.data.examples import as_data
from pyro_compress.data.splits import batch_sizes, batches, number_of_batches
from pyro_compress.errors import InferenceError
from pyro_compress.inference.finetuning.batch_norm import refuse_batches_of_one
from pyro_compress.inference.finetuning.grid import GridSite, fine_tune
from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop.feed import Feed
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods import Categorical
from pyro_compress.models.priors.log_uniform import LogUniform
from pyro_compress.models.program import Program
from pyro_compress.network.quantizers import Uniform

X, Y = torch.randn(65, 5, generator=torch.Generator().manual_seed(0)), torch.arange(65) % 2


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("examples", "size", "expected"),
    [
        (65, 64, [65]),
        (129, 64, [64, 65]),
        (66, 64, [64, 2]),
        (64, 64, [64]),
        (7, 64, [7]),
        (1, 64, [1]),
        (3, 1, [1, 1, 1]),
        (5, 2, [2, 3]),
    ],
)
def test_a_single_example_joins_the_batch_before(examples: int, size: int, expected: list[int]) -> None:
    assert batch_sizes(examples, size) == expected and number_of_batches(examples, size) == len(expected)
    x = torch.arange(examples)
    seen = list(batches(x, x, size, seed=1, epoch=2))
    assert [len(part) for part, _ in seen] == expected
    assert torch.cat([part for part, _ in seen]).sort().values.tolist() == x.tolist()
    fed = list(Feed((x, x), examples, "x").batches(size, 1, 2))
    assert [len(part) for part, _ in fed] == expected
    assert SVI(epochs=3, batch_size=size).steps(examples) == 3 * len(expected)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_ranks_share_is_what_it_is_dealt(count: int) -> None:
    for examples in range(1, 20):
        for rank in range(count):
            ranks = Ranks(rank, count)
            assert ranks.share_size(examples) == len(ranks.share_of(torch.arange(examples)))


@pytest.mark.parametrize(
    "method",
    [SVI(epochs=2, batch_size=64), MAP(epochs=2, batch_size=32), SGLD(epochs=2, batch_size=16, draws=2)],
    ids=lambda method: type(method).__name__,
)
def test_batch_norm_is_trained_on_65_examples(method: Any) -> None:
    posterior = fit(BayesianNetwork(network(), LogUniform()), (X, Y), method)
    assert math.isfinite(float(posterior.statistics["data_nats"]))


def test_the_grid_is_trained_on_65_examples() -> None:
    model = network()
    sites = {
        "0.weight": GridSite(
            dict(model.named_parameters())["0.weight"].detach().clone(),
            torch.ones(8, 5, dtype=torch.bool),
            Uniform(2**-5),
        )
    }
    fine_tune(model, sites, as_data((X, Y)), Categorical(), epochs=1, rate_weight=0.0, batch_size=64)
    with pytest.raises(InferenceError, match=r"batch norm '1' .* batches of 1 from 65 examples"):
        fine_tune(model, sites, as_data((X, Y)), Categorical(), epochs=1, rate_weight=0.0, batch_size=1)


def test_one_example_at_a_time_is_refused_before_the_first_step() -> None:
    model = BayesianNetwork(network(), LogUniform())
    with pytest.raises(InferenceError, match=r"^batch norm '1' would have to normalise a single example: batches of 1"):
        fit(model, (X, Y), SVI(epochs=1, batch_size=1))
    with pytest.raises(InferenceError, match="batches of 128 from 1 examples"):
        fit(model, (X[:1], Y[:1]), SVI(epochs=1))
    with pytest.raises(InferenceError, match="batches of 3 from 65 examples dealt out to 2 ranks"):
        refuse_batches_of_one(network(), X, 3, ranks=2)
    refuse_batches_of_one(network(), X, 4, ranks=2)


def test_what_can_normalise_one_example_is_let_be() -> None:
    planes, dense = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)), nn.Sequential(nn.Linear(5, 2))
    state = torch.get_rng_state()
    refuse_batches_of_one(planes, torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)), 1)
    refuse_batches_of_one(dense, X, 1)
    assert torch.equal(torch.get_rng_state(), state) and planes[0].num_batches_tracked == 0
    with pytest.raises(InferenceError, match="batch norm '0'"):
        refuse_batches_of_one(planes, torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(1)), 1)


def with_a_constant(x: torch.Tensor, scale: torch.Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(centre, scale[0]), obs=x)


def test_arguments_that_come_as_a_whole_are_one_batch_in_every_count() -> None:
    arguments = (X[:40, 0], torch.ones(2))
    feed = Feed.of(with_a_constant, arguments)
    assert feed.in_batches == 0 and len(list(feed.batches(10, 0, 0))) == 1
    method = BayesByBackprop(epochs=7, batch_size=10)
    state = method.init(Program(with_a_constant, arguments), feed.size, 0, feed.in_batches)
    assert state.steps_planned == 7 and method.weights(state, arguments, 0.5) == (1.0, 0.5)
