"""Version 3: its header by hand, codebooks that pay, and each way in which a header in bits can be malformed."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.analysis.decisions.weight_sharing import weight_sharing
from pyro_compress.artifact.format.codebook import codebook_of, levels_at, places_in
from pyro_compress.artifact.format.decode import decode, unwrap
from pyro_compress.artifact.format.header_bits import header_reader
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode, encode_with
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Activation, Linear
from tests.artifact import fuzzing, networks
from tests.artifact.test_rate_distortion import ARCHITECTURE, decision


def header(*digits: str) -> bytes:
    """Bits, spaces for the eye, as bytes."""
    joined = "".join(digits).replace(" ", "")
    return int(joined + "0" * (-len(joined) % 8), 2).to_bytes(-(-len(joined) // 8), "big")


def number(value: int, order: int) -> str:
    return fuzzing.bit_number(value, order).decode()


VECTOR = "0" + number(1, 2) + number(4, 4) + number(0, 4)  # no flags, rank 1, 4 numbers, no image
LINEAR = VECTOR + number(1, 4) + "0000 0" + number(2, 4) + "1"  # one dense layer fc1, 4 → 2, no bias


def test_a_header_by_hand() -> None:
    layers = (Linear("fc1", 4, 2, False), Activation("relu"), Linear("fc2", 2, 2, False))
    network = networks.filled((4,), layers)
    network.tensors["fc1.weight"].integers[:] = 0  # type: ignore[index]
    network.tensors["fc2.weight"].integers[:] = 0  # type: ignore[index]
    expected = VECTOR + number(3, 4) + "0000 0" + number(2, 4) + "1" + "010" + number(7, 0)  # all zero, e = 0 - 4
    expected += "1000 0" + "0000 0" + number(2, 4) + "1" + "010" + "1"  # relu; fc2, all zero, the same e
    data = encode(network)
    assert unwrap(data) == header(expected)
    networks.assert_same(decode(data), network)


BOOK = number(3, 0) + "1" + number(0, 2) + "00" + number(0, 2)  # codebook, e = 0, density 7/8, strength 1, tokens 0
MALFORMED: dict[str, tuple[str, str]] = {
    "ends": (VECTOR[:4], "ends inside its header, where input extent was expected"),
    "endless zeros": ("0" + "0" * 400, "input rank in the header exceeds the limit 8"),
    "rank": ("0" + number(9, 2), "input rank in the header exceeds the limit 8"),
    "extent": ("0" + number(1, 2) + number(2**22 + 1, 4), "input extent in the header exceeds the limit"),
    "layers": (VECTOR + number(1025, 4), "number of layers in the header exceeds the limit 1024"),
    "kind": (LINEAR + number(4, 0), "a tensor's kind in the header exceeds the limit 3"),
    "step": (LINEAR + number(0, 0) + number(128, 0), "has grid step 2\\*\\*64, beyond"),
    "step below": (LINEAR + number(1, 0) + number(255, 0), "has grid step 2\\*\\*-128, beyond"),
    "density": (LINEAR + number(0, 0) + "1" + number(30, 2), "a tensor's density in the header exceeds the limit 29"),
    "token": (
        LINEAR + number(0, 0) + "1" + number(0, 2) + "00" + number(56, 2),
        "magnitude token .* exceeds the limit",
    ),
    "no levels": (LINEAR + BOOK + number(0, 2) * 2, "the codebook of fc1.weight has 0 levels for 8 numbers"),
    "many levels": (LINEAR + BOOK + number(4, 2) + number(5, 2), "has 9 levels for 8 numbers"),
    "too many levels": (LINEAR + BOOK + number(256, 2), "a codebook in the header exceeds the limit 255"),
    "large level": (
        LINEAR + BOOK + number(0, 2) + number(2, 2) + "1111" + number(2**24 - 1, 15) * 2,
        "holds integers beyond ±16777216",
    ),
    "order of gaps": (LINEAR + BOOK + number(0, 2) + number(1, 2) + "1111" + number(0, 15), "one canonical form"),
    "expected name written": (
        VECTOR + number(1, 4) + "0000 0" + number(2, 4) + "0" + number(64 + 6 + 2, 4) + "010" + "1",
        "one canonical form",
    ),
    "filling": (LINEAR + "010" + "1" + "0" * 4 + "1", "one canonical form"),
    "bytes behind": (LINEAR + "010" + "1" + "0" * 24, "other or more bytes than its numbers need"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers(case: str) -> None:
    """Refused with a sentence, and before memory is taken for what the header declares."""
    digits, message = MALFORMED[case]
    data = fuzzing.wrapped(header(digits), 3)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_places_in_a_codebook() -> None:
    integers = np.array([[5, 0, -9], [5, 700, -2]], np.int32).repeat(9, axis=0)
    book = codebook_of(integers)
    assert book == (-9, -2, 5, 700)
    places = places_in(integers, book)
    assert places[[0, -1]].tolist() == [[1, 0, -2], [1, 2, -1]]
    np.testing.assert_array_equal(levels_at(places, book), integers, strict=True)
    with pytest.raises(ArtifactError, match="a place that is not in its codebook"):
        levels_at(places + 1, book)
    with pytest.raises(ArtifactError, match="holds numbers that do not occur"):
        levels_at(np.minimum(places, 1), book)
    assert codebook_of(np.arange(-3, 4, dtype=np.int32).repeat(9)) == ()  # nothing is left out
    assert codebook_of(np.arange(0, 900, 3, dtype=np.int32)) == ()  # as many levels as numbers


def test_the_encoder_takes_a_codebook_where_it_is_smaller() -> None:
    network = networks.levels()
    data = encode(network)
    codes = header_reader(unwrap(data), 3).header().codes
    assert codes["fc1.weight"].codebook == (-217, -50, 60, 1025) and not codes["fc1.bias"].codebook
    plain = header_reader(unwrap(encode(network)), 3).header()
    plain.layers = list(network.architecture.layers)
    for name, code in plain.codes.items():
        top = {"fc1.weight": 29, "fc2.weight": 31}.get(name, code.top_token)
        plain.codes[name] = replace(code, codebook=(), top_token=top)
    longer = encode_with(plain, network)
    networks.assert_same(decode(longer), network)
    assert len(data) < 0.7 * len(longer)


def test_a_decision_with_shared_weights_is_stored_as_a_codebook_and_runs() -> None:
    network = remove_dead(ARCHITECTURE, weight_sharing(decision(), 6))
    artifact = Artifact.of(network)
    codes = header_reader(unwrap(artifact.data), 3).header().codes
    assert 0 < len(codes["fc1.weight"].codebook) <= 6
    x = np.random.default_rng(0).normal(size=(5, 150)).astype(np.float32)
    expected = artifact.to_torch()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(forward(artifact.network)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_level_that_no_number_has() -> None:
    network = networks.levels()
    data = encode(network)
    found = header_reader(unwrap(data), 3).header()
    found.layers = list(network.architecture.layers)
    code = found.codes["fc1.weight"]
    found.codes["fc1.weight"] = replace(code, codebook=(*code.codebook, 2000))
    with pytest.raises(ArtifactError, match="a codebook holds numbers that do not occur"):
        decode(encode_with(found, network))
