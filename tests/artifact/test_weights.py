"""Files of weights: they come back bit for bit, for ever, in both readers; what is wrong with them is said."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from pyro_compress.artifact.format.container import unwrap
from pyro_compress.artifact.format.decode import NO_LAYERS, decode
from pyro_compress.artifact.format.decode_weights import decode_weights, decode_weights_sections
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.header_writer import HeaderWriter
from pyro_compress.artifact.format.weight_names import Names
from pyro_compress.artifact.format.weights_header import columns_of
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.encode_weights import encode_weights
from pyro_compress.errors import ArtifactError
from pyro_compress.network.layers import Conv2d, Flatten, Linear
from pyro_compress.network.quantizers import PerChannel, Uniform, power_of_two
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import StoredWeights, WeightTensor, as_bfloat16
from tests.artifact import networks, specified, specified_weights, weights
from tests.artifact.fuzzing import packed, wrapped
from tests.artifact.header_digits import number, text

GOLDEN = Path(__file__).parent / "golden" / "weights"
MARK = "00010000"
ZEROS = "010 1"  # all zero, e = 0


def assert_second_reader_agrees(held: StoredWeights, data: bytes) -> None:
    second = specified_weights.decode(data)
    assert list(second) == list(held.tensors)
    for name, tensor in held.tensors.items():
        assert second[name].type == tensor.dtype
        np.testing.assert_array_equal(second[name].numbers, tensor.numbers(), strict=True)
        assert (second[name].integers is None) == (tensor.integers is None)
        if tensor.integers is not None:
            np.testing.assert_array_equal(second[name].integers, tensor.integers)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(weights.stored_weights())
def test_random_weights_come_back_in_both_readers_and_encode_to_the_same_bytes(held: StoredWeights) -> None:
    data = encode_weights(held)
    found = decode_weights(data)
    assert found.same_as(held)
    assert encode_weights(found) == data
    assert_second_reader_agrees(held, data)


def test_the_golden_file_holds_the_same_weights_for_ever() -> None:
    data, held = (GOLDEN / "every_form.pyrc").read_bytes(), weights.every_form()
    assert decode_weights(data).same_as(held)
    assert encode_weights(held) == data
    assert_second_reader_agrees(held, data)


def test_every_part_is_accounted_for() -> None:
    held = weights.every_form()
    data = encode_weights(held)
    found, sections = decode_weights_sections(data)
    assert found.same_as(held)
    assert sum(section.file_bytes for section in sections) == pytest.approx(len(data))
    assert [section.name for section in sections] == ["container", "header", *(name for name, _ in held.single())]
    by_name = {section.name: section for section in sections}
    assert by_name["conv1.bias"].file_bytes == 16 and by_name["bn1.running_var"].file_bytes == 8
    assert by_name["far"].file_bytes == 16 and by_name["half.weight"].file_bytes == 12
    assert by_name["nothing"].file_bytes == 0
    assert by_name["wte.weight"].shape == (11, 6) and "head.weight" not in by_name


def test_tied_tensors_are_stored_once() -> None:
    table = weights.on_grid((50, 40), power_of_two(-5))
    once = len(encode_weights(StoredWeights({"wte.weight": table})))
    twice = StoredWeights({"wte.weight": table, "head.weight": table})
    copied = StoredWeights({"wte.weight": table, "head.weight": weights.on_grid((50, 40), power_of_two(-5))})
    assert len(encode_weights(twice)) - once < 12 < len(encode_weights(copied)) - once
    found = decode_weights(encode_weights(twice)).tensors
    assert found["wte.weight"] is found["head.weight"]


NAMES = [
    (["weight"], "10 11 110"),
    (["fc1.weight", "fc1.bias"], f"10 0100 100 111 {text(b'fc1')} 110   11 11 111"),
    (["conv1.bias", "conv3.bias"], f"10 0100 100 01001 {text(b'conv1')} 111   10 0100 101 010 111"),
    (["a.0", "a.1", "a"], f"10 0100 100 101 {text(b'a')} 100 101 {text(b'0')}   11 11 101 1   11 10"),
    (["b.running_mean", "b"], f"10 0100 100 101 {text(b'b')} 01000   11 10"),
]


@pytest.mark.parametrize(("names", "digits"), NAMES, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_names_in_bits(names: list[str], digits: str) -> None:
    """By hand from FORMAT.md, 2.6: shared parts, parts that are left, and each of these."""
    digits = digits.replace(" ", "")
    writer, ours = HeaderWriter(), Names()
    for name in names:
        ours.write(writer, name)
    assert writer.count == len(digits) and writer.filled() == packed(digits)
    reader, again, second = HeaderReader(packed(digits)), Names(), specified_weights.NameReader()
    bits = specified.Bits(packed(digits))
    for name in names:
        assert again.read(reader) == second.read(bits) == name


def test_a_matrix_whose_columns_are_images_is_stored_with_their_side() -> None:
    """As the network's own file finds it from the layers, to a few bytes."""
    random = np.random.default_rng(0)
    integers = np.zeros((40, 3, 16, 16), np.int32)
    for unit in integers:
        y, x = random.integers(0, 12, 2)
        unit[:, y : y + 5, x : x + 5] = random.integers(1, 4) * random.choice([-1, 1])
    flat = WeightTensor("float32", StoredTensor(integers.reshape(40, 768).astype(np.int32), power_of_two(-4)))
    shuffled = WeightTensor("float32", StoredTensor(flat.integers[:, random.permutation(768)], power_of_two(-4)))  # type: ignore[index]
    sizes = [len(encode_weights(StoredWeights({"fc.weight": tensor}))) for tensor in (flat, shuffled)]
    assert sizes[0] < 0.5 * sizes[1]
    network = networks.filled((3, 16, 16), (Flatten(), Linear("fc1", 768, 40, False)))
    network.tensors["fc1.weight"] = StoredTensor(flat.integers, power_of_two(-4))
    assert abs(len(encode(network)) - sizes[0]) <= 8


