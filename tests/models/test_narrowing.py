"""A narrower network computes what the masked one does, under its own names."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_compress.models.narrowing import can_narrow, folds, multiply_adds, narrowed
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import Numbers, Signal, signals


class Net(nn.Module):
    """With a forward pass of its own, a bias that makes dead filters constant, and a batch norm."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv1 = nn.Conv2d(2, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(5, 4, 2)
        self.fc1 = nn.Linear(16, 7)
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        return self.fc2(F.softplus(self.fc1(x.flatten(1))))


def masked(norm: bool) -> nn.Module:
    network = Net(norm)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.rand(tensor.shape) - 0.4)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
        network.conv1.weight[1] = 0.0  # constant: zero, or the norm's shift
        network.conv2.weight[:, 3] = 0.0  # filter 3 of conv1 is not read
        network.conv2.weight[2] = 0.0  # constant: its bias
        network.fc1.weight[:, 4:8] = 0.0  # channel 1 of conv2 is not read
        network.fc1.weight[:, 13] = 0.0
        network.fc1.weight[4] = 0.0  # constant
        network.fc2.weight[:, 6] = 0.0  # not read
    return network.eval()


def flow_of(network: nn.Module) -> tuple[Architecture, list[Signal], Numbers]:
    architecture = trace(network, (2, 7, 7))
    values = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    numbers = Numbers(values, {name: buffer.numpy() for name, buffer in network.named_buffers()})
    return architecture, signals(architecture, numbers), numbers


@pytest.mark.parametrize("norm", [False, True])
def test_the_narrow_network_computes_the_same(norm: bool) -> None:
    network = masked(norm)
    architecture, flow, numbers = flow_of(network)
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    narrow = found.network
    with torch.no_grad():
        for name, taken in folds(architecture, flow, numbers).items():
            narrow.get_parameter(name).add_(torch.from_numpy(taken[found.index[name][0]]).float())
    sizes = [narrow.get_parameter(f"{name}.weight").shape[:2] for name in ("conv1", "conv2", "fc1", "fc2")]
    assert sizes == [(3, 2), (2, 3), (5, 7), (3, 5)]
    x = torch.rand(6, 2, 7, 7)
    torch.testing.assert_close(narrow(x), network(x), rtol=1e-5, atol=1e-5)
    assert set(dict(narrow.named_parameters())) == set(dict(network.named_parameters()))


def test_indices_lead_back_to_the_original() -> None:
    network = masked(True)
    architecture, flow, _ = flow_of(network)
    found = narrowed(network, architecture, [signal.kept for signal in flow])
    originals = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    parts = {**dict(found.network.named_parameters()), **dict(found.network.named_buffers())}
    assert set(found.index) == {name for name, tensor in parts.items() if tensor.ndim}
    for name, index in found.index.items():
        assert torch.equal(originals[name][np.ix_(*index)], parts[name]), name
    assert network.get_parameter("fc1.weight").shape == (7, 16)  # not touched


def test_products_are_counted_by_position() -> None:
    architecture = trace(Net(False), (2, 7, 7))
    whole = [np.ones(shape[0], dtype=bool) for shape in architecture.shapes()]
    expected = 5 * 2 * 9 * 25 + 4 * 5 * 4 * 16 + 16 * 7 + 7 * 3
    assert multiply_adds(architecture, whole) == expected


@pytest.mark.parametrize(
    ("network", "shape", "can"),
    [
        (Net(True), (2, 7, 7), True),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)), (4,), False),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 2)), (4, 5, 5), False),
    ],
    ids=["chain", "no-bias", "grouped"],
)
def test_what_can_be_narrowed(network: nn.Module, shape: tuple[int, ...], can: bool) -> None:
    assert can_narrow(trace(network, shape)) is can
