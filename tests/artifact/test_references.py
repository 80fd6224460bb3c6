"""Layers that refer back: what the format refuses of them, and that the torch module computes them."""

import tracemalloc
import zlib

import pytest
import torch
import torch.nn.functional as F

from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.models.tracing import trace
from pyro_compress.network.architecture import (
    Activation,
    Add,
    Architecture,
    AvgPool2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    Recall,
    describe,
    last_references,
    walk,
)
from pyro_compress.network.stored import StoredNetwork
from tests.artifact import networks
from tests.artifact.test_malformed import varint

RELU, FLAT, ADD, RECALL, RELU6 = b"\x08", b"\x06", b"\x16", b"\x26", b"\x36"
VECTOR = b"\1\4\0"


def wrapped(version: int, body: bytes) -> bytes:
    data = b"PYR" + bytes([version]) + varint(len(body)) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def test_the_bytes_of_the_new_layers() -> None:
    layers = (Activation("relu"), Activation("relu6"), Add(1), Recall(0), Add(3))
    body = b"\0" + VECTOR + b"\5" + RELU + RELU6 + ADD + b"\1" + RECALL + b"\3" + ADD + b"\1"
    data = wrapped(2, body)
    assert encode(StoredNetwork(Architecture((4,), layers), {}), version=1) == data
    assert decode(data).architecture.layers == layers


@pytest.mark.parametrize("layer", [Add(0), Recall(0), Activation("relu6")], ids=describe)
def test_version_2_is_written_for_what_needs_it_and_for_nothing_else(layer: Layer) -> None:
    for layers, version in (((Flatten(), layer), 2), ((Flatten(), Activation("relu")), 1)):
        assert encode(StoredNetwork(Architecture((4,), layers), {}), version=1)[3] == version


IMAGES = b"\3\1" + varint(2048) * 2  # one channel of 2²² pixels
MALFORMED: dict[str, tuple[int, bytes, str]] = {
    "flags": (2, b"\x80" + VECTOR + b"\1" + RELU6, "the header has flags 10000000, known are"),
    "no flags": (2, b"", "the file ends inside its header, where its flags was expected"),
    "needless version": (2, b"\0" + VECTOR + b"\1" + RELU, "format version 2, but uses nothing that needs it"),
    "add in version 1": (1, VECTOR + b"\2" + RELU + ADD + b"\1", "layer 1 has unknown kind 1 of code 6"),
    "relu6 in version 1": (1, VECTOR + b"\1" + RELU6, "layer 0 has unknown kind 3 of code 6"),
    "unknown kind": (2, b"\0" + VECTOR + b"\1\x46", "layer 0 has unknown kind 4 of code 6"),
    "last kind": (2, b"\0" + VECTOR + b"\1\xf6", "layer 0 has unknown kind 15 of code 6"),
    "first layer": (2, b"\0" + VECTOR + b"\1" + ADD + b"\1", "a reference in the header exceeds the limit 0"),
    "to itself": (2, b"\0" + VECTOR + b"\2" + RELU + ADD + b"\0", "a reference in the header is 0, at least 1"),
    "before the input": (2, b"\0" + VECTOR + b"\2" + RELU + RECALL + b"\2", "a reference in the header exceeds the"),
    "long distance": (2, b"\0" + VECTOR + b"\2" + RELU + RECALL + b"\x81\0", "not written in its one canonical form"),
    "endless distance": (2, b"\0" + VECTOR + b"\2" + RELU + ADD + b"\xff" * 20, "a reference in the header exceeds"),
    "other shape": (2, b"\0\2\2\3\2" + FLAT + ADD + b"\1", r"layer 1 \(Add\(source=0\)\) expects the shape \(2, 3\)"),
    "kept": (
        2,
        b"\0" + IMAGES + b"\x0a" + RELU * 5 + b"".join(ADD + bytes([2 * k + 1]) for k in range(5)),
        "keeps 20971520 numbers of earlier layers at once, limit 16777216",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_references(case: str) -> None:
    version, body, message = MALFORMED[case]
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            decode(wrapped(version, body))
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
