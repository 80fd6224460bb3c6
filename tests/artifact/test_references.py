"""Layers that refer back: what the format refuses of them, and that the torch module computes them."""

import tracemalloc

import pytest
import torch
import torch.nn.functional as F

from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture, last_references, walk
from pyro_compress.network.layers import Activation, Add, AvgPool2d, Conv2d, Flatten, Layer, Linear, Recall, describe
from pyro_compress.network.stored import StoredNetwork
from tests.artifact import networks
from tests.artifact.fuzzing import packed, wrapped
from tests.artifact.header_digits import FLAT, number, shape

RELU, ADD, RECALL, RELU6 = "10000", "011001", "011010", "011011"


def layers(*digits: str) -> str:
    """The header of a network of these layers over four numbers."""
    return FLAT + number(len(digits)) + "".join(digits)


def test_the_bits_of_layers_that_refer_back() -> None:
    network = (Activation("relu"), Activation("relu6"), Add(1), Recall(0), Add(3))
    digits = layers(RELU, RELU6, ADD + number(1, 2), RECALL + number(3, 2), ADD + number(1, 2))
    data = wrapped(packed(digits))
    assert encode(StoredNetwork(Architecture((4,), network), {})) == data
    assert decode(data).architecture.layers == network


MALFORMED: dict[str, tuple[str, str]] = {
    "first layer": (layers(ADD + number(1, 2)), "a reference in the header exceeds the limit 0"),
    "to itself": (layers(RELU, ADD + number(0, 2)), "a reference in the header is 0, at least 1"),
    "before the input": (layers(RELU, RECALL + number(2, 2)), "a reference in the header exceeds the"),
    "endless distance": (layers(RELU, ADD + "0" * 60), "a reference in the header exceeds"),
    "other shape": (
        shape(2, 3) + number(2) + "011000" + ADD + number(1, 2),
        r"layer 1 \(Add\(source=0\)\) expects the shape \(2, 3\)",
    ),
    "kept": (
        shape(1, 2048, 2048) + number(10) + RELU * 5 + "".join(ADD + number(2 * k + 1, 2) for k in range(5)),
        "keeps 20971520 numbers of earlier layers at once, limit 16777216",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_references(case: str) -> None:
    digits, message = MALFORMED[case]
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            decode(wrapped(packed(digits)))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_what_is_kept_counts_until_its_last_reference() -> None:
    """Four images of 2²² numbers may be kept at once, any number one after the other."""
    again: list[Layer] = [layer for number in range(9) for layer in (Activation("relu"), Add(2 * number))]
    deep: list[Layer] = [*[Activation("relu")] * 4, *(Add(number) for number in (3, 2, 1, 0))]
    for layers in (again, deep):
        network = StoredNetwork(Architecture((1, 2048, 2048), tuple(layers)), {})
        assert decode(encode(network)).architecture == network.architecture
    with pytest.raises(ArtifactError, match="the format cannot hold this network: the network keeps 20971520 numbers"):
        deeper: list[Layer] = [*[Activation("relu")] * 5, *(Add(number) for number in (4, 3, 2, 1, 0))]
        encode(StoredNetwork(Architecture((1, 2048, 2048), tuple(deeper)), {}))


@pytest.mark.parametrize("layer", [Add(1), Recall(1), Recall(-1), Add(2)], ids=describe)
def test_references_that_do_not_point_back(layer: Layer) -> None:
    with pytest.raises(ArtifactError, match=r"layer 1 .* refers to no output before output 1"):
        encode(StoredNetwork(Architecture((4,), (Activation("relu"), layer)), {}))


def test_relu6_has_no_slope() -> None:
    with pytest.raises(ArtifactError, match="it would come back as"):
        encode(StoredNetwork(Architecture((4,), (Activation("relu6", 0.5),)), {}))


def test_walk_keeps_what_is_referred_to_and_no_longer() -> None:
    layers = (Flatten(), Recall(0), Add(1), Add(1), Flatten())
    assert last_references(layers) == {0: 1, 1: 3}
    seen = []

    def after(layer: Layer, value: str, earlier: str | None) -> str:
        seen.append((type(layer).__name__, value, earlier))
        return f"{value}{len(seen)}"

    assert list(walk(layers, "x", after)) == ["x", "x1", "x12", "x123", "x1234", "x12345"]
    assert [earlier for _, _, earlier in seen] == [None, "x", "x1", "x1", None]


def test_the_module_of_a_residual_network() -> None:
    network = networks.residual()
    module = Artifact.of(network).to_torch()
    x = torch.randn(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))

    def value(name: str) -> torch.Tensor:
        return torch.from_numpy(network.tensors[name].dense().copy())

    stem = F.relu6(F.conv2d(x, value("conv1.weight"), padding=1))
    y = F.conv2d(stem, value("layer1.0.conv1.weight"), value("layer1.0.conv1.bias"), padding=1, groups=6)
    scale, shift = value("layer1.0.bn1.scale")[:, None, None], value("layer1.0.bn1.shift")[:, None, None]
    image = F.relu(y * scale + shift + stem)
    left = F.conv2d(image, value("layer2.0.conv1.weight"), stride=2, padding=1)
    y = left + F.conv2d(image, value("layer2.0.downsample.weight"), value("layer2.0.downsample.bias"), stride=2)
    y = y.flatten(1)[:, ::3]
    first = F.linear(y, value("fc1.weight"), value("fc1.bias"))
    total = F.linear(y, value("fc2.weight")) + y + first
    expected = F.linear(total, value("fc3.weight"), value("fc3.bias"))
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    # torch's gradient of the strided 1 × 1 filter writes beyond its memory where channels lie last
    assert all(parameter.is_contiguous() for parameter in module.parameters())
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_module_can_be_traced_again() -> None:
    """A decoded residual network is a network like any other, so it can be compressed further."""
    convolution = Conv2d("0", 2, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1, False)
    layers = (convolution, Activation("relu6"), Add(1), Recall(0), AvgPool2d((1, 1), (1, 1), (0, 0)), Add(3), Flatten())
    network = networks.filled((2, 4, 4), (*layers, Linear("7", 32, 3, True)))
    found = trace(Artifact.of(network).to_torch(), (2, 4, 4))
    assert found == network.architecture
