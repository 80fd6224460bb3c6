"""Parameters as views of vectors: values, strides, gradients and the optimizer's memory."""

from typing import Any

import pytest
import torch
from torch import nn

from pyro_compress.inference.gradient.gradient_method import build_optimizer
from pyro_compress.inference.speed import flat_parameters
from pyro_compress.inference.speed.flat_parameters import FlatParameters, is_elementwise


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(1)
    filters = torch.randn(4, 3, 2, 5).contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(filters), nn.Parameter(torch.randn(())), *unused()]


def unused() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(2))]


def groups(held: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [p], "multiplier": m} for p, m in zip(held, (1.0, 3.0, 1.0, 3.0), strict=True)]


def loss(held: list[nn.Parameter]) -> torch.Tensor:
    weights, filters, number, _ = held
    return (weights.square().sum() * number.exp() + (filters * torch.arange(5)).pow(3).sum()) / 10


def test_parameters_keep_values_and_strides_and_lie_in_one_vector_per_rate() -> None:
    held, copies = parameters(), parameters()
    flat = FlatParameters(groups(held), by_element=True)
    assert [vector.multiplier for vector in flat.vectors] == [1.0, 3.0]
    assert [vector.whole.numel() for vector in flat.vectors] == [7, 122]
    for parameter, copy in zip(held, copies, strict=True):
        assert torch.equal(parameter, copy) and parameter.stride() == copy.stride()
    with torch.no_grad():
        flat.vectors[1].whole[0] = 17.0
    assert float(held[1].detach()[0, 0, 0, 0]) == 17.0


def test_large_parameters_lie_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_parameters, "LARGE", 6)
    held = parameters()
    flat = FlatParameters(groups(held), by_element=True)
    found = [(vector.multiplier, [id(place.parameter) for place in vector.places]) for vector in flat.vectors]
    weights, filters, number, unused = map(id, held)
    assert found == [(1.0, [weights]), (1.0, [number]), (3.0, [filters]), (3.0, [unused])]
    assert flat.vectors[2].whole.data_ptr() == held[1].data_ptr()


@pytest.mark.parametrize("by_element", [True, False])
def test_vectors_stay_in_the_optimizers_order(by_element: bool) -> None:
    held = parameters()
    flat = FlatParameters(groups(held), by_element)
    assert [vector.multiplier for vector in flat.vectors] == [1.0, 3.0]
    optimizer = build_optimizer("adam", flat.groups(), 0.01)
    moved = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    listed = [vector.whole for vector in flat.vectors] if by_element else flat.parameters
    assert [id(tensor) for tensor in moved] == [id(tensor) for tensor in listed]


def test_filters_over_one_channel_keep_the_layout_that_convolutions_look_at() -> None:
    start = torch.empty(20, 1, 5, 5, memory_format=torch.channels_last).normal_()
    held = nn.Parameter(start)
    FlatParameters([{"params": [held], "multiplier": 1.0}], by_element=True)
    # an axis of length one may have any stride, but this is how a convolution tells
    assert held.stride() == (25, 1, 5, 1)
    output = nn.functional.conv2d(torch.ones(2, 1, 8, 8), held)
    assert output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "adafactor"])
def test_steps_are_those_of_the_same_optimizer_over_the_parameters(name: str) -> None:
    held, copies = parameters(), parameters()
    flat = FlatParameters(groups(held), is_elementwise(name))
    ours, plain = (build_optimizer(name, g, 0.01) for g in (flat.groups(), groups(copies)))
    for _ in range(3):
        flat.clear_gradients()
        loss(held).backward()
        flat.collect_gradients()
        plain.zero_grad()
        loss(copies).backward()
        ours.step()
        plain.step()
        for parameter, copy in zip(held, copies, strict=True):
            torch.testing.assert_close(parameter.detach(), copy.detach(), rtol=1e-6, atol=1e-7)


def test_gradients_of_vectors_and_of_autograd_add_up() -> None:
    held = parameters()
    flat = FlatParameters(groups(held), by_element=True)
    gradients = torch.autograd.grad(loss(held), held, allow_unused=True)
    by_parameter = dict(zip(map(id, held), gradients, strict=True))
    flat.add_gradients([v.joined(by_parameter[id(p.parameter)] for p in v.places) for v in flat.vectors])
    loss(held).backward()
    flat.collect_gradients()
    for vector in flat.vectors:
        assert vector.whole.grad is not None
        for place in vector.places:
            expected = by_parameter[id(place.parameter)]
            found = place.view(vector.whole.grad)
            torch.testing.assert_close(found, torch.zeros_like(found) if expected is None else 2 * expected)


@pytest.mark.parametrize("large", [1000, 6])
def test_a_fresh_optimizer_remembers_the_parts_that_are_left(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # under 6 the weights lie alone, until they lose a row
    monkeypatch.setattr(flat_parameters, "LARGE", large)
    held = parameters()
    flat = FlatParameters(groups(held), by_element=True)
    former = build_optimizer("adam", flat.groups(), 0.01)
    for _ in range(4):
        flat.clear_gradients()
        loss(held).backward()
        flat.collect_gradients()
        former.step()
    rows = torch.tensor([0, 2])
    left = [nn.Parameter(held[0].detach()[rows]), *(nn.Parameter(p.detach().clone()) for p in held[1:])]
    narrow = FlatParameters(groups(left), by_element=True)
    optimizer = build_optimizer("adam", narrow.groups(), 0.01)
    parts = flat.parts(former)
    cut = {id(new): dict(parts[id(old)]) for new, old in zip(left, held, strict=True)}
    cut[id(left[0])] = {key: value[rows] for key, value in cut[id(left[0])].items()}
    narrow.remember(optimizer, cut, former)
    for both, one in ((flat, former), (narrow, optimizer)):
        both.clear_gradients()
        loss(held if both is flat else left).backward()
        both.collect_gradients()
        one.step()
    # the number's gradient feels the row that went, the rest does not
    torch.testing.assert_close(left[0].detach(), held[0].detach()[rows], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(left[1].detach(), held[1].detach(), rtol=1e-6, atol=1e-7)
    assert float(optimizer.state[narrow.vectors[0].whole]["step"]) == 5
