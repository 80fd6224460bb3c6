"""Pooling operators of our own compute and lay out what torch's do."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from pyro_compress.inference.speed.compiling import compiled
from pyro_compress.inference.speed.max_pooling import fuse_pooling, keep_pooling


@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"stride": 3, "dilation": 2, "ceil_mode": True}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_torchs(options: dict[str, Any], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 8).contiguous(memory_format=layout)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = F.max_pool2d(leaf, 3, **options)
            (gradient,) = torch.autograd.grad((output * torch.arange(output.shape[-1])).sum(), leaf)
        return output.detach(), gradient

    graph = keep_pooling(make_fx(function)(x))
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("pyro_compress.max_pool2d") for name in names) == 2
    assert not any("aten.max_pool2d" in name for name in names)
    for found, expected in zip(graph(x), function(x), strict=True):
        assert torch.equal(found, expected) and found.stride() == expected.stride()


def pooled_and_unpooled(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of a loss that differs from output to output."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = F.max_pool2d(leaf, *options)
        factors = torch.arange(1.0, output.numel() + 1).view(output.shape)
        (gradient,) = torch.autograd.grad((output * factors).sum(), leaf)
    return output.detach(), gradient


def few_numbers(*shape: int) -> Tensor:
    """Channels last, with many ties, and with some that are no numbers or infinite."""
    torch.manual_seed(0)
    x = torch.randint(-1, 2, shape).float().contiguous(memory_format=torch.channels_last)
    x[0, 0, 1, 1], x[1, 2, 0, 0], x[1, 1, 2, 2], x[0, 2, 2, 3] = torch.nan, torch.nan, torch.inf, -torch.inf
    return x


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 4)])
def test_windows_that_tile_the_input_become_slices_with_torchs_numbers(window: tuple[int, int]) -> None:
    x = few_numbers(2, 3, 6, 8)
    graph = fuse_pooling(make_fx(lambda x: pooled_and_unpooled(x, window))(x))
    assert not any("max_pool2d" in str(node.target) for node in graph.graph.nodes)
    for found, expected in zip(graph(x), pooled_and_unpooled(x, window), strict=True):
        assert found.stride() == expected.stride()
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_slices_give_torchs_numbers() -> None:
    x = few_numbers(2, 3, 6, 8)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        output, gradient = pooled_and_unpooled(x + 1, 2)
        return output * 2, gradient * x

    expected = function(x)
    for found, wanted in zip(compiled(make_fx(function)(x), (x,))(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "options", "layout"),
    [
        ((2, 3, 6, 8), (3, 1), torch.channels_last),
        ((2, 3, 6, 8), (2, 2, 1), torch.channels_last),
        ((2, 3, 7, 8), (2,), torch.channels_last),
        ((2, 3, 8, 8), (2, 2, 0, 2), torch.channels_last),
        ((2, 3, 6, 8), (2,), torch.contiguous_format),
    ],
    ids=["overlapping", "padded", "uncovered", "dilated", "channels-first"],
)
def test_other_windows_stay(shape: tuple[int, ...], options: tuple[int, ...], layout: torch.memory_format) -> None:
    x = torch.rand(shape).contiguous(memory_format=layout)
    graph = fuse_pooling(make_fx(lambda x: pooled_and_unpooled(x, *options))(x))
    assert sum("max_pool2d" in str(node.target) for node in graph.graph.nodes) == 2


def test_who_reads_the_indices_keeps_torchs_pooling() -> None:
    x = torch.rand(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    graph = fuse_pooling(make_fx(lambda x: F.max_pool2d(x, 2, return_indices=True))(x))
    for found, expected in zip(graph(x), F.max_pool2d(x, 2, return_indices=True), strict=True):
        assert torch.equal(found, expected)
