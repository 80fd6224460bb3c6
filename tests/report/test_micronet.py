"""The MicroNet score against networks small enough to count by hand, and products against another count."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

import pyro_compress as pc
from pyro_compress.errors import NetworkError, RunError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import (
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Standardize,
    View,
)
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Linear, Select
from pyro_compress.network.liveness import products_per_link
from pyro_compress.network.quantizers import Codebook, PerChannel, Stored, Uniform
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.pipeline.as_layers import as_it_is
from pyro_compress.report.micronet import Reference, micronet_score, products
from tests.artifact import networks

UNIT = Reference("one of each", 1, 1)


def one_layer(integers: np.ndarray, quantizer: Stored, bias: StoredTensor | None = None) -> StoredNetwork:
    layer = Linear("fc", integers.shape[1], integers.shape[0], bias is not None)
    tensors = {"fc.weight": StoredTensor(integers.astype(np.int32), quantizer)}
    return StoredNetwork(
        Architecture((integers.shape[1],), (layer,)), tensors if bias is None else {**tensors, "fc.bias": bias}
    )


def test_a_dense_network_of_floats() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    found = pc.score(network, (4,), reference=UNIT, freebie=False)
    multiplies, additions = 12 + 3 + 6, (3 * 3 + 3) + 2 * 2
    assert (found.parameters, found.operations) == (12 + 3 + 6, multiplies + additions)
    assert [(layer.multiplies, layer.additions) for layer in found.layers] == [(12, 12), (3, 0), (6, 4)]
    free = pc.score(network, (4,), reference=UNIT)
    assert free.freebie and not found.freebie
    assert (free.parameters, free.operations) == (21 / 2, multiplies / 2 + additions)
    assert free.total == free.parameters + free.operations


def test_a_weight_of_several_layers_is_stored_once_and_multiplied_by_each() -> None:
    network = networks.tied()
    found = {layer.layer: layer for layer in micronet_score(network, UNIT).layers}
    first, second = found["Linear fc1"], found["Linear fc2"]
    bias = 30 * 9 + 32  # up to 200, and a sign; the step
    assert second.storage_bits == bias < first.storage_bits
    assert (second.multiplies, second.additions) == (first.multiplies, first.additions)
    assert found["Conv2d head"].storage_bits == 0 < found["Embedding wte"].storage_bits


def test_zeros_cost_a_bit_each_and_are_not_multiplied() -> None:
    # 5 of 24 are there, row 1 is empty: 5 bits hold 15 and a sign, a mask takes 24 bits, the step is one parameter
    integers = np.zeros((4, 6))
    integers[0, :3], integers[2, 5], integers[3, 0] = (15, -3, 1), 7, -15
    bias = StoredTensor(np.array([1, 1, 0, -2], np.int32), Uniform(0.5))
    found = micronet_score(one_layer(integers, Uniform(0.25), bias), UNIT)
    assert not found.freebie
    assert found.layers[0].storage_bits == (24 + 5 * 5 + 32) + (4 * 3 + 32)
    # dot products of 3, 1 and 1 weights, and a bias on each of them
    assert (found.layers[0].multiplies, found.layers[0].additions) == (5, 2 + 3)
    # activations have 32 bits, so products have
    assert found.operations == 5 + 5
    narrow = micronet_score(one_layer(integers, Uniform(0.25), bias), UNIT, activation_bits=4)
    assert narrow.operations == 5 * 5 / 32 + 5


def test_a_tensor_without_zeros_needs_no_mask() -> None:
    found = micronet_score(one_layer(np.full((2, 3), 7), Uniform(2.0)), UNIT)
    assert found.layers[0].storage_bits == 6 * 4 + 32


def test_steps_and_levels_are_stored_and_other_steps_than_powers_of_two_are_multiplied() -> None:
    integers = np.full((2, 3), 3)
    plain = micronet_score(one_layer(integers, Uniform(0.5)), UNIT, activation_bits=8)
    scaled = micronet_score(one_layer(integers, Uniform(0.3)), UNIT, activation_bits=8)
    assert scaled.layers[0].multiplies == plain.layers[0].multiplies + 2
    assert scaled.operations == plain.operations + 2
    channels = micronet_score(one_layer(integers, PerChannel((0.5, 0.3))), UNIT, activation_bits=8)
    assert (channels.operations, channels.parameters) == (scaled.operations, plain.parameters + 1)
    # a mask of 6 bits and one index of a bit each for three that are there; without one, indices of 2 bits
    ternary = micronet_score(
        one_layer(np.array([[1, 0, -1], [0, 0, 1]]), Codebook((-0.2, 0.2))), UNIT, activation_bits=8
    )
    assert ternary.layers[0].storage_bits == 6 + 3 * 1 + 2 * 32
    full = micronet_score(one_layer(np.array([[1, -1, -1], [1, 1, 1]]), Codebook((-0.2, 0.2))), UNIT)
    assert full.layers[0].storage_bits == 6 * 2 + 2 * 32
    # a level is a float32 number
    assert ternary.layers[0].operation_bits == 3 * 32 + (1 + 0) * 32


def test_convolution_normalisation_and_pooling() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.Sigmoid(), nn.MaxPool2d(2), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip
    found = pc.score(network, (2, 8, 8), reference=UNIT, freebie=False)
    pixels = 64 * 3
    expected = {
        "Conv2d 0": (18 * pixels, 17 * pixels),
        "ChannelAffine 1": (pixels, pixels),
        "Activation sigmoid": (2 * pixels, pixels),
        "MaxPool2d": (3 * 16 * 3, 0),
        "AvgPool2d": (4 * 3, 3 * 4 * 3),
        "AdaptiveAvgPool2d": (3, 3 * 3),
        "Linear 7": (6, 6),
    }
    assert {layer.layer.partition("(")[0]: (layer.multiplies, layer.additions) for layer in found.layers} == expected
    assert found.parameters == 54 + 6 + 6 + 2


def test_a_transposed_convolution_counts_what_reaches_its_outputs() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2), nn.Upsample(scale_factor=2))
    found = pc.score(network, (2, 4, 4), reference=UNIT, freebie=False)
    # 2 · 16 places times 3 · 9 weights; each of the 9 · 9 outputs of 3 channels has one sum less, and a bias
    products = 32 * 27
    assert [(layer.multiplies, layer.additions) for layer in found.layers] == [(products, products)]
    without = as_it_is(nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2, bias=False)), (2, 4, 4))
    assert [(c.multiplies, c.additions) for c in micronet_score(without, UNIT).layers] == [(products, products - 243)]
    weight = without.tensors["0.weight"].dense()
    weight[:] = 0
    weight[0, 1, 0, 0] = 0.5  # reaches every other place of one channel, alone
    found = micronet_score(without, UNIT)
    assert [(c.multiplies, c.additions) for c in found.layers] == [(16, 0)]


def test_slopes_are_stored_and_multiplied() -> None:
    found = pc.score(nn.Sequential(nn.PReLU(3), nn.Hardswish()), (3, 2, 2), reference=UNIT, freebie=False)
    assert [(c.storage_bits, c.multiplies, c.additions) for c in found.layers] == [(3 * 32, 24, 0), (0, 48, 12)]


def test_products_norms_and_interpolation() -> None:
    layers = (
        *(Standardize(2, 1e-5), Resize((2, 5), "bilinear"), AdaptiveMaxPool2d((1, 1)), Multiply(2)),
        *(Concatenate(2), Pad((1, 1), (0, 0)), View((1, 18))),
    )
    found = micronet_score(StoredNetwork(Architecture((4, 3, 2), layers), {}), UNIT)
    assert [(c.multiplies, c.additions) for c in found.layers] == [
        # of each of 24 numbers its square and a product, of each of 2 groups mean, variance, root and reciprocal; two
        # sums of 12 numbers, 24 differences, and an epsilon
        (2 * 24 + 2 * 4, 2 * (2 * 11 + 12 + 1)),
        # 4 · 2 rows of 2 places, then of 5: two products and a sum for each
        (2 * (16 + 40), 16 + 40),
        (4 * 9, 0),
        (4 * 10, 0),
    ]


def test_shares_and_their_logarithms() -> None:
    layers = (Softmax(), Softmax(log=True))
    found = micronet_score(StoredNetwork(Architecture((4, 3, 2), layers), {}), UNIT)
    assert [(c.multiplies, c.additions) for c in found.layers] == [
        # of each of 24 numbers e^x and a division, and 3 comparisons at each of 6 places; 24 differences, sums of 4
        (2 * 24 + 6 * 3, 24 + 6 * 3),
        # a logarithm at each place, and 24 differences more
        (24 + 6 + 6 * 3, 2 * 24 + 6 * 3),
    ]


def test_windows_of_adaptive_pooling_overlap() -> None:
    # along an axis of 5 windows of 2 outputs have 3 each
    found = pc.score(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 1)), (1, 5, 5), reference=UNIT)
    assert (found.layers[0].multiplies, found.layers[0].additions) == (4, 6 * 6 - 4)


def test_selected_inputs_need_a_mask() -> None:
    layers = (Flatten(), Select((0, 3, 4)), Linear("fc", 3, 2, False), Activation("relu"))
    stored = StoredNetwork(
        Architecture((2, 3), layers), {"fc.weight": StoredTensor(np.ones((2, 3), np.int32), Uniform(1.0))}
    )
    assert [layer.storage_bits for layer in micronet_score(stored, UNIT).layers] == [6, 2 * 6 + 32, 0]


def test_what_has_no_fewer_than_16_bits_may_count_16() -> None:
    wide = one_layer(np.array([[2**17, 5]]), Uniform(0.5))
    assert micronet_score(wide, UNIT).layers[0].storage_bits == (2 + 1) * 16
    assert micronet_score(wide, UNIT, freebie=False).layers[0].storage_bits == 2 * 19 + 32
    assert not micronet_score(wide, UNIT, activation_bits=8).freebie


def test_products_are_those_that_pruning_of_units_counts() -> None:
    with torch.random.fork_rng(devices=[]):
        residual = as_it_is(torchvision_models.resnet18(num_classes=10), (3, 32, 32))
    for stored in (networks.conv(), networks.dense(), networks.decoder(), residual):
        weighted = stored.architecture.weighted()
        links = [
            per_link * math.prod(stored.tensors[f"{layer.name}.weight"].shape[:2])
            for layer, per_link in zip(weighted, products_per_link(stored.architecture), strict=True)
        ]
        assert list(products(stored).values()) == links
        assert any(isinstance(layer, Conv2d) for layer in weighted) or stored.architecture.input_shape == (1, 8, 8)


def test_a_file_scores_as_the_network_that_it_holds() -> None:
    artifact = pc.Artifact.of(networks.conv())
    assert pc.score(artifact, activation_bits=8) == micronet_score(artifact.network, activation_bits=8)
    reference = pc.score(artifact, reference="imagenet").reference
    assert (reference.parameters, reference.operations) == (6.9e6, 1.17e9)
    # the example of the rules: 3M parameters and 500M operations are 0.862
    layer = replace(pc.score(artifact).layers[0], storage_bits=int(32 * 3e6), operation_bits=int(32 * 500e6))
    assert replace(pc.score(artifact, reference="imagenet"), layers=(layer,)).total == pytest.approx(0.862, abs=5e-4)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(RunError, match="unknown reference of a score 'cifar': known are cifar-100, imagenet"):
        pc.score(pc.Artifact.of(networks.dense()), reference="cifar")
    with pytest.raises(RunError, match="a width from 1 to 32, found 0"):
        pc.score(pc.Artifact.of(networks.dense()), activation_bits=0)
    with pytest.raises(NetworkError, match="needs the shape of one example"):
        pc.score(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(NetworkError, match="the file says which shape it takes"):
        pc.score(pc.Artifact.of(networks.dense()), (1, 8, 8))
