"""Narrow networks against the wide ones with zeros: the same outputs from plain, smaller modules."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyro_compress.errors import NetworkError
from pyro_compress.models.narrowing import follows_sizes
from pyro_compress.models.rewrites.narrow import Narrow
from pyro_compress.models.tracing.tracer import trace


def dense() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))
    with torch.no_grad():
        network.get_parameter("2.weight")[:, 2] = 0  # nothing reads unit 2
        network.get_parameter("0.weight")[[4, 5]] = 0  # 4 and 5 are the same for every example,
        network.get_parameter("0.bias")[4] = 0.7
        network.get_parameter("0.bias")[5] = -0.7  # and 5 is zero behind its ReLU
        network.get_parameter("2.weight")[6] = 0
        network.get_parameter("2.bias")[6] = 1.5  # tanh(1.5) goes into the last biases
        network.get_parameter("0.weight")[:, 1] = 0  # an input that nothing reads stays
    return network


def convolutions() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 9),
        nn.ReLU(),
        nn.Linear(9, 4),
    )
    with torch.no_grad():
        network.get_buffer("1.running_mean").normal_()
        network.get_parameter("3.weight")[:, [0, 3]] = 0
        columns = network.get_parameter("7.weight").view(9, 5, 4)
        columns[:, 1] = 0  # a whole channel
        columns[:, 2, :3] = 0  # all but one place of another, which stays whole
        network.get_parameter("7.weight")[3] = 0
        network.get_parameter("7.bias")[3] = 2.0
    return network


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 3)
        with torch.no_grad():
            self.last.weight[:, [1, 4]] = 0
            self.second.weight[:, [1, 2, 4]] = 0  # 2 is still read behind the sum

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.second(x).relu()
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "shape", "sizes"),
    [
        (dense, (6,), {"0.weight": (5, 6), "2.weight": (6, 5), "4.weight": (3, 6)}),
        (
            convolutions,
            (2, 9, 9),
            {
                "0.weight": (4, 2, 3, 3),
                "1.weight": (4,),
                "3.weight": (4, 4, 3, 3),
                "7.weight": (8, 16),
                "9.weight": (4, 8),
            },
        ),
        (Residual, (1, 6, 6), {"first.weight": (4, 1, 3, 3), "second.weight": (4, 4, 3, 3), "last.weight": (3, 4)}),
    ],
    ids=["dense", "convolutions", "residual"],
)
def test_outputs_stay_and_modules_are_plain(
    make: Callable[[], nn.Module], shape: tuple[int, ...], sizes: dict[str, tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    network = make().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = Narrow()(network, shape)
    x = torch.randn(20, *shape)
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(x), rtol=1e-4, atol=1e-5)
    assert {name: tuple(found.get_parameter(name).shape) for name in sizes} == sizes
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(module._forward_pre_hooks for module in found.modules())
    # a network like any other: it is traced, narrowed again, and has nothing more to lose
    architecture = trace(found, shape)
    assert follows_sizes(found, architecture)
    again = Narrow()(found, shape)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in found.state_dict().items()
    }


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().view(-1, 64))


@pytest.mark.parametrize(
    ("network", "shape", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 2)), (4, 6, 6), "lose no units"),
        (Sized(), (1, 6, 6), r"sizes written into it.*flatten\(1\)"),
        (nn.Linear(3, 2), None, "give it the shape of one example"),
    ],
)
def test_networks_that_cannot_be_narrower_are_refused(
    network: nn.Module, shape: tuple[int, ...] | None, sentence: str
) -> None:
    with pytest.raises(NetworkError, match=f"narrow.*{sentence}"):
        Narrow()(network, shape)
