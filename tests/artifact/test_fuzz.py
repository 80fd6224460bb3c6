"""Whatever the bytes are, a reader gives back the network that is written in exactly them, or says what is wrong."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyro_compress.artifact.format.decode_weights import decode_any
from pyro_compress.errors import ArtifactError
from tests.artifact import fuzzing

GOLDEN = sorted((Path(__file__).parent / "golden").glob("**/*.pyrc"))
MUTATIONS = 6_000
MANY = 24_000
MEASURED_EVERY = 50


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_are_written_again_in_the_same_bytes(path: Path) -> None:
    assert fuzzing.outcome(path.read_bytes()) == fuzzing.ACCEPTED


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_no_single_flipped_bit_is_accepted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for position in range(8 * len(data)):
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            decode_any(bytes(data))
        data[position // 8] ^= 1 << position % 8


def test_small_files_and_their_parts() -> None:
    """They are valid, and the fields that mutations change are all of the header."""
    for data in fuzzing.small_files():
        assert fuzzing.outcome(data) == fuzzing.ACCEPTED
        assert fuzzing.joined(fuzzing.parts_of(data)) == data


@pytest.mark.parametrize("count", [MUTATIONS, pytest.param(MANY, marks=pytest.mark.nightly)])
def test_mutated_files(count: int) -> None:
    """Half of them are damaged and never accepted; the others reach every part of the reader, and some are valid."""
    refusals: Counter[str] = Counter()
    repaired_files = 0
    for index in range(count):
        data, repaired = fuzzing.mutated(fuzzing.small_files(), Random(index))
        answer = fuzzing.outcome(data)
        assert repaired or answer != fuzzing.ACCEPTED, index
        repaired_files += repaired
        refusals[answer.partition(".")[0]] += repaired
        if index % MEASURED_EVERY == 0:
            assert fuzzing.peak_bytes(data) <= fuzzing.stated_bytes(data), index
    assert 0.48 < repaired_files / count < 0.52
    for part in ("header_reader", "header", "stream", "decode", "weights_header", fuzzing.ACCEPTED):
        assert refusals[part] > count / 200, refusals
    for part in ("weight_names", "decode_weights"):
        assert refusals[part] > count / 2000, refusals


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_mutations_that_hypothesis_chooses(random: Random) -> None:
    data, repaired = fuzzing.mutated(fuzzing.small_files(), random)
    assert fuzzing.outcome(data) != fuzzing.ACCEPTED or repaired
    assert fuzzing.peak_bytes(data) <= fuzzing.stated_bytes(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
@example(b"")
@example(b"\0\0")
def test_any_body_in_an_intact_container(body: bytes) -> None:
    data = fuzzing.wrapped(body)
    fuzzing.outcome(data)
    assert fuzzing.peak_bytes(data) <= fuzzing.stated_bytes(data)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    assert fuzzing.outcome(data) != fuzzing.ACCEPTED
