"""Statistics are those of all examples, however they are cut into pieces, ordered and shaped."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.errors import DataError
from pyro_compress.inference.finetuning.batch_norm import _Moments, _replace, reestimate_batch_norm


def examples(count: int, *shape: int, classes: int = 4) -> DataSet:
    """Sorted by class, each around a mean of its own."""
    y = torch.arange(count) * classes // count
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
    return as_data((x + 4 * y.reshape(-1, *[1] * len(shape)), y), classes=classes)


def statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers() if buffer.is_floating_point()}


@pytest.mark.parametrize("count", [258, 257, 256, 255, 2, 3])
@pytest.mark.parametrize("batch_size", [256, 2, 1])
def test_a_layer_on_the_inputs_has_their_mean_and_unbiased_variance(count: int, batch_size: int) -> None:
    data, network = examples(count, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))
    reestimate_batch_norm(network, data, batch_size)
    found = statistics(network)
    torch.testing.assert_close(found["0.running_mean"], data.train_x.mean(0))
    torch.testing.assert_close(found["0.running_var"], data.train_x.var(0))


SHAPES: list[tuple[type[nn.Module], tuple[int, ...]]] = [
    (nn.BatchNorm1d, (3,)),
    (nn.BatchNorm1d, (3, 5)),
    (nn.BatchNorm2d, (3, 2, 4)),
    (nn.BatchNorm3d, (3, 2, 2, 2)),
    (nn.SyncBatchNorm, (3, 4)),
]


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_every_kind_of_batch_norm(kind: Any, shape: tuple[int, ...]) -> None:
    data, network = examples(33, *shape), nn.Sequential(kind(3))
    reestimate_batch_norm(network, data, batch_size=8)
    by_channel = data.train_x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics(network)["0.running_mean"], by_channel.mean(1))
    torch.testing.assert_close(statistics(network)["0.running_var"], by_channel.var(1))


def deep() -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(3, 4))


def test_deeper_layers_see_what_the_shipped_network_shows_them() -> None:
    data, network = examples(300, 3), deep()
    reestimate_batch_norm(network, data, batch_size=32)
    x = data.train_x
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            assert layer.running_mean is not None and layer.running_var is not None
            torch.testing.assert_close(layer.running_mean, x.mean(0), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(layer.running_var, x.var(0), rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            x = layer(x)


def test_neither_pieces_nor_order_matter() -> None:
    data, found = examples(300, 3), []
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    shuffled = as_data((data.train_x[order], data.train_y[order]), classes=4)
    for given, batch_size in ((data, 299), (data, 300), (data, 7), (shuffled, 64)):
        network = deep()
        reestimate_batch_norm(network, given, batch_size)
        found.append(statistics(network))
    for other in found[1:]:
        for name, values in other.items():
            torch.testing.assert_close(values, found[0][name], rtol=5e-3, atol=5e-3)


def test_of_sorted_examples_each_class_gives_its_share() -> None:
    data, network = examples(4000, 3), nn.Sequential(nn.BatchNorm1d(3))
    reestimate_batch_norm(network, data, batch_size=100, examples=500)
    np.testing.assert_allclose(statistics(network)["0.running_mean"], data.train_x.mean(0), atol=0.15)


def test_what_else_the_network_has_stays() -> None:
    data, network = examples(60, 3), deep()
    network.train()
    before, torch_state = {n: p.clone() for n, p in network.named_parameters()}, torch.get_rng_state()
    x = data.train_x.clone()
    reestimate_batch_norm(network, data, batch_size=16)
    assert all(torch.equal(before[n], p) for n, p in network.named_parameters())
    assert torch.equal(torch.get_rng_state(), torch_state) and torch.equal(data.train_x, x)
    assert network[1].momentum == 0.1 and not network.training and not network[1]._forward_pre_hooks
    without = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).train()
    reestimate_batch_norm(without, data)
    assert without.training


def test_one_number_per_channel_has_no_variance() -> None:
    with pytest.raises(DataError, match="batch norm '0' sees one number per channel"):
        reestimate_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), as_data((torch.ones(1, 3), torch.zeros(1).long())))


def test_a_channel_that_never_varies_does_not_move_for_ever() -> None:
    norm, moments = nn.BatchNorm1d(2), _Moments()
    moments.add(torch.tensor([[0.1, 1.0], [0.1, 2.0]]))
    assert _replace({"norm": norm}, {"norm": moments}, 1), "both have moved, from 0"
    assert isinstance(moments.mean, torch.Tensor)
    moments.mean = moments.mean + torch.tensor([1e-7, 0.0])
    assert not _replace({"norm": norm}, {"norm": moments}, 1), "by a rounding error, of a deviation that is 0"
    moments.mean = moments.mean + torch.tensor([1e-4, 0.0])
    assert _replace({"norm": norm}, {"norm": moments}, 1), "by a hundredth of what the layer divides by"


def test_few_passes_end_where_they_are_asked_to() -> None:
    data, seen = examples(300, 3), []
    network = deep()
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    reestimate_batch_norm(network, data, batch_size=100, examples=200, passes=2)
    assert sum(seen) == 400 and max(seen) <= 100


def test_augmented_images_are_changed_here_as_in_training() -> None:
    x = torch.rand(400, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + 1
    data = as_data((x, torch.arange(400) % 2))
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 2))
    reestimate_batch_norm(network, data.augmented(shift=3), batch_size=100)
    found = statistics(network)
    # a shift by s of 6 pixels leaves (6 − |s|) / 6 in view along each axis: 5/7 on average, squared
    expected = float(x.mean()) * (sum(6 - abs(s) for s in range(-3, 4)) / 42) ** 2
    assert float(found["0.running_mean"]) == pytest.approx(expected, rel=0.03)
    again = copy.deepcopy(network)
    reestimate_batch_norm(again, data.augmented(shift=3), batch_size=100)
    assert torch.equal(found["0.running_mean"], statistics(again)["0.running_mean"])
