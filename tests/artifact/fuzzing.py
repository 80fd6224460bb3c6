"""Damaged compressed files, and the property that a reader keeps on all of them.

Half of the mutations are aware of the format: they take a valid file apart into the fields that a reader sees, change
some, and repair length and checksum, so that header, architecture and entropy decoder are reached.  The other half
change raw bytes, as a disk or a network does, and are never accepted.
"""

import signal
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from math import prod
from random import Random
from types import FrameType

import numpy as np

from pyro_compress.artifact.format.container import MAGIC, VERSION, unwrap
from pyro_compress.artifact.format.decode_weights import decode_any
from pyro_compress.artifact.format.header import (
    ALL_ZERO,
    WEIGHTS_MARK,
    Header,
    TensorCode,
    places,
    shape_after,
)
from pyro_compress.artifact.format.header_reader import HeaderReader
from pyro_compress.artifact.format.weights_header import Entry, WeightsHeader, read_header, width
from pyro_compress.artifact.writing.encode import encode, encode_with
from pyro_compress.artifact.writing.encode_weights import encode_weights, encode_weights_with
from pyro_compress.errors import ArtifactError
from pyro_compress.network.further_layers import (
    AdaptiveMaxPool2d,
    Concatenate,
    Multiply,
    Pad,
    Resize,
    Softmax,
    Standardize,
    View,
)
from pyro_compress.network.layers import (
    Activation,
    Add,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    PReLU,
    Recall,
    Select,
    Unflatten,
    Upsample,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Stored, Uniform
from pyro_compress.network.sequence_layers import (
    Attention,
    ConstantPositions,
    Crop,
    Embedding,
    PositionBias,
    Rearrange,
    Recurrent,
)
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.network.stored_weights import StoredWeights
from tests.artifact import networks, weights

Field = tuple[str, str]

ACCEPTED = "accepted"
LONGEST_SENTENCE = 600
EDGES = (0, 1, 2, 3, 7, 63, 64, 127, 128, 255, 256, 1024, 2**14, 2**16, 2**21, 2**22, 2**23, 2**24, 2**27, 2**31, 2**32)
MANY_EDGES = (*EDGES, *(edge + 1 for edge in EDGES), 2**40, 2**63, 2**64, 2**70)
FLOATS = ("0000c07f", "0000807f", "000080ff", "01000000", "ffff7f7f", "00000080", "010080ff")

# What decoding may take; the last two are bytes per number and per place that the header declares.
SECONDS = 20.0
FIXED_BYTES = 2_000_000
PER_FILE_BYTE = 64
PER_NUMBER = 64
PER_PLACE = 512
PER_TENSOR_OF_WEIGHTS = 4096


class TookTooLong(Exception):
    """Decoding used more processor time than it may."""


class FieldReader(HeaderReader):
    """A reader of headers that notes its fields: bits as the characters 0 and 1, and of numbers the order."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.fields: list[Field] = []
        self._inside = False

    def bits(self, count: int, what: str) -> int:
        value = super().bits(count, what)
        if not self._inside and count:
            self.fields.append(("bits", f"{value:0{count}b}"))
        return value

    def number(self, what: str, limit: int, order: int) -> int:
        self._inside = True
        try:
            value = super().number(what, limit, order)
        finally:
            self._inside = False
        self.fields.append((f"order {order}", bit_number(value, order)))
        return value


@dataclass(frozen=True)
class Parts:
    """A valid file taken apart: version, the header's fields, float32 numbers, stream."""

    version: int
    fields: tuple[Field, ...]
    floats: bytes
    stream: bytes


def bit_number(value: int, order: int) -> str:
    """An Exp-Golomb code as characters."""
    digits = f"{value + (1 << order):b}"
    return "0" * (len(digits) - order - 1) + digits


def packed(digits: str) -> bytes:
    """Bits as bytes, the last one filled with zeros; spaces are for the eye."""
    digits = digits.replace(" ", "")
    digits += "0" * (-len(digits) % 8)
    return int(digits or "0", 2).to_bytes(len(digits) // 8, "big")


def varint(value: int) -> bytes:
    """A length as the container writes it."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def wrapped(body: bytes, version: int = VERSION) -> bytes:
    """A body in an intact container: magic, version, right length, right checksum."""
    data = MAGIC + bytes([version]) + varint(len(body)) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


@lru_cache(maxsize=64)
def parts_of(data: bytes) -> Parts:
    """The parts of a valid file; they are all of it."""
    body = unwrap(data)
    reader = FieldReader(body)
    if body.startswith(WEIGHTS_MARK):
        entries = read_header(reader, body).single()
        floats = sum(entry.body_count * entry.body_type.itemsize for _, entry in entries)
    else:
        header = reader.header()
        floats = sum(4 * header.codes[name].floats(shape) for name, shape in header.shapes.items())
    stop = reader.position + floats
    parts = Parts(data[len(MAGIC)], tuple(reader.fields), body[reader.position : stop], body[stop:])
    assert joined(parts) == data
    return parts


def joined(parts: Parts) -> bytes:
    """The file of these parts, with the length and the checksum that they need."""
    return wrapped(packed("".join(digits for _, digits in parts.fields)) + parts.floats + parts.stream, parts.version)


def small_networks() -> list[StoredNetwork]:
    """Networks that take a millisecond to decode, with everything that the format has."""
    plain = partial(Conv2d, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=False)
    dense: tuple[Layer, ...] = (
        Select((0, 3, 5, 6)),
        Linear("fc1", 4, 2, True),
        Activation("leaky_relu", 0.3),
        Linear("fc2", 2, 1, False),
    )
    images: tuple[Layer, ...] = (
        plain("conv1", 1, 2, (3, 2), padding=(1, 1)),
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        Conv2d("conv2", 2, 2, (1, 1), (2, 1), (0, 0), (1, 1), 2, True),
        Flatten(),
        Linear("out", 4, 1, False),
    )
    residual: tuple[Layer, ...] = (
        plain("a.0", 1, 2, (2, 2), padding=(1, 1)),
        Activation("relu6"),
        Recall(0),
        plain("größe", 1, 2, (1, 1), padding=(1, 1), dilation=(2, 2)),
        MaxPool2d((2, 2), (1, 1), (0, 0)),
        Add(2),
        ChannelAffine("bn", 2),
    )
    decoder: tuple[Layer, ...] = (
        Activation("times", -0.5),
        Unflatten((2, 1)),
        PReLU("prelu1", 2),
        ConvTranspose2d("deconv1", 2, 1, (3, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1, True),
        Upsample((1, 2)),
        ConvTranspose2d("up", 1, 1, (1, 2), (1, 2), (0, 1), (0, 1), (2, 1), 1, False),
    )
    joined: tuple[Layer, ...] = (
        View((1, 4)),
        Standardize(1, 0.5),
        Pad((0, 1), (0, 0)),
        Resize((1, 4), "bilinear"),
        Concatenate(2),
        AdaptiveMaxPool2d((1, 1)),
        Multiply(5),
        Softmax(log=True),
        View((4,)),
    )
    attending: tuple[Layer, ...] = (
        Embedding("embedding1", 3, 6),
        PositionBias("positions1", 2, 6),
        Standardize(2, 0.5, by_place=True),
        Attention(1, 2, 0.5, causal=True),
        ConstantPositions("constant1", 1, 2),
        Rearrange((2, 3), (1, 0), (3, 1, 2)),
        Crop((0, 1), (1, 1)),
    )
    recurring: tuple[Layer, ...] = (
        Recurrent("recurrent1", "gru", 1, bias=True),
        Recurrent("recurrent2", "rnn_relu", 1, reverse=True),
    )
    found = [
        networks.filled((2, 4), joined),
        networks.filled((4,), decoder),
        networks.filled((4,), ()),
        networks.filled((8,), dense, floats=("fc2.weight",)),
        networks.filled((1, 4, 4), images, floats=("conv2.bias",)),
        networks.filled((1, 3, 3), residual, floats=("bn.scale",)),
        networks.coded(),
        networks.filled((2,), attending),
        networks.filled((3, 1, 2), recurring),
    ]
    integers = found[3].tensors["fc1.weight"].integers
    assert integers is not None
    deviations = np.where(integers, -3 - np.arange(integers.size).reshape(integers.shape) % 2, 0).astype(np.int8)
    return [*found, replace(found[3], deviations={"fc1.weight": deviations})]


@cache
def small_files() -> tuple[bytes, ...]:
    """The valid files that mutations start from."""
    found = small_networks()
    codebook = networks.filled((4,), (Linear("fc1", 4, 8, True),))
    integers = codebook.tensors["fc1.weight"].integers
    assert integers is not None
    integers[:] = np.reshape([0, 300, 300, -77, 0, -77, 300, 12] * 4, (8, 4))
    others = [networks.filled((4,), (Linear("fc1", 4, 3, True),)) for _ in range(3)]
    quantizers: tuple[Stored, ...] = Uniform(0.3), PerChannel((0.5, 0.3, 2.0)), Codebook((-0.25, 0.1, 7.0))
    for network, quantizer in zip(others, quantizers, strict=True):
        integers = np.resize(np.array([0, 2, -1, 0, 1], np.int32), (3, 4))
        network.tensors["fc1.weight"] = StoredTensor(integers, quantizer)
    held = weights.every_form().tensors
    names = list(held)
    parts = [names[:8], names[8:14], names[14:]]
    more = [encode_weights(StoredWeights({name: held[name] for name in part})) for part in parts]
    return (*(encode(network) for network in (*found, codebook, *others)), *more)


def damaged(files: tuple[bytes, ...], random: Random) -> bytes:
    """One of the files with some of its raw bytes changed; differs from all of them."""
    while True:
        data = bytearray(random.choice(files))
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            _damage(data, random.choice(files), random)
        if bytes(data) not in files:
            return bytes(data)


def _damage(data: bytearray, other: bytes, random: Random) -> None:
    """Flip, set, delete, insert, truncate or splice."""
    at = random.randrange(len(data) + 1)
    size = random.choice((1, 2, 4, 20))
    match random.randrange(7):
        case 0 | 1 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 2 if at < len(data):
            data[at] = random.randrange(256)
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = random.randbytes(size)
        case 5:
            del data[at:]
        case _:
            start = random.randrange(len(other))
            data[at : at + size] = other[start : start + random.choice((size, len(other)))]


def altered(files: tuple[bytes, ...], random: Random) -> bytes:
    """One of the files with some of its fields changed, in an intact container."""
    parts = parts_of(random.choice(files))
    if random.random() < 0.03:
        return _retold(joined(parts), random)
    fields, version = list(parts.fields), parts.version
    floats, stream = bytearray(parts.floats), bytearray(parts.stream)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        other = parts_of(random.choice(files))
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                _alter_field(fields, random)
            case 4 | 5:
                _move_fields(fields, other.fields, random)
            case 6 if floats:
                at = 4 * random.randrange(len(floats) // 4 + 1)
                floats[at : at + 4] = bytes.fromhex(random.choice(FLOATS))
            case 7:
                version = random.choice((0, 1, 1, 1, 1, 2, 3, 255))
            case 8:
                stream = bytearray(random.choice((b"", other.stream, bytes(8), b"\xff" * 8, stream[:-1])))
            case _:
                _damage(stream or bytearray(1), other.stream or b"\0", random)
    return wrapped(packed("".join(digits for _, digits in fields)) + floats + stream, version)


def _alter_field(fields: list[Field], random: Random) -> None:
    at = random.randrange(len(fields))
    kind, digits = fields[at]
    if kind == "bits":
        flipped = random.choice((1 << random.randrange(len(digits)), random.getrandbits(len(digits))))
        digits = f"{int(digits, 2) ^ flipped:0{len(digits)}b}"
    else:
        order = int(kind.removeprefix("order"))
        value = int(digits, 2) - (1 << order)
        near = max(0, value + random.choice((-2, -1, 1, 2)))
        digits = bit_number(random.choice((near, near, 2 * value, random.choice(MANY_EDGES))), order)
    fields[at] = (kind, digits)


def _move_fields(fields: list[Field], other: tuple[Field, ...], random: Random) -> None:
    """Delete, repeat or exchange a run of fields, or take one from another file."""
    at, size = random.randrange(len(fields)), random.choice((1, 1, 2, 3, 8))
    start = random.randrange(len(other))
    match random.randrange(4):
        case 0 if len(fields) > size:
            del fields[at : at + size]
        case 1:
            fields[at:at] = fields[at : at + size] * random.choice((1, 2, 60))
        case 2:
            to = random.randrange(len(fields))
            fields[at], fields[to] = fields[to], fields[at]
        case _:
            fields[at : at + random.choice((0, size))] = other[start : start + size]


def _retold(data: bytes, random: Random) -> bytes:
    """Another valid file: other integers, or the same under settings that the encoder would not choose."""
    held = decode_any(data)
    if isinstance(held, StoredWeights):
        entries: dict[str, Entry | str] = dict(read_header(HeaderReader(unwrap(data)), unwrap(data)).entries)
        for name, entry in entries.items():
            if isinstance(entry, Entry):
                entries[name] = replace(entry, code=_another(entry.code, held.tensors[name].integers, random))
        return encode_weights_with(WeightsHeader(entries), held)
    header = header_of(data)
    header.layers = list(held.architecture.layers)
    for name, code in header.codes.items():
        header.codes[name] = _another(code, held.tensors[name].integers, random)
    return encode_with(header, held)


def _another(code: TensorCode, integers: np.ndarray | None, random: Random) -> TensorCode:
    """Other settings for integers, one of which is changed here."""
    if integers is None or not integers.size or code.density == ALL_ZERO:
        return code
    integers.flat[random.randrange(integers.size)] = random.choice((0, 1, -1, 17, -5))
    other = replace(code, density=random.randrange(30), strength=random.randrange(4), fall=random.randrange(4))
    levels = tuple(np.unique(integers[integers != 0]).tolist()) if code.codebook else ()
    return replace(other, top_token=55, codebook=levels)


def mutated(files: tuple[bytes, ...], random: Random) -> tuple[bytes, bool]:
    """A mutated file, and whether its container was repaired: half of them are."""
    repaired = random.random() < 0.5
    return (altered if repaired else damaged)(files, random), repaired


def header_of(data: bytes) -> Header:
    """The header of a file whose container is intact."""
    return HeaderReader(unwrap(data)).header()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in what uses more processor time than that; main thread only."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"more than {seconds:g} seconds of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(data: bytes) -> str:
    """`ACCEPTED`, or the function that refused the data.

    Raises:
        TookTooLong: it took more than `SECONDS`.
        AssertionError: a network was accepted that is written in other bytes, or a refusal says nothing.
        Exception: anything else that the reader should not have raised.
    """
    try:
        with limited(SECONDS):
            held = decode_any(data)
    except ArtifactError as error:
        assert not isinstance(error.__cause__, MemoryError), "memory was asked for that is not there"
        sentence = str(error)
        assert 10 < len(sentence) < LONGEST_SENTENCE and "\n" not in sentence, sentence
        trace = error.__traceback__
        assert trace is not None
        while trace.tb_next is not None:
            trace = trace.tb_next
        return f"{trace.tb_frame.f_globals['__name__'].rpartition('.')[2]}.{trace.tb_frame.f_code.co_name}"
    assert written_again(data, held) == data, "accepted, but the network is written in other bytes"
    return ACCEPTED


def written_again(data: bytes, held: StoredNetwork | StoredWeights) -> bytes:
    """What was read from a file, under the settings of that file."""
    if isinstance(held, StoredWeights):
        return encode_weights_with(read_header(HeaderReader(unwrap(data)), unwrap(data)), held)
    header = header_of(data)
    header.layers = list(held.architecture.layers)
    return encode_with(header, held)


def peak_bytes(data: bytes) -> int:
    """Memory that decoding takes at most, whatever it ends in."""
    tracemalloc.start()
    try:
        decode_any(data)
    except ArtifactError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def stated_bytes(data: bytes) -> int:
    """The memory that FORMAT.md allows for these bytes."""
    allowed = FIXED_BYTES + PER_FILE_BYTE * len(data)
    try:
        body = unwrap(data)
        if body.startswith(WEIGHTS_MARK):
            return allowed + _stated_of_weights(read_header(HeaderReader(body), body))
        header = header_of(data)
    except ArtifactError:
        return allowed
    shapes = [header.input_shape]
    placed = prod(header.input_shape)
    for position, layer in enumerate(header.layers):
        shapes.append(shape_after(layer, shapes, header.selected.get(position)))
        placed += places(layer, shapes[-2], shapes[-1])
    numbers = sum(prod(shape) for shape in header.shapes.values())
    return allowed + PER_NUMBER * numbers + PER_PLACE * placed


def _stated_of_weights(header: WeightsHeader) -> int:
    entries = [entry for _, entry in header.single()]
    numbers = sum(prod(entry.shape) for entry in entries)
    placed = sum(width(entry.shape) for entry in entries if entry.is_coded)
    return PER_TENSOR_OF_WEIGHTS * len(header.entries) + PER_NUMBER * numbers + PER_PLACE * placed
