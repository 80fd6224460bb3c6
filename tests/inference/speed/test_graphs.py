"""Graphs of operations are those of torch's own tracing, for which one fake mode is enough."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_compress.inference.speed.graphs import graph_of


def function(x: Tensor, filters: Tensor) -> Tensor:
    def loss(filters: Tensor) -> Tensor:
        torch.rand(2)  # moves the generator, though nothing reads it
        pooled = F.max_pool2d(F.conv2d(x, filters).relu(), 2)
        return (pooled + torch.randn(3, 1, 1)).square().sum()

    return grad(loss)(filters)


def test_the_operations_are_those_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(5, 1, 7, 8, generator=generator), torch.randn(3, 1, 2, 3, generator=generator)
    with torch.random.fork_rng(devices=[]):
        expected = make_fx(function)(*examples)
    modes = []
    original = FakeTensorMode.__init__

    def counted(self: Any, **options: Any) -> None:
        modes.append(self)
        original(self, **options)

    monkeypatch.setattr(FakeTensorMode, "__init__", counted)
    with torch.random.fork_rng(devices=[]):
        graph = graph_of(function, *examples)
    assert len(modes) == 1
    assert graph.code == expected.code and "rand.default" in graph.code
    for ours, theirs in zip(graph.graph.nodes, expected.graph.nodes, strict=True):
        assert ours.meta.get("tensor_meta") == theirs.meta.get("tensor_meta")
        assert ("val" in ours.meta) == ("val" in theirs.meta)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = graph(*examples)
        torch.manual_seed(1)
        assert torch.equal(found, function(*examples))
