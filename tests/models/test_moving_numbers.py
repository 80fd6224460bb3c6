"""Forward passes that change numbers of their own: a description of those of now would be another network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.errors import UnstorableError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Activation, FixedAffine, Linear
from pyro_compress.pipeline.as_layers import checked


class Own(nn.Module):
    """A dense layer, and buffers that its forward pass does something with."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **buffers: torch.Tensor) -> None:
        super().__init__()
        self.layer, self._own = nn.Linear(4, 3), forward
        for name, numbers in buffers.items():
            self.register_buffer(name, numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._own(self, x)
        return found


def _divides(m: Any, x: torch.Tensor) -> Any:
    if m.training:
        m.size.mul_(0.9).add_(0.1 * x.std())
    return m.layer(x / m.size)


def _takes_the_number(m: Any, x: torch.Tensor) -> Any:
    if m.training:
        m.size.mul_(0.9)
    return m.layer(x * m.size.item())


def _computes_with_it(m: Any, x: torch.Tensor) -> Any:
    if m.training:
        m.size.add_(1)
    return m.layer(x) + (1 + m.size.log())


@pytest.mark.parametrize("forward", [_divides, _takes_the_number, _computes_with_it])
def test_a_single_number_that_training_moves_is_refused(forward: Any) -> None:
    network = Own(forward, size=torch.ones(()))
    with pytest.raises(UnstorableError, match="the forward pass moves buffer size in training, and a file has it"):
        trace(network, (4,))
    assert float(network.get_buffer("size")) == 1


def test_states_that_training_moves_are_no_zeros() -> None:
    class Stateful(nn.Module):
        start: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.cells, self.last = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 2)
            self.register_buffer("start", torch.zeros(1, 1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs, state = self.cells(x, self.start.expand(1, len(x), 3).contiguous())
            if self.training:
                self.start.copy_(state.mean(1, keepdim=True))
            found: torch.Tensor = self.last(outputs[:, -1])
            return found

    with pytest.raises(UnstorableError, match="the forward pass moves buffer start in training"):
        trace(Stateful(), (5, 4))


def _reads_statistics(m: Any, x: torch.Tensor) -> Any:
    return m.norm(m.layer(x)) - m.norm.running_mean


def test_statistics_of_a_norm_that_something_else_reads_are_refused() -> None:
    network = Own(_reads_statistics)
    network.norm = nn.BatchNorm1d(3)
    with pytest.raises(UnstorableError, match=r"moves buffer norm.running_mean in training"):
        trace(network, (4,))


def _counts(m: Any, x: torch.Tensor) -> Any:
    if m.training:
        m.steps.add_(1)
    return m.layer((x - m.mean) * m.size)


def test_a_counter_beside_numbers_that_stay_is_no_obstacle() -> None:
    numbers = {"steps": torch.zeros((), dtype=torch.int64), "mean": torch.ones(4), "size": torch.tensor(2.0)}
    layers = trace(Own(_counts, **numbers), (4,)).layers
    assert [type(layer) for layer in layers] == [FixedAffine, Activation, Linear]


def _clamps(m: Any, x: torch.Tensor) -> Any:
    m.layer.weight.data.clamp_(min=0)
    return m.layer(x)


def _counts_always(m: Any, x: torch.Tensor) -> Any:
    m.steps += 1
    return m.layer(x) / m.steps


@pytest.mark.parametrize(("forward", "named"), [(_clamps, "parameter layer.weight"), (_counts_always, "buffer steps")])
def test_what_writes_into_the_network_is_refused_and_taken_back(forward: Any, named: str) -> None:
    network = Own(forward, steps=torch.zeros(()))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UnstorableError, match=f"the forward pass writes into {named}, which no layer does"):
        trace(network, (4,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_writes_other_numbers_alone_is_seen_by_running_with_others() -> None:
    network = Own(_clamps)
    with torch.no_grad():
        # as small as can be, so that others are below zero
        network.layer.weight.abs_().mul_(1e-3)[0, 0] = 1.0
    trace(network, (4,))
    with pytest.raises(UnstorableError, match=r"writes into parameter layer.weight"):
        checked(network, (4,))
