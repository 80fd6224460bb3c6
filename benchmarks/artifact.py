"""Compressed files against other ways of storing the same decision: one table, and what encoding and decoding cost.

    python -m benchmarks.artifact --nncodec-python ../nncodec/bin/python runs/lenet-5-... runs/lenet-300-100-...

Each run directory stands for its decision: what structured removal left of it is decoded from its `network.pyrc`,
encoded again, and given to the others.  VGG-16 is not trained here: its decision is made up (`vgg_16`), with zeros
and sizes spread as posteriors spread them.  nncodec needs an environment of its own (numpy 1.26).
"""

import argparse
import json
import math
import multiprocessing
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.artifact_competitors import competitors
from pyro_compress.artifact.format.codebook import places_in
from pyro_compress.artifact.format.coding import TOTAL, UNIT
from pyro_compress.artifact.format.container import unwrap
from pyro_compress.artifact.format.decode import Section, decode, decode_sections
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.layout import tensor_columns
from pyro_compress.artifact.format.stream import code_selections, code_tensor
from pyro_compress.artifact.writing.artifact import load
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, ChannelAffine, Conv2d, Flatten, Layer, Linear, MaxPool2d
from pyro_compress.network.quantizers import power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes

FLOAT32_BYTES = 4
LEAST_SECONDS = 2.0
VGG_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
VGG_KEPT = (0.6, 0.45, 0.4, 0.35, 0.25, 0.15, 0.1, 0.06, 0.02, 0.01, 0.01, 0.01, 0.01, 0.02, 0.3)


