"""Bytes that are not a valid file end in an ArtifactError with a sentence, and take neither memory nor time."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest

from pyro_compress.artifact.format.container import MAX_NOTE, contained, write_note
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Layer, Linear, Select
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import networks
from tests.artifact.fuzzing import wrapped


def body_of(data: bytes) -> bytes:
    start = 4 + next(i for i in range(5) if data[4 + i] < 128) + 1
    assert wrapped(data[start:-4]) == data
    return data[start:-4]


@pytest.fixture(scope="module")
def valid() -> bytes:
    return encode(networks.conv())


def test_truncated_at_every_byte(valid: bytes) -> None:
    for length in range(len(valid)):
        with pytest.raises(ArtifactError, match=r"truncated|not a compressed network: the file starts with b''"):
            decode(valid[:length])


def test_every_flipped_bit(valid: bytes) -> None:
    for position in range(8 * len(valid)):
        damaged = bytearray(valid)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            decode(bytes(damaged))


def test_flipped_bits_with_repaired_checksum(valid: bytes) -> None:
    """No damage may end in anything but an ArtifactError; some gives another valid network."""
    body, refused = body_of(valid), 0
    for position in range(0, 8 * len(body), 7):
        damaged = bytearray(body)
        damaged[position // 8] ^= 1 << position % 8
        try:
            decode(wrapped(bytes(damaged)))
        except ArtifactError:
            refused += 1
    assert refused > 20


def test_body_truncated_with_repaired_container(valid: bytes) -> None:
    """What is left may by chance be the stream of another network, but never of the same one."""
    body, same, refused = body_of(valid), decode(valid).tensors, 0
    for length in range(0, len(body), 3):
        try:
            found = decode(wrapped(body[:length])).tensors
        except ArtifactError:
            refused += 1
        else:
            assert not all(found[name].equals(tensor) for name, tensor in same.items())
    assert refused > len(body) / 4


def test_wrong_magic(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"not a compressed network: the file starts with b'QYR\\x01', b'PYR' was"):
        decode(b"Q" + valid[1:])


@pytest.mark.parametrize("version", [0, 2, 3, 255])
def test_another_version(valid: bytes, version: int) -> None:
    """Refused for its version, whatever its checksum is."""
    for data in (valid[:3] + bytes([version]) + valid[4:], wrapped(body_of(valid), version)):
        with pytest.raises(ArtifactError, match=f"has format version {version}, this program reads version 1: update"):
            decode(data)


def test_damaged_checksum(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match="damaged: its checksum is"):
        decode(valid[:-1] + bytes([valid[-1] ^ 1]))


@pytest.fixture(scope="module")
def noted(valid: bytes) -> bytes:
    return contained(body_of(valid), write_note({"classes": ["cat", "dog"], "licence": "MIT"}))


def test_files_with_a_note_truncated_at_every_byte(noted: bytes) -> None:
    for length in range(len(noted)):
        with pytest.raises(ArtifactError, match=r"truncated|damaged|the file starts with b''"):
            decode(noted[:length])


def test_every_flipped_bit_of_a_file_with_a_note(noted: bytes) -> None:
    for position in range(8 * len(noted)):
        damaged = bytearray(noted)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            decode(bytes(damaged))


@pytest.mark.parametrize(
    ("note", "sentence"),
    [
        (b"[1, 2]", "no JSON object with entries"),
        (b"{}", "no JSON object with entries"),
        (b"{'a': 1}", "is not JSON in UTF-8"),
        (b'{"a": 1, "a": 2}', "a key is there twice"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8"),
        (b'{"a": ' + b"[" * 60_000, "is not JSON in UTF-8"),
        (b'{"a": "' + b"x" * MAX_NOTE + b'"}', f"a note has 1 to {MAX_NOTE} bytes"),
    ],
)
def test_notes_that_are_none(valid: bytes, note: bytes, sentence: str) -> None:
    with pytest.raises(ArtifactError, match=sentence):
        decode(contained(body_of(valid), note))


def test_bytes_behind_a_note(noted: bytes) -> None:
    with pytest.raises(ArtifactError, match="2 bytes stand behind the end"):
        decode(noted + b"ab")


def test_bytes_behind_the_end(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match="3 bytes stand behind the end"):
        decode(valid + b"abc")


@pytest.mark.parametrize("extra", [b"\0", b"\1", b"\0\0\0\0"])
def test_bytes_behind_the_stream(valid: bytes, extra: bytes) -> None:
    with pytest.raises(ArtifactError, match="holds other or more bytes than its numbers need"):
        decode(wrapped(body_of(valid) + extra))


def test_length_in_more_bytes_than_needed(valid: bytes) -> None:
    body = body_of(valid)
    data = valid[:4] + bytes([len(body) & 127 | 128, len(body) >> 7 | 128, 0]) + body
    with pytest.raises(ArtifactError, match="length at the start of the file is not written as"):
        decode(data + zlib.crc32(data).to_bytes(4, "little"))


def test_endless_length() -> None:
    with pytest.raises(ArtifactError, match="length at the start of the file is not written as"):
        decode(b"PYR\x01" + b"\xff" * 20)


def tensor(shape: tuple[int, ...], largest: int = 1) -> StoredTensor:
    return StoredTensor(np.full(shape, largest, np.int32))


def network_with(*layers: Layer, weight: StoredTensor | None = None, shape: tuple[int, ...] = (4,)) -> StoredNetwork:
    """Layers of which the first holds the one weight, if any does."""
    name = getattr(layers[0], "name", "")
    return StoredNetwork(Architecture(shape, layers), {f"{name}.weight": weight} if weight else {})


REFUSED: dict[str, tuple[Callable[[], StoredNetwork], str]] = {
    "huge integers": (
        lambda: network_with(Linear("a", 4, 2, False), weight=tensor((2, 4), 2**24 + 1)),
        "tensor a.weight holds integers beyond",
    ),
    "unsorted selection": (lambda: network_with(Select((2, 1))), "indices must increase strictly"),
    "negative selection": (lambda: network_with(Select((-1, 1))), "indices must increase strictly"),
    "shapes": (
        lambda: network_with(Linear("a", 3, 1, False), weight=tensor((1, 3))),
        r"does not fit together: layer 0 .* expects a vector of 3, but \(4,\) reaches it",
    ),
    "unknown activation": (lambda: network_with(Activation("swoosh")), "unknown activation 'swoosh': known are"),
    "infinite slope": (lambda: network_with(Activation("elu", float("inf"))), "slope of a elu layer is inf"),
    "other layers of one name": (
        lambda: network_with(
            Conv2d("a", 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1, False),
            Conv2d("a", 1, 1, (1, 1), (2, 2), (0, 0), (1, 1), 1, False),
            shape=(1, 4, 4),
            weight=tensor((1, 1, 1, 1)),
        ),
        r"two layers of one name are Conv2d\(name=a, .*stride=\(1, 1\).* and Conv2d\(name=a, .*stride=\(2, 2\)",
    ),
    "negative padding": (
        lambda: network_with(
            Conv2d("a", 1, 1, (1, 1), (1, 1), (-1, -1), (1, 1), 1, False),
            shape=(1, 4, 4),
            weight=tensor((1, 1, 1, 1)),
        ),
        "the format cannot hold this network",
    ),
    "name without UTF-8": (
        lambda: network_with(Linear("\ud800", 4, 1, False), weight=tensor((1, 4))),
        "the format cannot hold this network",
    ),
    "a code of images": (
        lambda: StoredNetwork(Architecture((1, 4, 4), (), InputCode("gaussian")), {}),
        r"a gaussian code is a vector of at least 1 numbers, and the input has the shape \(1, 4, 4\)",
    ),
    "too many layers": (lambda: network_with(*[Flatten()] * 1025), "number of layers in the header exceeds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_the_format_cannot_hold(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ArtifactError, match=message):
        encode(make())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_float32_numbers_that_are_not_finite(wrong: float) -> None:
    network = networks.dense()
    held = network.tensors["fc2.weight"].dense()
    body = body_of(encode(network))
    start = body.index(held.astype("<f4").tobytes())
    broken = body[: start + 8] + np.array(wrong, "<f4").tobytes() + body[start + 12 :]
    with pytest.raises(ArtifactError, match=r"tensor fc2\.weight holds NaN or infinite values"):
        decode(wrapped(broken))
    spoilt = held.copy()
    spoilt.ravel()[2] = wrong
    with pytest.raises(ArtifactError, match=r"tensor fc2\.weight holds NaN or infinite values"):
        encode(StoredNetwork(network.architecture, {**network.tensors, "fc2.weight": StoredTensor(floats=spoilt)}))
