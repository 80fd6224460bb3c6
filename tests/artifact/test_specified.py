"""The second reader, which knows `FORMAT.md` alone, finds the network, integers and outputs that the package finds."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.further_layers import Standardize
from pyro_compress.network.layers import Activation, Flatten, Layer, Linear, Select, Unflatten
from pyro_compress.network.sequence_layers import Crop
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import specified
from tests.artifact.specified_forward import forward
from tests.artifact.test_round_trip import stored_networks

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.pyrc"))
KINDS = {
    "Linear": "linear",
    "Conv2d": "conv",
    "ConvTranspose2d": "conv_transpose",
    "ChannelAffine": "affine",
    "MaxPool2d": "max_pool",
    "AvgPool2d": "average_pool",
    "AdaptiveAvgPool2d": "adaptive_pool",
    "AdaptiveMaxPool2d": "adaptive_max_pool",
    "PositionBias": "position_bias",
    "ConstantPositions": "constant_positions",
}
FIELDS = {
    "kernel_size": "kernel",
    **{name: name for name in ("stride", "padding", "output_padding", "dilation", "groups", "factor")},
    **{name: name for name in ("source", "name", "mode", "eps")},
    **{name: name for name in ("view", "order", "heads", "scale", "causal", "behind", "log")},
    "before": "pad_before",
    "after": "pad_after",
    "reverse": "backwards",
}


def assert_same_layer(found: specified.Layer, layer: Layer) -> None:
    """Kind and fields; sizes that follow from shapes are not fields of the file."""
    kind = type(layer).__name__
    if isinstance(layer, Standardize) and layer.by_place:
        kind += "_places"
    assert found.kind == (layer.kind if isinstance(layer, Activation) else KINDS.get(kind, kind.lower()))
    for each in fields(layer):
        if each.name in FIELDS:
            assert getattr(found, FIELDS[each.name]) == getattr(layer, each.name)
    if isinstance(layer, Activation):
        assert found.slope == layer.slope
    if isinstance(layer, Unflatten | Crop):
        assert found.size == layer.size
    if isinstance(layer, Standardize):
        assert found.mean_square == (not layer.centred)
    if isinstance(layer, Select):
        assert tuple(found.indices) == layer.indices
    assert ("bias" in found.tensors) == getattr(layer, "bias", False)


def assert_same_network(found: specified.Network, network: StoredNetwork) -> None:
    architecture = network.architecture
    assert found.input_shape == architecture.input_shape
    assert found.code == (None if architecture.code is None else (architecture.code.kind, architecture.code.parameter))
    assert [found.input_shape, *(layer.after for layer in found.layers)] == list(architecture.shapes())
    for pair in zip(found.layers, architecture.layers, strict=True):
        assert_same_layer(*pair)
    assert list(found.tensors) == list(network.tensors)
    for name, tensor in network.tensors.items():
        second = found.tensors[name]
        np.testing.assert_array_equal(second.numbers, tensor.dense(), strict=True)
        assert (second.integers is None) == (tensor.integers is None)
        if second.integers is not None and tensor.integers is not None:
            np.testing.assert_array_equal(second.integers, tensor.integers)
    assert sorted(found.deviations) == sorted(network.deviations)
    for name, exponents in network.deviations.items():
        held = network.tensors[name].dense().ravel() != 0
        expected = [int(x) if here else None for x, here in zip(exponents.ravel(), held, strict=True)]
        assert found.deviations[name] == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_both_readers_find_the_same_network_in_golden_files(path: Path) -> None:
    data = path.read_bytes()
    assert_same_network(specified.decode(data), decode(data))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(stored_networks())
def test_both_readers_find_the_same_network_in_random_files(network: StoredNetwork) -> None:
    assert_same_network(specified.decode(encode(network)), network)


def test_columns_without_neighbours_in_an_earlier_part_learn_from_none() -> None:
    layers = (Flatten(), Select((0, 3)), Linear("fc1", 2, 2, False))
    weight = StoredTensor(np.array([[0, 0], [0, 1]], np.int32))
    network = StoredNetwork(Architecture((2, 6, 5), layers), {"fc1.weight": weight})
    assert_same_network(specified.decode(encode(network)), network)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_both_compute_the_same_outputs(path: Path) -> None:
    """In float64, so that only what is computed can differ and not how it is rounded."""
    network = decode(path.read_bytes())
    random, tokens = np.random.default_rng(0), network.architecture.tokens
    size = (3, *network.architecture.input_shape)
    examples = random.normal(size=size) if tokens is None else random.integers(tokens, size=size).astype(float)
    module = to_torch(replace(network, deviations={})).double()
    with torch.no_grad():
        expected = module(torch.from_numpy(examples)).numpy()
    assert expected.std() > 0
    second = specified.decode(path.read_bytes())
    for example, output in zip(examples, expected, strict=True):
        found = forward(second, example)
        np.testing.assert_allclose(found, output, rtol=0, atol=1e-6 * np.abs(expected).max())
