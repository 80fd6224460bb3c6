"""Operations that others say, and forward passes that reckon with sizes, compute what their layers do."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import NetworkError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.layers import Flatten, MaxPool2d
from pyro_compress.network.stored import StoredNetwork

Function = Callable[[Any], Any]


class Calls(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def assert_described(module: nn.Module, shape: tuple[int, ...]) -> None:
    architecture = trace(nn.Sequential(module), shape)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_torch(StoredNetwork(architecture, {}))(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.GLU(1), (6, 4, 5)),
        (nn.GLU(), (6,)),
        (Calls(lambda x: F.glu(x.relu(), dim=-3) + 1), (4, 4, 4)),
        (nn.ChannelShuffle(3), (6, 4, 5)),
        (Calls(lambda x: torch.channel_shuffle(x, 2).relu()), (6, 4, 5)),
        (nn.PixelShuffle(2), (12, 3, 5)),
        (nn.PixelUnshuffle(3), (2, 6, 9)),
        (Calls(lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).tanh(), 2)), (2, 6, 4)),
    ],
    ids=str,
)
def test_halves_and_shuffles(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert_described(module, shape)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.mean((2, 3), True).sigmoid().expand_as(x),
        lambda x: x + x.amax((2, 3), True).expand(-1, -1, x.size(2), x.size(3)),
        lambda x: x - x.mean((2, 3)).view(x.size(0), x.size(1), 1, 1).expand(x.shape),
        lambda x: torch.broadcast_to(x.mean((2, 3), keepdim=True), x.shape),
        lambda x: x.expand_as(x).relu(),
    ],
)
def test_one_number_for_an_image(function: Function) -> None:
    assert_described(Calls(function), (4, 3, 5))


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.max(-1)[0].max(-1)[0], (4, 3, 5)),
        (lambda x: torch.max(x, 2, keepdim=True)[0] * 2, (4, 3, 5)),
        (lambda x: x.max(dim=2).values, (4, 7)),
        (lambda x: torch.max(x, dim=1)[0], (5, 6)),
    ],
)
def test_the_largest_numbers_along_an_axis(function: Function, shape: tuple[int, ...]) -> None:
    assert_described(Calls(function), shape)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x.max(2)[1], "takes where the largest numbers stand"),
        (lambda x: x.max(2).indices, "takes where the largest numbers stand|is not supported"),
        (lambda x: F.glu(x, 2), "works along axis 2, supported is axis 1"),
        (lambda x: x.mean(2, True).expand(-1, -1, 4, -1), "expands \\(11, 4, 1, 4\\) to \\(11, 4, 4, 4\\)"),
        (lambda x: F.pixel_shuffle(x.flatten(2), 2), "."),
    ],
)
def test_what_cannot_be_described_is_refused(function: Function, sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        trace(Calls(function), (4, 4, 4))


def _features(x: Any) -> int:
    """As in PyTorch's own tutorial."""
    number = 1
    for extent in x.size()[1:]:
        number *= extent
    return number


def _checked(x: Any) -> Any:
    if x.dim() != 4 or x.shape[1] != 4:
        raise ValueError("images of four channels")
    assert x.shape[2:] == (4, 6) and len(x.shape) == x.ndim
    return x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(-1, _features(x)),
        lambda x: x.view(-1, math.prod(x.shape[1:])),
        lambda x: x.view(len(x), -1),
        lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
        lambda x: x.view(x.size(0), x[0].numel()),
        lambda x: _checked(x).flatten(1),
        lambda x: torch.flatten(x if x.shape[1] == 4 else x.mean(1, True), 1),
        lambda x: x.reshape(next(iter(x.size())), -1),
    ],
)
def test_sizes_are_numbers_while_a_forward_pass_is_followed(function: Function) -> None:
    network = nn.Sequential(nn.MaxPool2d(2), Calls(function))
    assert trace(network, (4, 8, 12)).layers == (MaxPool2d((2, 2), (2, 2), (0, 0)), Flatten())


def test_parts_can_be_looped_over() -> None:
    def in_parts(x: Any) -> Any:
        made: list[Any] = []
        for part in x.chunk(3, 1):
            made.append(part.relu() if not made else part + made[-1])
        return torch.cat(made, 1)

    assert_described(Calls(in_parts), (6, 4, 5))


@pytest.mark.parametrize(
    "function",
    [
        # decides on the batch, or on numbers
        lambda x: x.relu() if x.shape[0] > 1 else x.tanh(),
        lambda x: x.relu() if len(x) > 1 else x.tanh(),
        lambda x: x / len(x),
        lambda x: x.relu() if x.mean() > 0 else x.tanh(),
    ],
)
def test_what_depends_on_the_batch_is_refused(function: Function) -> None:
    with pytest.raises(NetworkError):
        trace(Calls(function), (4, 6))
