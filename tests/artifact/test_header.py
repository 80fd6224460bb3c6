"""A header by hand, codebooks that pay, and each way in which a header can be malformed."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.analysis.decisions.weight_sharing import weight_sharing
from pyro_compress.artifact.format.codebook import codebook_of, levels_at, places_in
from pyro_compress.artifact.format.container import unwrap
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.encode import encode, encode_with
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.input_codes import InputCode
from pyro_compress.network.layers import Activation, Linear, Select
from pyro_compress.network.quantizers import Codebook
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import fuzzing, networks
from tests.artifact.header_digits import FLAT, GIVEN, IMAGE, LINEAR, ZEROS, linear, number, pair, shape, text
from tests.artifact.test_rate_distortion import ARCHITECTURE, decision


def test_a_header_by_hand() -> None:
    layers = (Linear("fc1", 4, 2, False), Activation("relu"), Linear("fc2", 2, 2, False))
    network = networks.filled((4,), layers)
    network.tensors["fc1.weight"].integers[:] = 0  # type: ignore[index]
    network.tensors["fc2.weight"].integers[:] = 0  # type: ignore[index]
    expected = FLAT + number(3) + linear(2) + "010" + number(7, 0)  # all zero, e = 0 - 4
    expected += "1000 0" + linear(2) + ZEROS  # relu; fc2, all zero, the same e
    data = encode(network)
    assert unwrap(data) == fuzzing.packed(expected)
    networks.assert_same(decode(data), network)


def test_a_code_by_hand() -> None:
    """It takes the place of the rank, and no image side follows."""
    layers = (Linear("fc1", 16, 2, False),)
    tensors = networks.filled((16,), layers).tensors
    tensors["fc1.weight"].integers[:] = 0  # type: ignore[index]
    descriptor = linear(2) + "010" + number(7, 0)
    for code, digits in (
        (InputCode("gaussian"), number(9, 2)),
        (InputCode("logistic-normal", 0.5), number(11, 2) + text(np.float64(0.5).tobytes())),
    ):
        network = StoredNetwork(Architecture((16,), layers, code), tensors)
        data = encode(network)
        assert unwrap(data) == fuzzing.packed("0" + digits + number(16) + number(1) + descriptor)
        networks.assert_same(decode(data), network)


BOOK = number(3, 0) + "1" + number(0, 2) + "00" + number(0, 2)  # codebook, e = 0, density 7/8, strength 1, tokens 0
CONV = IMAGE + "0001"


def zeros_of(form: str, *floats: float) -> str:
    """A tensor that is all zero, of another form, and its float32 numbers."""
    digits = (LINEAR + number(4, 0) + form + number(1, 0)).replace(" ", "")
    return digits + "0" * (-len(digits) % 8) + text(np.array(floats, "<f4").tobytes())


FURTHER = "0110 10" + number(0, 2)  # a Recall of distance 0
MALFORMED: dict[str, tuple[str, str]] = {
    "ends": (FLAT[:4], "ends inside its header, where input extent was expected"),
    "endless zeros": ("0" + "0" * 400, "input rank in the header exceeds the limit 11"),
    "rank": ("0" + number(13, 2), "input rank in the header exceeds the limit 11"),
    "weights": ("0" + number(12, 2), "the file holds weights and no layers"),
    "parameter of a code": (
        "0" + number(10, 2) + text(np.float64("inf").tobytes()),
        "holds no code: the parameter of a dirichlet code is above 0 and finite, found inf",
    ),
    "code of one number": (
        "0" + number(11, 2) + text(np.float64(1).tobytes()) + number(1),
        "declares a logistic-normal code of 1 numbers",
    ),
    "code of no number": ("0" + number(9, 2) + number(0), "declares a gaussian code of 0 numbers"),
    "extent": (shape(2**22 + 1), "input extent in the header exceeds the limit"),
    "input": (shape(2**12, 2**12), "declares an input of 16777216 numbers"),
    "image side": (shape(10) + number(3), "10 inputs are not square images of side 3"),
    "layers": (FLAT + number(1025), "number of layers in the header exceeds the limit 1024"),
    "outputs": (FLAT + number(1) + linear(2**40), "out_features in the header exceeds"),
    "numbers": (
        shape(2**22) + number(0) + number(1) + linear(2**22) + ZEROS,
        "declares at least 17592186044416 numbers, limit 134217728",
    ),
    "selected": (FLAT + number(1) + "0111" + number(5), "number of selected entries in the header exceeds"),
    "selections": (
        shape(2**22) + number(0) + number(40) + ("0111" + number(2**22)) * 40,
        r"Select\(0 indices\) has 4194304 places, limit 4194304, 16777216 in all",
    ),
    "outputs without numbers": (
        shape(0) + number(0) + number(20) + (linear(2**22) + ZEROS + linear(0) + ZEROS) * 10,
        r"Linear\(name=fc9, in_features=0, out_features=4194304, bias=False\) has 4194304 places",
    ),
    "kernel without filters": (
        shape(1, 2**11, 2**11) + number(1) + "0001 0010" + number(0) + pair(0) + "1",
        "kernel size in the header is 0, at least 2",
    ),
    "places without filters": (
        shape(1, 2**11, 2**11) + number(1) + "0001 0010" + number(0) + pair(2**12) + pair(2**11) + "1" + ZEROS,
        "has 16777216 places, limit 4194304",
    ),
    "stride": (CONV + "0100" + number(1) + pair(2) + pair(0), "stride in the header is 0, at least 2"),
    "groups of nothing": (
        CONV + "0001" + number(1) + pair(2) + pair(1) + number(0, 2),
        "groups in the header is 0, at least 1",
    ),
    "groups": (
        shape(3, 4, 4) + number(1) + "0001 0001" + number(4) + pair(2) + pair(1) + number(2, 2),
        "from 3 to 4 channels cannot have 2 groups",
    ),
    "kernel": (CONV + "0000" + number(1) + pair(9) + "1" + ZEROS, "does not fit together: layer 0 .* kernel"),
    "linear on an image": (IMAGE + linear(1) + ZEROS, "does not fit together"),
    "flattened": (
        shape(1, 4, 4) + number(2) + "0101" + pair(2**12) + "0110 00",
        "gives 16777216 numbers, more than 4194304",
    ),
    "reference to nothing": (FLAT + number(1) + "0110 01" + number(0, 2), "a reference in the header exceeds|is 0"),
    "layer of no kind": (
        FLAT + number(1) + FURTHER + number(23, 0),
        "a layer's kind in the header exceeds the limit 22",
    ),
    "rearranged to another number": (
        FLAT + number(1) + FURTHER + number(12, 0) + number(0, 0) + number(4) + number(0, 0) + number(0, 0) + number(5),
        "Rearrange.* expects 4 numbers",
    ),
    "axes in no order": (
        FLAT
        + number(1)
        + FURTHER
        + number(12, 0)
        + number(1, 0)
        + 2 * number(2)
        + 2 * number(1, 0)
        + number(0, 0)
        + number(4),
        "expects an order of 2 axes and not",
    ),
    "heads that do not divide": (
        IMAGE + FURTHER + number(14, 0) + "0" + number(2, 2) + number(1) + text(np.float64(1).tobytes()),
        "expects an image of q, k and 1 entries of v, of 2 heads",
    ),
    "scale of scores": (
        IMAGE + FURTHER + number(14, 0) + "0" + number(1, 2) + number(1) + text(np.float64("inf").tobytes()),
        "the scale of an attention's scores is inf",
    ),
    "too many scores": (
        "0"
        + number(3, 2)
        + number(3)
        + number(1)
        + number(2**14)
        + number(1)
        + FURTHER
        + number(14, 0)
        + "0"
        + number(1, 2)
        + number(1)
        + text(np.float64(1).tobytes()),
        "has 268435456 scores, more than 67108864",
    ),
    "cropped beyond": (
        IMAGE + FURTHER + number(18, 0) + number(2, 2) + number(8, 2),
        "expects an image that has",
    ),
    "embedding of an image": (
        IMAGE + FURTHER + number(17, 0) + number(3) + number(2) + "1",
        "expects a vector of tokens",
    ),
    "concatenated with nothing": (
        FLAT + number(1) + FURTHER + number(5, 0) + number(1, 2),
        "a reference in the header exceeds the limit 0",
    ),
    "multiplied with itself": (
        FLAT + number(2) + "1000 0" + FURTHER + number(6, 0) + number(0, 2),
        "a reference in the header is 0, at least 1",
    ),
    "concatenated with another shape": (
        shape(2, 4) + number(2) + "0110 00" + FURTHER + number(5, 0) + number(1, 2),
        r"expects a shape that differs from \(2, 4\) along its first axis only",
    ),
    "multiplied with another shape": (
        shape(2, 4) + number(2) + "0110 00" + FURTHER + number(6, 0) + number(1, 2),
        r"expects the shape \(2, 4\), or axes of 1",
    ),
    "more than both that are multiplied": (
        shape(2**12, 1)
        + number(2)
        + (FURTHER + number(12, 0) + number(0, 0) + number(2**12) + number(0, 0))
        + (number(1, 0) + number(1) + number(2**12))
        + (FURTHER + number(6, 0) + number(1, 2)),
        r"Multiply\(source=0\) gives 16777216 numbers, more than 4194304",
    ),
    "padded by mirrors": (
        IMAGE + FURTHER + number(7, 0) + "01" + pair(4) + pair(0),
        r"expects an image that has enough to be padded by \(4, 4\)",
    ),
    "padded": (
        IMAGE + FURTHER + number(7, 0) + "00" + pair(2**11) + pair(0),
        "gives 4210704 numbers, more than 4194304",
    ),
    "seen otherwise": (
        IMAGE + FURTHER + number(8, 0) + number(0, 0) + number(15),
        "expects 15 numbers for each entry of axis 1",
    ),
    "seen along too many axes": (
        IMAGE + FURTHER + number(8, 0) + number(7, 0),
        "a number of axes in the header exceeds the limit 6",
    ),
    "groups of other sizes": (
        FLAT + number(1) + FURTHER + number(9, 0) + "00" + number(3, 2),
        "expects entries that make 3 groups of one size",
    ),
    "no groups": (FLAT + number(1) + FURTHER + number(9, 0) + "00" + number(0, 2), "groups in the header is 0"),
    "epsilon": (
        FLAT + number(1) + FURTHER + number(9, 0) + "01" + number(1, 2) + text(np.float64(0).tobytes()),
        "the epsilon of a normalisation is 0.0",
    ),
    "resized to nothing": (IMAGE + FURTHER + number(10, 0) + "00" + pair(0), "a size in the header is 0, at least 2"),
    "resized": (IMAGE + FURTHER + number(10, 0) + "10" + pair(2**12), "gives 16777216 numbers, more than"),
    "largest of features": (
        FLAT + number(1) + FURTHER + number(11, 0) + pair(1),
        r"expects \(channels, height, width\)",
    ),
    "enlarged to nothing": (IMAGE + FURTHER + number(1, 0) + pair(0), "a factor in the header is 0, at least 2"),
    "enlarged": (IMAGE + FURTHER + number(1, 0) + pair(2**12), "gives 268435456 numbers, more than 4194304"),
    "images of features": (
        FLAT + number(1) + FURTHER + number(2, 0) + pair(3),
        r"expects a vector of channels × 3 × 3",
    ),
    "transposed in groups": (
        IMAGE + FURTHER + number(0, 0) + "00001" + number(3) + pair(2) + pair(1) + number(2, 2),
        "a convolution from 1 to 3 channels cannot have 2 groups",
    ),
    "output padding": (
        IMAGE + FURTHER + number(0, 0) + "00010" + number(3) + pair(2) + pair(2, 1),
        r"output padding \(2, 1\) is not below stride \(2, 2\) or dilation \(1, 1\)",
    ),
    "stride that is the kernel": (IMAGE + "0011 10" + pair(2) + pair(2), "one canonical form"),
    "slope": (FLAT + number(1) + "1001 1" + text(np.float64("nan").tobytes()), "slope of a leaky_relu layer is nan"),
    "name that is no text": (
        FLAT + number(1) + linear(1, GIVEN) + number(0) + number(1) + text(b"\xff") + number(0),
        "name is not UTF-8",
    ),
    "long name": (FLAT + number(1) + linear(1, GIVEN) + number(0) + number(256), "exceeds the limit 255"),
    "code of a name": (FLAT + number(1) + linear(1, GIVEN) + number(124), "a layer's name in the header exceeds"),
    "nothing is used again": (
        FLAT + number(2) + "1000 0" + FURTHER + number(21, 0) + number(1, 2),
        "of layers with tensors",
    ),
    "used again before the first": (
        FLAT + number(1) + FURTHER + number(21, 0) + number(1, 2),
        "a reference in the header exceeds the limit 0",
    ),
    "used again by a long way": (
        FLAT
        + number(3)
        + linear(4, GIVEN)
        + number(64)
        + ZEROS
        + (FURTHER + number(21, 0))
        + number(1, 2)
        + (FURTHER + number(21, 0))
        + number(2, 2),
        "one canonical form",
    ),
    "used again on another shape": (
        FLAT + number(2) + linear(3, GIVEN) + number(64) + ZEROS + FURTHER + number(21, 0) + number(1, 2),
        r"expects a vector of 4, but \(3,\) reaches it",
    ),
    "two layers of one name": (
        FLAT + number(2) + (linear(1, GIVEN) + number(64) + ZEROS) * 2,
        "two layers named ''",
    ),
    "kind": (LINEAR + number(6, 0), "a tensor's kind in the header exceeds the limit 5"),
    "first tensor of an earlier one": (LINEAR + number(5, 0) + number(1, 2), "first tensor, fc1.weight, is said to be"),
    "tensor far before": (
        FLAT + number(2) + linear(4) + ZEROS + linear(4) + number(5, 0) + number(2, 2),
        "a reference in the header exceeds the limit 1",
    ),
    "tensor of another shape": (
        FLAT + number(2) + linear(4) + ZEROS + linear(3) + number(5, 0) + number(1, 2),
        r"tensor fc2.weight of shape \(3, 4\) is said to be fc1.weight of shape \(4, 4\)$",
    ),
    "tensor of an earlier one of an earlier one": (
        FLAT + number(3) + linear(4) + ZEROS + (linear(4) + number(5, 0) + number(1, 2)) * 2,
        "is said to be fc2.weight of shape .*, which is another one itself",
    ),
    "form": (LINEAR + number(4, 0) + "11", "a tensor has unknown form 3"),
    "float32 of another form": (LINEAR + number(4, 0) + "00" + number(2, 0), "is of kind 'float32', which goes with"),
    "codebook of levels": (
        LINEAR + number(4, 0) + "10" + number(1, 2) * 2 + number(3, 0),
        "is of kind 'codebook', which goes with no other form",
    ),
    "a form twice": (LINEAR + number(4, 0) + "00" + number(4, 0), "a tensor's kind in the header exceeds the limit 3"),
    "levels of a form": (
        LINEAR + number(4, 0) + "10" + number(256, 2),
        "a codebook in the header exceeds the limit 255",
    ),
    "no step": (LINEAR + number(4, 0) + "00" + number(1, 0), "inside tensor fc1.weight: 4 bytes expected, 0 left"),
    "step that is a power": (zeros_of("00", 0.5), "says a quantizer in another way than a writer does"),
    "small step": (zeros_of("00", 1e-30), r"no quantizer: a grid step is at least 2\*\*-64 and below 2\*\*64: 1.0+3"),
    "negative step": (zeros_of("01", 0.3, -0.3), r"no quantizer: a grid step is at least .*: -0.3"),
    "infinite step": (zeros_of("01", 0.3, np.inf), "tensor fc1.weight holds NaN or infinite values"),
    "falling levels": (
        zeros_of("10" + number(0, 2) + number(2, 2), 0.3, 0.2),
        "no quantizer: the levels of a codebook",
    ),
    "level zero": (zeros_of("10" + number(0, 2) + number(2, 2), 0.0, 0.2), "no quantizer: the levels of a codebook"),
    "side of a level": (zeros_of("10" + number(1, 2) * 2, 0.1, 0.2), "says a quantizer in another way than a writer"),
    "step": (LINEAR + number(0, 0) + number(128, 0), "has grid step 2\\*\\*64, beyond"),
    "step below": (LINEAR + number(1, 0) + number(255, 0), "has grid step 2\\*\\*-128, beyond"),
    "density": (LINEAR + number(0, 0) + "1" + number(30, 2), "a tensor's density in the header exceeds the limit 29"),
    "token": (
        LINEAR + number(0, 0) + "1" + number(0, 2) + "00" + number(56, 2),
        "magnitude token .* exceeds the limit",
    ),
    "missing floats": (LINEAR + number(2, 0) + "0" * 16, "tensor fc1.weight: 32 bytes expected, [23] left"),
    "numbers without bytes": (
        shape(2**22) + number(0) + number(1) + linear(32) + "11" + number(29, 2) + "00" + number(0, 2),
        "declares 134217728 coded numbers, more than its 0 bytes can hold",
    ),
    "select of a number": (shape() + number(1) + "0111", "selects entries of an input without axes"),
    "no levels": (LINEAR + BOOK + number(0, 2) * 2, "the codebook of fc1.weight has 0 levels for 8 numbers"),
    "many levels": (LINEAR + BOOK + number(4, 2) + number(5, 2), "has 9 levels for 8 numbers"),
    "too many levels": (LINEAR + BOOK + number(256, 2), "a codebook in the header exceeds the limit 255"),
    "large level": (
        LINEAR + BOOK + number(0, 2) + number(2, 2) + "1111" + number(2**24 - 1, 15) * 2,
        "holds integers beyond ±16777216",
    ),
    "order of gaps": (LINEAR + BOOK + number(0, 2) + number(1, 2) + "1111" + number(0, 15), "one canonical form"),
    "expected name written": (
        FLAT + number(1) + linear(2, GIVEN) + number(64 + 6 + 2) + ZEROS,
        "one canonical form",
    ),
    "filling": (LINEAR + ZEROS + "0" * 5 + "1", "one canonical form"),
    "bytes behind": (LINEAR + ZEROS + "0" * 24, "other or more bytes than its numbers need"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers(case: str) -> None:
    """Refused with a sentence, and before memory is taken for what the header declares."""
    digits, message = MALFORMED[case]
    data = fuzzing.wrapped(fuzzing.packed(digits))
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
    codes = HeaderReader(unwrap(data)).header().codes
    assert codes["fc1.weight"].codebook == (-217, -50, 60, 1025) and not codes["fc1.bias"].codebook
    plain = HeaderReader(unwrap(encode(network))).header()
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
    codes = HeaderReader(unwrap(artifact.data)).header().codes
    assert 0 < len(codes["fc1.weight"].codebook) <= 6
    x = np.random.default_rng(0).normal(size=(5, 150)).astype(np.float32)
    expected = artifact.to_torch()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(forward(artifact.network)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_level_that_no_number_has() -> None:
    network = networks.levels()
    data = encode(network)
    found = HeaderReader(unwrap(data)).header()
    found.layers = list(network.architecture.layers)
    code = found.codes["fc1.weight"]
    found.codes["fc1.weight"] = replace(code, codebook=(*code.codebook, 2000))
    with pytest.raises(ArtifactError, match="a codebook holds numbers that do not occur"):
        decode(encode_with(found, network))


def test_a_place_beyond_the_levels() -> None:
    """A stream that holds the place 2 under a codebook that has one positive level."""
    network = networks.filled((4,), (Linear("fc1", 4, 3, False),))
    integers = np.resize(np.array([0, 2, -1, 0, 1], np.int32), (3, 4))
    network.tensors["fc1.weight"] = StoredTensor(integers, Codebook((-0.25, 0.5, 0.75)))
    parts = fuzzing.parts_of(encode(network))
    sides = [at for at, field in enumerate(parts.fields) if field == ("order 2", number(2, 2))]
    assert len(sides) == 1
    fields = list(parts.fields)
    fields[sides[0]] = ("order 2", number(1, 2))
    fewer = replace(parts, fields=tuple(fields), floats=parts.floats[:-4])
    with pytest.raises(ArtifactError, match="a codebook of 1 and 1 levels has no places -1 and 2"):
        decode(fuzzing.joined(fewer))


def test_selection_of_another_size() -> None:
    """A stream that selects five entries under a header that says six."""
    network = StoredNetwork(Architecture((9,), (Select((0, 2, 3, 5, 8)),)), {})
    data = encode(network)
    parts = fuzzing.parts_of(data)
    assert parts.fields[-1] == ("order 4", number(5))
    more = replace(parts, fields=(*parts.fields[:-1], ("order 4", number(6))))
    with pytest.raises(ArtifactError, match=r"selection holds|other or more bytes"):
        decode(fuzzing.joined(more))
