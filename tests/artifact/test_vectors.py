"""The test vectors of `FORMAT.md`, read out of the document: the second reader and the package both find them true."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyro_compress.artifact
from pyro_compress.artifact.format import layout
from pyro_compress.artifact.format.coding import frequencies
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.format.decode_weights import decode_weights
from pyro_compress.artifact.format.deviations import code_deviations
from pyro_compress.artifact.format.header import TensorCode, quantizer_of
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.header_writer import HeaderWriter
from pyro_compress.artifact.format.stream import RangeReader, code_selection, code_tensor
from pyro_compress.artifact.format.weight_names import Names
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.artifact.writing.encode_weights import encode_weights
from pyro_compress.network import layers
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import specified, specified_forward, specified_weights
from tests.artifact.fuzzing import packed
from tests.artifact.specified_stream import Matrix, Range, deviations, grid, selection, tables

DOCUMENT = (Path(pyro_compress.artifact.__path__[0]) / "FORMAT.md").read_text()


def section(number: str) -> str:
    """The text below a heading of part 5, up to the next one."""
    found = re.search(rf"^### {re.escape(number)} .*?$(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, number
    return found[1]


def rows(number: str) -> Iterator[list[Any]]:
    """The rows of a section's tables: what stands in backticks, as JSON where it is."""
    count = 0
    for line in section(number).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            count += 1
            yield [cell.strip("`") for cell in cells]
    assert count


def read(number: str, *texts: int) -> Iterator[list[Any]]:
    """The same with all columns but some as JSON."""
    for row in rows(number):
        yield [cell if at in texts else json.loads(cell) for at, cell in enumerate(row)]


def test_varints() -> None:
    for text, number in read("5.1", 0):
        data = bytes.fromhex(text)
        assert specified.varint(data, 0) == (number, len(data))


def test_numbers() -> None:
    for order, digits, number in read("5.2", 1):
        reader, second = HeaderReader(packed(digits)), specified.Bits(packed(digits))
        assert reader.number("it", 2**30, order) == second.number(order) == number
        assert second.bit == len(digits)


def test_pairs() -> None:
    for digits, pair in read("5.3", 0):
        reader, second = HeaderReader(packed(digits)), specified.Bits(packed(digits))
        assert reader.pair("it", 0) == second.pair() == tuple(pair)
        assert second.bit == len(digits)


def test_names() -> None:
    found = list(rows("5.4"))
    data = packed("".join(digits for digits, _, _ in found))
    reader, second = HeaderReader(data), specified.Bits(data)
    kinds = {
        "Linear": "linear",
        "Conv2d": "conv",
        "ChannelAffine": "affine",
        "ConvTranspose2d": "conv_transpose",
        "PReLU": "prelu",
    }
    for digits, kind, name in found:
        before = second.bit
        assert reader.name(getattr(layers, kind)) == second.name(kinds[kind]) == name
        assert second.bit - before == len(digits)


def test_descriptors() -> None:
    found = list(read("5.5", 0, 1))
    data = packed("".join(digits for digits, _, _ in found))
    reader, second = HeaderReader(data), specified.Bits(data)
    for digits, name, meaning in found:
        before, levels = second.bit, meaning.get("levels")
        said, code = second.descriptor(name.rpartition(".")[2]), reader.tensor(name, 1000)
        assert second.bit - before == len(digits)
        forms = "step", "steps", "levels"
        form = "float32" if code.is_float else "power" if code.form is None else forms[code.form]
        assert said.form == form == meaning["form"]
        assert (said.step if form == "power" else None) == code.step_exponent == meaning.get("e")
        assert list(said.sides) == list(code.sides) == meaning.get("sides", [0, 0])
        assert said.zero == (meaning["kind"] == 1)
        if meaning["kind"] in (0, 3):
            model = [meaning[key] for key in ("d", "strength", "top", "fall")]
            assert [said.density, said.strength, said.top, said.fall] == model
            assert [code.density, code.strength, code.top_token, code.fall] == model
        assert list(code.codebook) == (levels or [])
        assert sorted((said.levels or {0: 0}).values()) == sorted([0, *(levels or [])])


def test_range_coded_bits() -> None:
    for probabilities, text, bits in read("5.6", 1):
        second, reader = Range(bytes.fromhex(text)), RangeReader(bytes.fromhex(text))
        assert [second.bit(p) for p in probabilities] == bits
        assert reader.bits(np.array(probabilities), None).astype(int).tolist() == bits
        reader.check_end()


def test_frequencies_of_tokens() -> None:
    for fall, counts, expected in read("5.7"):
        prior = Matrix([(0, 0, 0)], 1, 1, len(counts[0]) - 1, fall).prior
        assert tables(counts, prior) == expected
        assert frequencies(np.array(counts), np.array(prior)).tolist() == expected


def test_matrices() -> None:
    for extents, said, text, expected in read("5.8", 2):
        stream = bytes.fromhex(text)
        start = (5 if said["d"] % 2 else 7) * 2**13 >> said["d"] // 2
        strength, fall = (1, 4, 16, 64)[said["strength"]], (6, 10, 13, 15)[said["fall"]]
        second = Matrix(grid(*extents), start, strength, said["top"], fall).decode(Range(stream), len(expected))
        assert second == expected
        reader, code = RangeReader(stream), TensorCode(0, said["d"], said["strength"], said["top"], said["fall"])
        assert code_tensor(reader, code, layout.grid(*extents), len(expected), None).tolist() == expected
        reader.check_end()


