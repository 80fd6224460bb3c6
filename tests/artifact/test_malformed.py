"""Bytes that are not a valid file end in an ArtifactError with a sentence, and take neither memory nor time."""

import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Activation, Architecture, Conv2d, Flatten, Layer, Linear, Select
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import networks

ONE = bytes([1, 1])


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def wrapped(body: bytes, version: int = 1) -> bytes:
    """A body in an intact container: magic, version, right length, right checksum."""
    data = b"PYR" + bytes([version]) + varint(len(body)) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def body_of(data: bytes) -> bytes:
    start = 4 + next(i for i in range(5) if data[4 + i] < 128) + 1
    assert wrapped(data[start:-4], data[3]) == data
    return data[start:-4]


@pytest.fixture(scope="module", params=[1, 3])
def valid(request: pytest.FixtureRequest) -> bytes:
    return encode(networks.conv(), version=request.param)


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
            decode(wrapped(bytes(damaged), valid[3]))
        except ArtifactError:
            refused += 1
    assert refused > 20


def test_body_truncated_with_repaired_container(valid: bytes) -> None:
    """What is left may by chance be the stream of another network, but never of the same one."""
    body, same, refused = body_of(valid), decode(valid).tensors, 0
    for length in range(0, len(body), 3):
        try:
            found = decode(wrapped(body[:length], valid[3])).tensors
        except ArtifactError:
            refused += 1
        else:
            assert not all(found[name].equals(tensor) for name, tensor in same.items())
    assert refused > len(body) / 4


def test_wrong_magic(valid: bytes) -> None:
    with pytest.raises(
        ArtifactError, match=r"not a compressed network: the file starts with b'QYR\\x0[13]', b'PYR' was"
    ):
        decode(b"Q" + valid[1:])


def test_newer_version(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match="format version 4, this program reads 1 to 3"):
        decode(valid[:3] + b"\4" + valid[4:])


def test_damaged_checksum(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match="damaged: its checksum is"):
        decode(valid[:-1] + bytes([valid[-1] ^ 1]))


def test_bytes_behind_the_end(valid: bytes) -> None:
    with pytest.raises(ArtifactError, match="3 bytes stand behind the end"):
        decode(valid + b"abc")


@pytest.mark.parametrize("extra", [b"\0", b"\1", b"\0\0\0\0"])
def test_bytes_behind_the_stream(valid: bytes, extra: bytes) -> None:
    with pytest.raises(ArtifactError, match="holds other or more bytes than its numbers need"):
        decode(wrapped(body_of(valid) + extra, valid[3]))


def test_length_in_more_bytes_than_needed(valid: bytes) -> None:
    body = body_of(valid)
    data = valid[:4] + bytes([len(body) & 127 | 128, len(body) >> 7 | 128, 0]) + body
    with pytest.raises(ArtifactError, match="length at the start of the file is not written as"):
        decode(data + zlib.crc32(data).to_bytes(4, "little"))


def test_endless_length() -> None:
    with pytest.raises(ArtifactError, match="length at the start of the file is not written as"):
        decode(b"PYR\x01" + b"\xff" * 20)


