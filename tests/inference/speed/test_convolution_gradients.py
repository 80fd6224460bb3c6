"""Gradients of filters over one channel, rewritten as convolutions: the same numbers, and nothing else is touched."""

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from pyro_compress.inference.speed.compiling import compiled
from pyro_compress.inference.speed.convolution_gradients import correlate_one_channel, sum_bias_gradients

OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": 2},
    {"stride": 2},
    {"stride": (3, 2), "padding": (1, 0)},
    {"dilation": 2},
    {"stride": 2, "padding": 1, "dilation": (1, 2)},
]


def gradients(
    channels: int, options: dict[str, Any], outputs: int = 6, groups: int = 1
) -> tuple[Any, tuple[Tensor, ...]]:
    """A function of (x, filters, bias) that gives the gradients of all, and examples."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in inputs]
            x, filters, bias = leaves
            output = F.conv2d(x, filters, bias, groups=groups, **options)
            # a loss whose gradient differs from output to output
            loss = (output.sin() * torch.arange(1, output.shape[-1] + 1)).sum()
            return torch.autograd.grad(loss, leaves)

    return function, (random(5, channels, 11, 12), random(outputs, channels // groups, 3, 4), random(outputs))


def targets(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_torchs(options: dict[str, Any]) -> None:
    function, inputs = gradients(1, options)
    graph = correlate_one_channel(make_fx(function)(*inputs))
    assert targets(graph).count("aten.convolution.default") == 2
    for found, expected in zip(graph(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_filters_and_bias_are_asked_of_nobody_else() -> None:
    function, inputs = gradients(1, {})
    graph = correlate_one_channel(make_fx(function)(*inputs))
    (left,) = [node for node in graph.graph.nodes if node.target is torch.ops.aten.convolution_backward.default]
    assert left.args[10] == [True, False, False]


def test_where_the_images_need_no_gradient_nothing_is_left_of_it() -> None:
    function, (x, filters, bias) = gradients(1, {})
    graph = correlate_one_channel(make_fx(lambda *inputs: function(x, *inputs)[1:])(filters, bias))
    assert "aten.convolution_backward.default" not in targets(graph)
    for found, expected in zip(graph(filters, bias), function(x, filters, bias)[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (2, 2)])
def test_other_convolutions_stay(channels: int, groups: int) -> None:
    function, inputs = gradients(channels, {}, groups=groups)
    before = make_fx(function)(*inputs)
    names = targets(before)
    assert targets(correlate_one_channel(before)) == names


def as_guides_hold(filters: Tensor) -> Tensor:
    """Channels last, by strides too."""
    strides = (filters[0].numel(), 1, filters.shape[3], 1)
    return torch.empty_strided(filters.shape, strides, dtype=filters.dtype).copy_(filters)


@pytest.mark.parametrize(("layout", "rewritten"), [(torch.contiguous_format, 1), (torch.channels_last, 0)])
def test_gradients_of_outputs_that_lie_channels_last_stay(layout: torch.memory_format, rewritten: int) -> None:
    x, filters, gradient = torch.rand(5, 1, 9, 9), as_guides_hold(torch.rand(6, 1, 3, 3)), torch.rand(5, 6, 7, 7)

    def function(gradient: Tensor, x: Tensor, filters: Tensor) -> Tensor:
        options = ([0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
        found: Tensor = torch.ops.aten.convolution_backward.default(gradient, x, filters, *options)[1]
        return found

    inputs = gradient.contiguous(memory_format=layout), x, filters
    graph = correlate_one_channel(make_fx(function)(*inputs))
    assert targets(graph).count("aten.convolution.default") == rewritten
    torch.testing.assert_close(graph(*inputs), function(*inputs))


def test_gradients_of_biases_are_sums() -> None:
    function, inputs = gradients(2, {})
    graph = sum_bias_gradients(make_fx(function)(*inputs))
    (left,) = [node for node in graph.graph.nodes if node.target is torch.ops.aten.convolution_backward.default]
    assert left.args[10] == [True, True, False]
    for found, expected in zip(graph(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_what_is_computed_of_filters_over_one_channel_lies_channels_last_where_compiled() -> None:
    x, filters = torch.rand(4, 1, 9, 9), as_guides_hold(torch.rand(6, 1, 3, 3))

    def function(x: Tensor, filters: Tensor) -> tuple[Tensor]:
        squares = filters.square().view(-1).view(6, 3, 3, 1).permute(0, 3, 1, 2)
        return (F.conv2d(x, squares),)

    (expected,) = function(x, filters)
    (found,) = compiled(make_fx(function)(x, filters), (x, filters))(x, filters)
    assert found.stride() == expected.stride() == (49 * 6, 1, 7 * 6, 6)
    torch.testing.assert_close(found, expected)