def test_selections() -> None:
    for extents, kept, text, indices in read("5.9", 2):
        reader = RangeReader(bytes.fromhex(text))
        assert selection(Range(bytes.fromhex(text)), grid(*extents), kept) == indices
        assert code_selection(reader, layout.grid(*extents), kept, None) == tuple(indices)
        reader.check_end()


def test_deviations() -> None:
    for text, expected in read("5.10", 0):
        nonzero = [[float(value is not None) for value in row] for row in expected]
        second = Range(bytes.fromhex(text))
        assert second.bit(2**15) == 1
        assert deviations(second, nonzero) == [value for row in expected for value in row]
        tensor, reader = StoredTensor(np.array(nonzero, np.int32)), RangeReader(bytes.fromhex(text))
        found = code_deviations(reader, {"a": tensor}, {"a": layout.flat(len(expected[0]))}, None)["a"]
        assert found.tolist() == [[value or 0 for value in row] for row in expected]
        reader.check_end()


def test_activations() -> None:
    for kind, slope, x, y in read("5.11", 0):
        network = StoredNetwork(Architecture((1,), (Activation(kind, slope),)), {})
        assert specified_forward.activation(kind, slope, x) == pytest.approx(y, abs=1e-9)
        assert forward(network)(np.array([[x]])).item() == pytest.approx(y, abs=1e-6)


def test_what_integers_stand_for() -> None:
    for form, text, integers, expected in read("5.12", 0, 1):
        floats = np.frombuffer(bytes.fromhex(text.strip("-")), "<f4")
        kind, _, more = form.partition(", ")
        exponent = int(more.removeprefix("e = ")) if kind == "power" else 0
        below = int(more.split()[0]) if kind == "levels" else 0
        sides = (below, len(floats) - below) if kind == "levels" else (0, 0)
        indices = np.array(integers, np.int32)
        said = specified.Descriptor(kind, exponent, sides)
        assert specified.meant(indices, said, floats).astype(float).tolist() == expected
        forms = {"step": 0, "steps": 1, "levels": 2}
        code = TensorCode(exponent if kind == "power" else None, form=forms.get(kind), sides=sides)
        assert quantizer_of(code, floats).value(indices).astype(float).tolist() == expected


def test_names_of_tensors() -> None:
    found = list(rows("5.14"))
    data = packed("".join(digits for digits, _ in found))
    reader, names, bits, second = HeaderReader(data), Names(), specified.Bits(data), specified_weights.NameReader()
    writer, again = HeaderWriter(), Names()
    for digits, name in found:
        before = bits.bit
        assert names.read(reader) == second.read(bits) == name
        assert bits.bit - before == len(digits)
        again.write(writer, name)
    assert writer.filled() == data


def test_a_file_of_weights() -> None:
    text = section("5.15")
    data = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+)$", text, re.MULTILINE)))
    found = list(rows("5.15"))
    header = packed("".join(cells[0] for cells in found if set(cells[0]) <= set("01 ")))
    behind = "".join(re.findall(r"`([0-9a-f]+)`", text.partition("and the stream are")[2].partition("The tensors")[0]))
    assert specified.body_of(data) == header + bytes.fromhex(behind)
    said = re.search(r"of the types (.*?), are", text)
    assert said is not None
    types = re.split(r", | and ", said[1])
    numbers = {cells[0]: json.loads(cells[1]) for cells in found if not set(cells[0]) <= set("01 ")}
    second, weights = specified_weights.decode(data), decode_weights(data)
    assert [(w.type, w.numbers.tolist()) for w in second.values()] == list(zip(types, numbers.values(), strict=True))
    assert {name: tensor.numbers().tolist() for name, tensor in weights.tensors.items()} == numbers
    assert list(second) == list(numbers) and [tensor.dtype for tensor in weights.tensors.values()] == types
    assert encode_weights(weights) == data


def test_a_whole_file() -> None:
    text = section("5.13")
    data = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+)$", text, re.MULTILINE)))
    found = list(rows("5.13"))
    header = packed("".join(cells[0] for cells in found if set(cells[0]) <= set("01 ")))
    stream = re.search(r"the stream is `([0-9a-f]+)`", text)
    assert stream is not None
    assert specified.body_of(data) == header + bytes.fromhex(stream[1])
    numbers = {cells[0]: json.loads(cells[1]) for cells in found if cells[1].startswith("[")}
    second, network = specified.decode(data), decode(data)
    assert second.selections == [numbers.pop("selection")]
    assert {name: tensor.numbers.tolist() for name, tensor in second.tensors.items()} == numbers
    assert {name: tensor.dense().tolist() for name, tensor in network.tensors.items()} == numbers
    output = re.search(r"gives the output `(.*?)`", text)
    assert output is not None
    example = (np.arange(20) / 8 - 1).reshape(network.architecture.input_shape)
    assert specified_forward.forward(second, example).tolist() == pytest.approx(json.loads(output[1]), abs=1e-9)
    assert forward(network)(example[None])[0].tolist() == pytest.approx(json.loads(output[1]), abs=1e-6)
    assert encode(network) == data
