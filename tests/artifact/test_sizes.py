"""What the models save against the entropy of the numbers, and that the coder reaches the models' own entropy."""

import numpy as np
import pytest

from pyro_compress.artifact.format.coding import TOTAL, UNIT
from pyro_compress.artifact.format.decode import decode_sections
from pyro_compress.artifact.format.stream import RangeReader, RangeWriter
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d, Select
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor


def laplace(random: np.random.Generator, kept: np.ndarray) -> np.ndarray:
    size = 1 + np.floor(random.exponential(3.0, kept.shape)).astype(np.int32)
    return (kept * size * random.choice([-1, 1], kept.shape)).astype(np.int32)


def first_layer(integers: np.ndarray) -> StoredNetwork:
    rows = len(integers)
    layers = (Flatten(), Linear("fc1", 784, rows, False))
    return StoredNetwork(Architecture((1, 28, 28), layers), {"fc1.weight": StoredTensor(integers, power_of_two(-4))})


def test_column_densities_are_learnt() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    blob = np.exp(-((y - 13.5) ** 2 + (x - 13.5) ** 2) / 50).ravel()
    integers = laplace(random, random.random((300, 784)) < 0.015 * blob / blob.mean())
    _, sections = decode_sections(encode(first_layer(integers)))
    weight = sections[-1]
    assert weight.file_bytes < 0.95 * weight.entropy_bytes


def test_neighbours_and_rows_are_learnt() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    integers = np.zeros((60, 784), np.int32)
    for row in integers[:40]:
        near = np.exp(-((y - random.uniform(6, 22)) ** 2 + (x - random.uniform(6, 22)) ** 2) / 8).ravel()
        row[:] = np.abs(laplace(random, random.random(784) < near)) * random.choice([-1, 1])
    _, sections = decode_sections(encode(first_layer(integers)))
    assert sections[-1].file_bytes < 0.8 * sections[-1].entropy_bytes


def test_numbers_without_structure_cost_their_entropy() -> None:
    random = np.random.default_rng(0)
    integers = laplace(random, random.random((300, 784)) < 0.05)
    _, sections = decode_sections(encode(first_layer(integers)))
    assert sections[-1].entropy_bytes < sections[-1].file_bytes < 1.01 * sections[-1].entropy_bytes


def test_side_information_of_lenet_5_is_small() -> None:
    random = np.random.default_rng(0)
    kept = tuple(np.flatnonzero(random.random(288) < 0.4).tolist())
    layers: tuple[Layer, ...] = (
        Conv2d("conv1", 1, 8, (5, 5), (1, 1), (0, 0), (1, 1), 1, True),
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        Conv2d("conv2", 8, 18, (5, 5), (1, 1), (0, 0), (1, 1), 1, True),
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        Flatten(),
        Select(kept),
        Linear("fc1", len(kept), 40, True),
        Activation("relu"),
        Linear("fc2", 40, 10, True),
    )
    shapes = [(8, 1, 5, 5), (8,), (18, 8, 5, 5), (18,), (40, len(kept)), (40,), (10, 40), (10,)]
    names = [f"{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")]
    tensors = {
        name: StoredTensor(laplace(random, random.random(shape) < 0.3), power_of_two(-4 if len(shape) > 1 else -6))
        for name, shape in zip(names, shapes, strict=True)
    }
    data = encode(StoredNetwork(Architecture((1, 28, 28), layers), tensors))
    _, sections = decode_sections(data)
    assert sections[0].file_bytes + sections[1].file_bytes <= 60


def test_the_range_coder_reaches_the_entropy_of_its_models() -> None:
    random = np.random.default_rng(0)
    ones = random.integers(1, UNIT, 5000)
    bits = random.random(5000) < ones / UNIT
    coder = RangeWriter()
    coder.bits(ones, bits)
    ideal = -np.log2(np.where(bits, ones, UNIT - ones) / UNIT).sum()
    assert ideal <= coder.used_bits() < ideal + 2
    assert ideal / 8 <= len(coder.finish()) < ideal / 8 + 2


@pytest.mark.parametrize("seed", range(3))
def test_the_stream_is_what_the_specification_says(seed: int) -> None:
    """The range decoder of FORMAT.md, 3.1, in exact integers, reads what constriction wrote."""
    random = np.random.default_rng(seed)
    ones = np.array([*random.integers(1, UNIT, 400), *random.choice([1, UNIT - 1], 100)])
    bits = random.random(500) < ones / UNIT
    tables = np.diff(
        np.sort(random.choice(np.arange(1, TOTAL), (3, 19), replace=False), axis=1), prepend=0, append=TOTAL
    )
    levels, tokens = random.integers(0, 3, 300), random.integers(0, 20, 300)
    coder = RangeWriter()
    coder.bits(ones, bits)
    coder.tokens(tables, levels, tokens)
    stream = coder.finish()

    frequencies = [[256 * (UNIT - int(p)), 256 * int(p)] for p in ones] + [tables[level].tolist() for level in levels]
    assert specified_decoder(stream, frequencies) == [*bits.astype(int).tolist(), *tokens.tolist()]

    reader = RangeReader(stream)
    assert reader.bits(ones, None).tolist() == bits.tolist()
    assert reader.tokens(tables, levels, None).tolist() == tokens.tolist()
    reader.check_end()


def specified_decoder(stream: bytes, frequencies: list[list[int]]) -> list[int]:
    word, state = 1 << 32, 1 << 64
    source = iter([int.from_bytes(stream[i : i + 4].ljust(4, b"\0"), "big") for i in range(0, len(stream), 4)])
    lower, width, point = 0, state - 1, next(source, 0) * word + next(source, 0)
    symbols = []
    for table in frequencies:
        scale = width >> 24
        quantile = (point - lower) % state // scale
        symbol = start = 0
        while start + table[symbol] <= quantile:
            start += table[symbol]
            symbol += 1
        symbols.append(symbol)
        lower, width = (lower + scale * start) % state, scale * table[symbol]
        if width < word:
            lower, width, point = lower * word % state, width * word, (point * word + next(source, 0)) % state
    return symbols
