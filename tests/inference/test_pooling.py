"""Pooling operators of our own compute and lay out what torch's do."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from pyro_compress.inference.pooling import keep_pooling


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