def test_filters_are_spatial_as_those_of_a_convolution() -> None:
    layers = (Conv2d("conv1", 8, 16, (5, 5), (1, 1), (0, 0), (1, 1), 1, False),)
    network = networks.filled((8, 9, 9), layers)
    held = StoredWeights({"conv1.weight": WeightTensor("float32", network.tensors["conv1.weight"])})
    assert abs(len(encode_weights(held)) - len(encode(network))) <= 8
    columns = columns_of((4, 3, 7))
    assert columns.channel.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert columns.x.tolist() == list(range(7)) * 3 and not columns.y.any()


def body(*tensors: str, count: int | None = None) -> bytes:
    """A file of tensors given as bits, without numbers and stream."""
    return wrapped(packed(MARK + number(len(tensors) if count is None else count) + "".join(tensors)))


def named(name: str) -> str:
    """A name of one part that is spelled, after none."""
    return "10 11 100" + number(len(name), 2) + text(name.encode())


def shaped(*extents: int) -> str:
    """A type of float32 and a shape with no extent of 1 in front."""
    digits = "1" + number(len(extents), 2)
    for axis, extent in enumerate(extents):
        digits += "0" + number(extent) if axis < 2 else number(extent, 2)
    return digits


CODED = "1 1 100 00 100"  # integers, e = 0, the densest, no token
DAMAGED: dict[str, tuple[bytes, str]] = {
    "more tensors than there can be": (
        body(count=2**14 + 1),
        "number of tensors in the header exceeds the limit 16384",
    ),
    "ends in its header": (body(named("a") + shaped(2)[:3]), "ends inside its header"),
    "more parts shared than there are": (body("11"), "a tensor's name in the header exceeds the limit 0"),
    "counts on from nothing": (body("10 11 101 1"), "counts on where the name before has no part"),
    "a part of the list that is not there": (body("10 11" + number(9, 2)), "a part of a tensor's name in the header"),
    "not UTF-8": (body("10 11 100 101" + text(b"\xff")), "a tensor's name is not UTF-8"),
    "a long name": (body("10 0100" + ("100" + number(200, 2) + text(b"x" * 200)) * 2), "has more than 255 bytes"),
    "two of a name": (body(named("a") + shaped(2) + ZEROS, "11 10" + shaped(2) + ZEROS), "two tensors named 'a'"),
    "a part that the list has": (body("10 11 100" + number(6, 2) + text(b"weight") + shaped(2) + ZEROS), "canonical"),
    "unknown type": (body(named("a") + number(12, 0)), "a tensor's type in the header exceeds the limit 11"),
    "tied to nothing": (body(named("a") + number(11, 0)), "first tensor of the file is tied"),
    "tied to a tied one": (
        body(
            *(named("a") + shaped(2) + ZEROS, "10 11 100" + number(1, 2) + text(b"b") + number(11, 0) + "100"),
            "10 11 100" + number(1, 2) + text(b"c") + number(11, 0) + "100",
        ),
        "tied to 'b', which is tied",
    ),
    "more axes than there can be": (body(named("a") + "1" + number(9, 2)), "number of axes in the header exceeds"),
    "more numbers than there can be": (body(named("a") + shaped(2**14, 2**14)), "at least 268435456 numbers, limit"),
    "no numbers of too large a shape": (body(named("a") + shaped(2**14, 0, 2**14)), "at least 268435456 numbers"),
    "more columns than there can be": (body(named("a") + shaped(2, 2**23) + CODED + "1"), "has 8388608 columns, limit"),
    "an extent told though it is expected": (body(named("a") + shaped(1) + ZEROS), "canonical"),
    "a side of one": (body(named("a") + shaped(2, 4) + CODED + "010"), "4 columns of tensor a are not square images"),
    "a side that does not divide": (body(named("a") + shaped(2, 8) + CODED + number(4, 0)), "images of side 4"),
    "steps of no axis": (body(named("a") + "1 100 00101 01 010"), "tensor a has no axis, and a step"),
    "whole numbers with a form": (
        body(named("a") + number(5, 0) + "100 00101 00"),
        "whole numbers, which have no step",
    ),
    "float16 as integers": (body(named("a") + number(1, 0) + "100" + ZEROS), "stand as float16 numbers, and stands as"),
    "numbers that are not there": (body(named("a") + shaped(2) + "011"), "inside tensor a: 8 bytes expected, 0 left"),
    "a truth value of 2": (
        wrapped(packed(MARK + number(1) + named("a") + number(6, 0) + "101 1 011") + b"\2"),
        "a truth value is 0 or 1, found 2",
    ),
    "a step of NaN": (
        wrapped(packed(MARK + number(1) + named("a") + "1 101 1 00101 00 010") + b"\0\0\xc0\x7f"),
        "steps or levels of tensor a are NaN",
    ),
    "more coded numbers than the stream can hold": (
        body(named("a") + shaped(2**26) + CODED),
        "declares 67108864 coded numbers, more than its",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused_with_a_sentence(case: str) -> None:
    data, sentence = DAMAGED[case]
    with pytest.raises(ArtifactError, match=sentence):
        decode_weights(data)


REFUSED: dict[str, tuple[Callable[[], WeightTensor], str]] = {
    "huge integers": (
        lambda: WeightTensor("float32", StoredTensor(np.array([2**24 + 1], np.int32))),
        "beyond ±16777216",
    ),
    "nine axes": (
        lambda: weights.on_grid((1,) * 9, power_of_two(0), share_percent=100),
        "number of axes in the header",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_the_format_cannot_hold(case: str) -> None:
    make, sentence = REFUSED[case]
    with pytest.raises(ArtifactError, match=sentence):
        encode_weights(StoredWeights({"a": make()}))


@pytest.mark.parametrize("name", ["x" * 256, "\ud800"])
def test_names_that_the_format_cannot_hold(name: str) -> None:
    tensor = WeightTensor("float32", np.zeros(2, np.float32))
    with pytest.raises(ArtifactError, match="the format cannot hold these weights"):
        encode_weights(StoredWeights({name: tensor}))


def test_numbers_and_their_types_go_together() -> None:
    """Each is refused where it is made."""
    ones = np.ones(2, np.int32)
    wrong: list[tuple[str, StoredTensor | np.ndarray, str]] = [
        ("complex64", np.zeros(2, np.complex64), "no element type 'complex64'"),
        ("float64", np.zeros(2, np.float32), "float64 numbers are held as float32"),
        ("float64", np.zeros(2, np.float16), "float64 numbers are held as float16"),
        ("bfloat16", np.full(2, 0.1, np.float32), "not such as bfloat16 holds"),
        ("float32", StoredTensor(floats=np.zeros(2, np.float32)), "held as an array"),
        ("int8", StoredTensor(128 * ones), "int8 holds numbers from -128 to 127, found 0 to 128"),
        ("bool", StoredTensor(-ones), "bool holds numbers from 0 to 1, found -1 to 0"),
        ("int64", StoredTensor(ones, Uniform(2.0)), "stand for themselves"),
    ]
    for dtype, held, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            WeightTensor(dtype, held)


def test_bfloat16_rounds_half_to_even() -> None:
    """Against torch's own rounding, ties, infinities and the largest numbers among them."""
    import torch

    bits = np.random.default_rng(0).integers(0, 2**32, 4000, np.uint64).astype(np.uint32)
    ties = (bits & 0xFFFF0000) | 0x8000
    numbers = np.concatenate([bits, ties, [0x7F800000, 0xFF800000, 0x7F7FFFFF]]).astype(np.uint32).view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    expected = torch.from_numpy(numbers).bfloat16().float().numpy()
    np.testing.assert_array_equal(as_bfloat16(numbers), expected)
    assert np.isnan(as_bfloat16(np.array(np.nan, np.float32)))


def test_a_grid_of_float16_numbers_is_rounded_to_them() -> None:
    integers = np.arange(-50, 51, dtype=np.int32).reshape(1, -1)
    tensor = WeightTensor("float16", StoredTensor(integers, PerChannel((0.1,))))
    expected = (integers.astype(np.float32) * np.float32(0.1)).astype(np.float16)
    found = decode_weights(encode_weights(StoredWeights({"a": tensor}))).tensors["a"]
    np.testing.assert_array_equal(found.numbers(), expected, strict=True)


def test_what_runs_a_file_says_that_there_are_no_layers() -> None:
    data = encode_weights(weights.every_form())
    with pytest.raises(ArtifactError, match="holds weights and no layers") as refusal:
        decode(data)
    assert str(refusal.value) == NO_LAYERS
    artifact = Artifact(data)
    assert artifact.kind == "weights" and Artifact(encode(networks.dense())).kind == "runnable"
    with pytest.raises(ArtifactError, match=r"pc\.load\(file\)\.load_into\(module\)"):
        artifact.to_torch()


def test_reading_needs_no_torch() -> None:
    program = (
        "import sys; from pathlib import Path; "
        "from pyro_compress.artifact.format.decode_weights import decode_weights; "
        f"decode_weights(Path({str(GOLDEN / 'every_form.pyrc')!r}).read_bytes()).numbers(); "
        "assert not {'torch', 'pyro', 'safetensors'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_sentence_stays_one_line_whatever_a_name_holds() -> None:
    data = encode_weights(StoredWeights({"x\n\x1e.weight": WeightTensor("float32", 0.1 * np.ones((2, 2), np.float32))}))
    with pytest.raises(ArtifactError, match=r"the file ends inside tensor 'x\\n\\x1e\.weight': 16 bytes") as refused:
        decode_weights(wrapped(unwrap(data)[:-4]))
    assert "\n" not in str(refused.value)