class ModelEntropy:
    """A coder that writes nothing and adds up −log₂ of the probabilities that the models give."""

    def __init__(self) -> None:
        self.total_bits = 0.0

    def bits(self, ones: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        self.total_bits -= float(np.log2(np.where(symbols, ones, UNIT - ones) / UNIT).sum())
        return symbols

    def tokens(self, tables: np.ndarray, levels: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        self.total_bits -= float(np.log2(tables[levels, symbols] / TOTAL).sum())
        return symbols

    def alike(self, table: np.ndarray, count: int, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        self.total_bits -= float(np.log2(table[symbols.astype(np.intp)] / TOTAL).sum())
        return symbols


def model_bytes(data: bytes) -> float:
    """Code length that the file's models promise for everything in its stream."""
    header, network = HeaderReader(unwrap(data)).header(), decode(data)
    coder = ModelEntropy()
    code_selections(coder, header, network.architecture.layers)
    for name, columns in tensor_columns(network.architecture, header.image_side).items():
        integers = network.tensors[name].integers
        if integers is not None:
            code, matrix = header.codes[name], integers.reshape(len(integers), len(columns))
            matrix = places_in(matrix, code.codebook) if code.codebook else matrix
            code_tensor(coder, code, columns, len(integers), matrix)
    return coder.total_bits / 8


@dataclass(frozen=True)
class Row:
    """One network in the table.

    Attributes:
        others: bytes of each competitor.
        order_0: bytes of the numbers' own entropy, tensor by tensor, plus side information.
        promised: bytes that the models promise, plus side information.
        side: bytes of container and header; `selections` stand apart.
        megabytes_per_second: of float32 numbers of the network that the file stands for, processor time.
        stored_megabytes_per_second: of those that are left in the file's arrays.
    """

    name: str
    weights: int
    nonzero: int
    ours: int
    others: dict[str, int]
    order_0: float
    promised: float
    side: float
    selections: float
    megabytes_per_second: float
    stored_megabytes_per_second: float


def measure(name: str, network: StoredNetwork, original_bytes: int, nncodec_python: Path | None) -> Row:
    """Encode and decode a network, and give it to the others; `original_bytes` is what it had before compression."""
    data = encode(network)
    assert encode(decode(data)) == data, f"{name} does not come back in the same bytes"
    sections = decode_sections(data)[1]
    parts = {section.name: section.file_bytes for section in sections}
    side = parts["container"] + parts["header"]
    tensors = [section for section in sections if section.shape]
    floats = sum(section.file_bytes for section in tensors if network.tensors[section.name].integers is None)
    seconds = _decoding_seconds(data)
    return Row(
        name,
        sum(math.prod(section.shape) for section in tensors),
        sum(section.nonzero for section in tensors),
        len(data),
        {other: size(network) for other, size in competitors(nncodec_python).items()},
        _order_0(tensors) + side + parts["selections"],
        model_bytes(data) + side + floats,
        side,
        parts["selections"],
        original_bytes / seconds / 1e6,
        float32_bytes(network) / seconds / 1e6,
    )


def _order_0(tensors: Iterable[Section]) -> float:
    return sum(section.entropy_bytes for section in tensors)


def float32_bytes(network: StoredNetwork) -> int:
    """Of its arrays as they are stored, zeros included."""
    return FLOAT32_BYTES * sum(math.prod(tensor.shape) for tensor in network.tensors.values())


def _decoding_seconds(data: bytes) -> float:
    """Best of several, of processor time."""
    best, start = math.inf, time.process_time()
    while time.process_time() - start < LEAST_SECONDS:
        before = time.process_time()
        decode(data)
        best = min(best, time.process_time() - before)
    return best


def vgg_16() -> StoredNetwork:
    """VGG-16 for CIFAR-10 with a made-up decision of 15 million weights.

    Every layer keeps a share of its weights that falls with depth, as log-uniform and horseshoe posteriors do.  Filters
    and input channels differ in how much they keep (log-normal), centres of kernels keep more, kept values are
    two-sided exponential on the grid.
    """
    random, layers, channels = np.random.default_rng(0), list[Layer](), 3
    for position, entry in enumerate(VGG_CHANNELS):
        if not entry:
            layers.append(MaxPool2d((2, 2), (2, 2), (0, 0)))
            continue
        name = f"conv{position}"
        layers.append(Conv2d(name, channels, entry, (3, 3), (1, 1), (1, 1), (1, 1), 1, False))
        layers += [ChannelAffine(f"norm{position}", entry), Activation("relu")]
        channels = entry
    layers += [Flatten(), Linear("fc1", 512, 512, False), ChannelAffine("norm99", 512), Activation("relu")]
    layers.append(Linear("fc2", 512, 10, True))
    architecture, tensors, kept = Architecture((3, 32, 32), tuple(layers)), {}, iter(VGG_KEPT)
    for name, shape in tensor_shapes(architecture).items():
        if name.endswith(".weight"):
            tensors[name] = StoredTensor(_posterior_like(random, shape, next(kept)), power_of_two(-6))
        else:
            tensors[name] = StoredTensor(random.integers(-400, 400, shape).astype(np.int32), power_of_two(-8))
    return StoredNetwork(architecture, tensors)


def _posterior_like(random: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    filters, inputs = np.exp(random.normal(0, 0.7, shape[0])), np.exp(random.normal(0, 0.7, shape[1]))
    rate = filters[:, None] * inputs
    if len(shape) == 4:
        rate = rate[:, :, None, None] * np.array([[0.7, 1, 0.7], [1, 1.6, 1], [0.7, 1, 0.7]])
    kept = random.random(shape) < rate * (share / rate.mean())
    sizes = 1 + np.floor(random.exponential(2.5, shape))
    return (kept * sizes * random.choice([-1, 1], shape)).astype(np.int32)


def encode_vgg() -> tuple[float, int, int]:
    """Seconds and peak resident bytes of encoding VGG-16 in a process of its own, and that process's bytes before."""
    network = vgg_16()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.process_time()
    encode(network)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, before


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: sizes and their ratios, then what else was measured."""
    others = list(rows[0].others)
    yield f"| network | numbers | non-zero | .pyrc | {' | '.join(others)} | .pyrc / smallest |"
    yield "| --- " * (5 + len(others)) + "|"
    for row in rows:
        sizes = " | ".join(f"{size:,}" for size in row.others.values())
        ratio = row.ours / min(row.others.values())
        yield f"| {row.name} | {row.weights:,} | {row.nonzero:,} | {row.ours:,} | {sizes} | {ratio:.3f} |"
    yield ""
    yield "| network | order-0 entropy + side | file / that | models + side | file / that | container, header |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        yield (
            f"| {row.name} | {row.order_0:,.0f} | {row.ours / row.order_0:.3f} | {row.promised:,.0f} "
            f"| {row.ours / row.promised:.4f} | {row.side:.0f} (+ selections {row.selections:.0f}) |"
        )
    yield ""
    yield (
        "decoding, 10⁶ bytes of float32 numbers per second of one core, of the network that was compressed "
        "(and of the arrays that are left): "
    ) + ", ".join(f"{row.name} {row.megabytes_per_second:.0f} ({row.stored_megabytes_per_second:.0f})" for row in rows)


def network_of(directory: Path) -> tuple[str, StoredNetwork, int]:
    """Name of a run directory's entry, its network, and the bytes of that before compression."""
    results = json.loads((directory / "results.json").read_text())
    name = results["entry"] or results["network"]
    return name, load(directory / "network.pyrc").network, results["original_bytes"]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run directories that hold network.pyrc")
    parser.add_argument("--nncodec-python", type=Path, help="an interpreter that has nncodec")
    parser.add_argument("--no-vgg", action="store_true", help="leave out the made-up VGG-16")
    given = parser.parse_args()
    networks = [network_of(directory) for directory in given.runs]
    if not given.no_vgg:
        made_up = vgg_16()
        networks.append(("vgg-16, made up", made_up, float32_bytes(made_up)))
    rows = [measure(*each, given.nncodec_python) for each in networks]
    print("\n".join(table(rows)))
    if not given.no_vgg:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak, before = pool.apply(encode_vgg)
        print(f"encoding VGG-16: {seconds:.1f} seconds of processor time, {peak / 1e9:.2f} GB at most ", end="")
        print(f"({before / 1e9:.2f} GB of that to make the network)")


if __name__ == "__main__":
    main()
