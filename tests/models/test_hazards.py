"""Proportional hazards: what the network computes, what trains, and that the file keeps the baseline."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyro_compress.errors import NetworkError
from pyro_compress.models.hazards import dense_hazards, proportional_hazards
from pyro_compress.models.likelihoods import Cox, PiecewiseExponential
from pyro_compress.models.likelihoods.cox import breslow
from pyro_compress.models.tracing.tracer import trace


def test_hazards_are_proportional_and_the_baseline_is_its_bias() -> None:
    torch.manual_seed(0)
    network: Any = dense_hazards(3, 8, intervals=4)
    x = torch.randn(5, 3)
    baseline = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    with torch.no_grad():
        network.baseline.bias.copy_(baseline)
    output, ratio = network(x), network.log_hazard_ratio(x)
    torch.testing.assert_close(output, ratio + baseline)
    torch.testing.assert_close(output - output[:1], (ratio - ratio[0]).expand(5, 4))
    assert trace(network, (3,)).shapes()[-1] == (4,)
    output.sum().backward()
    still = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert still == {"baseline.weight"} and float(network.baseline.weight.min()) == 1.0


def test_many_intervals_give_the_hazard_ratios_of_cox() -> None:
    """With an interval per event the two likelihoods have the same maximum in g (Holford 1976), ties aside."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    time = -torch.rand(40, generator=generator, dtype=torch.float64).log() * (-x[:, 0]).exp()
    target = torch.stack([time, (torch.rand(40, generator=generator) < 0.8).double()], 1)
    breaks = tuple(sorted(time[target[:, 1] > 0].tolist()))
    network: Any = dense_hazards(2, intervals=len(breaks)).double()
    slope = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    poisson, cox = PiecewiseExponential(breaks), Cox(ties="breslow")

    def maximise(parameters: list[torch.Tensor], log_prob: Callable[[], torch.Tensor]) -> None:
        optimizer = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

        def loss() -> float:
            optimizer.zero_grad()
            found = -log_prob().sum()
            found.backward()
            return float(found.detach())

        optimizer.step(loss)

    # exposure is counted to the end of an interval, as Breslow's baseline jumps there: censored times move back to it
    ends = torch.tensor(breaks, dtype=torch.float64)
    passed = torch.searchsorted(ends, time, right=True) - 1
    moved = torch.where(target[:, 1] > 0, time, torch.where(passed < 0, 0.0, ends[passed.clamp(min=0)]))
    shifted = torch.stack([moved, target[:, 1]], 1)
    maximise([p for p in network.parameters() if p.requires_grad], lambda: poisson.log_prob(network(x), shifted))
    maximise([slope], lambda: cox.log_prob(x @ slope, target))
    torch.testing.assert_close(network.log_hazard_ratio.fc1.weight[0], slope, atol=1e-4, rtol=0)
    times, cumulative = breslow(x @ slope.detach(), target)
    lengths = torch.diff(times, prepend=torch.zeros(1, dtype=torch.float64))
    found = (network.baseline.bias.exp() * lengths).cumsum(0)
    torch.testing.assert_close(found.detach(), cumulative, atol=1e-3, rtol=1e-3)


def test_a_baseline_has_an_interval() -> None:
    with pytest.raises(NetworkError, match="at least one interval, found intervals=0"):
        proportional_hazards(torch.nn.Linear(2, 1), 0)