FLAT = ONE + varint(4) + b"\0"
LINEAR = bytes([0x00])
MALFORMED_HEADERS: dict[str, tuple[bytes, str]] = {
    "rank": (varint(9), "input rank in the header exceeds the limit 8"),
    "extent": (varint(1) + varint(2**22 + 1), "input extent in the header exceeds the limit"),
    "input": (varint(2) + varint(2**12) * 2, "declares an input of 16777216 numbers"),
    "endless number": (varint(1) + b"\x80" * 30, "input extent in the header exceeds the limit"),
    "image side": (varint(1) + varint(10) + varint(3), "10 inputs are not square images of side 3"),
    "layers": (varint(1) + varint(4) + b"\0" + varint(1025), "number of layers in the header exceeds the limit 1024"),
    "outputs": (varint(1) + varint(4) + b"\0\1" + LINEAR + varint(2**40), "out_features in the header exceeds"),
    "numbers": (
        varint(1) + varint(2**22) + b"\0\1" + LINEAR + varint(2**22) + b"\1\x1f",
        "declares at least 17592186044416 numbers, limit 134217728",
    ),
    "selected": (varint(1) + varint(4) + b"\0\1\7" + varint(5), "number of selected entries in the header exceeds"),
    "selections": (
        varint(1) + varint(2**22) + b"\0" + varint(40) + (b"\7" + varint(2**22)) * 40,
        r"Select\(0 indices\) has 4194304 places, limit 4194304, 16777216 in all",
    ),
    "outputs without numbers": (
        varint(1) + b"\0\0" + varint(20) + (LINEAR + varint(2**22) + b"\1\x1f" + LINEAR + b"\0\1\x1f") * 10,
        r"Linear\(name=8, in_features=0, out_features=4194304, bias=False\) has 4194304 places",
    ),
    "kernel without filters": (
        varint(3) + b"\1" + varint(2**11) * 2 + b"\1" + b"\x41\0" + varint(2**13) + varint(2**13) + b"\1\x1f",
        "has 16777216 places, limit 4194304",
    ),
    "stride": (varint(3) + b"\1\4\4\1" + b"\x21\1\4\0\1\1\0", "stride in the header is 0, at least 2"),
    "groups of nothing": (varint(3) + b"\1\4\4\1" + b"\x81\1\4\2\0\1", "groups in the header is 0, at least 1"),
    "groups": (varint(3) + b"\3\4\4\1" + b"\x81\4\4\2\2\1", "from 3 to 4 channels cannot have 2 groups"),
    "kernel": (varint(3) + b"\1\4\4\1" + b"\1\1" + varint(18) + b"\1\x1f", "does not fit together: layer 0 .* kernel"),
    "linear on an image": (varint(3) + b"\1\4\4\1" + LINEAR + b"\1\1\x1f", "does not fit together"),
    "flattened": (
        varint(3) + b"\1\4\4\2" + b"\5" + varint(2 * 2**12) + b"\6",
        "gives 16777216 features, more than 4194304",
    ),
    "unused flag": (varint(1) + varint(4) + b"\0\1" + b"\x20\1\1\x1f", "not written in its one canonical form"),
    "long number": (varint(1) + b"\x84\0" + b"\0\0", "not written in its one canonical form"),
    "slope": (varint(1) + varint(4) + b"\0\1\x19" + np.float64("nan").tobytes(), "slope of a leaky_relu layer is nan"),
    "name that is no text": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\0\1\xff\0\x1f", "name is not UTF-8"),
    "long name": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\0" + varint(256), "exceeds the limit 255"),
    "two layers of one name": (
        varint(1) + varint(4) + b"\0\2" + LINEAR + b"\1\x40\x1f" + LINEAR + b"\1\x40\x1f",
        "two layers named ''",
    ),
    "unknown tensor": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\1\x3e", "weight has unknown kind 62"),
    "grid step": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\1\x9f\x80", "grid step 2\\*\\*64, beyond"),
    "magnitude": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\1\0\x38", "magnitude token 56, the last is 55"),
    "missing floats": (varint(1) + varint(4) + b"\0\1" + LINEAR + b"\1\1\x1e" + b"abc", "16 bytes expected, 3 left"),
    "numbers without bytes": (
        varint(1) + varint(2**22) + b"\0\1" + LINEAR + varint(32) + b"\1\x1d\0" + b"\x80",
        "declares 134217728 coded numbers, more than its 1 bytes can hold",
    ),
    "select of a number": (b"\0\1\7\0", "selects entries of an input without axes"),
}


@pytest.mark.parametrize("case", MALFORMED_HEADERS)
def test_malformed_header(case: str) -> None:
    """Refused with a sentence, and before memory is taken for what the header declares."""
    body, message = MALFORMED_HEADERS[case]
    data = wrapped(body)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            decode(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000


def test_selection_of_another_size() -> None:
    """A stream that selects five entries under a header that says six."""
    network = StoredNetwork(Architecture((9,), (Select((0, 2, 3, 5, 8)),)), {})
    body = bytearray(body_of(encode(network, version=1)))
    assert body[:6] == b"\1\x09" + body[2:3] + b"\1\7\5"
    body[5] = 6
    with pytest.raises(ArtifactError, match=r"selection holds|other or more bytes"):
        decode(wrapped(bytes(body)))


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
    "float32 with a step": (
        lambda: network_with(
            Linear("a", 4, 1, False), weight=StoredTensor(floats=np.ones((1, 4), np.float32), step_exponent=3)
        ),
        "float32 and has a step exponent, 3",
    ),
    "unsorted selection": (lambda: network_with(Select((2, 1))), "indices must increase strictly"),
    "negative selection": (lambda: network_with(Select((-1, 1))), "indices must increase strictly"),
    "shapes": (
        lambda: network_with(Linear("a", 3, 1, False), weight=tensor((1, 3))),
        r"does not fit together: layer 0 .* expects a vector of 3, but \(4,\) reaches it",
    ),
    "unknown activation": (lambda: network_with(Activation("swoosh")), "unknown activation 'swoosh': known are"),
    "infinite slope": (lambda: network_with(Activation("elu", float("inf"))), "slope of a elu layer is inf"),
    "tied layers": (
        lambda: network_with(Linear("a", 4, 4, False), Linear("a", 4, 4, False), weight=tensor((4, 4))),
        "two layers named 'a'",
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
    "too many layers": (lambda: network_with(*[Flatten()] * 1025), "number of layers in the header exceeds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_the_format_cannot_hold(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ArtifactError, match=message):
        encode(make())


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_float32_numbers_that_are_not_finite(version: int, wrong: float) -> None:
    network = networks.dense()
    held = network.tensors["fc2.weight"].dense()
    body = body_of(encode(network, version=version))
    start = body.index(held.astype("<f4").tobytes())
    broken = body[: start + 8] + np.array(wrong, "<f4").tobytes() + body[start + 12 :]
    with pytest.raises(ArtifactError, match=r"tensor fc2\.weight holds NaN or infinite values"):
        decode(wrapped(broken, version))
    spoilt = held.copy()
    spoilt.ravel()[2] = wrong
    with pytest.raises(ArtifactError, match=r"tensor fc2\.weight holds NaN or infinite values"):
        encode(StoredNetwork(network.architecture, {**network.tensors, "fc2.weight": StoredTensor(floats=spoilt)}))
