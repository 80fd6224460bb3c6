"""A second reader of `.pyrc` files, written from `FORMAT.md` alone: plain Python and numpy, no code of the package.

It is slow and trusts the file.  Here are container and header (parts 1 and 2) and how a file is put together;
`specified_stream.py` has the stream (part 3), `specified_forward.py` what a network computes (part 4).  That both agree
with the package ties the specification to the code.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from tests.artifact.specified_stream import Matrix, Place, Range, deviations, grid, selection

STEMS = ["", "fc", "conv", "bn", "features.", "classifier.", "layers.", "net.", "linear", "layer"]
ACTIVATIONS = ["relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "gelu", "silu"]
LINEAR, CONV, AFFINE, MAX_POOL, AVERAGE_POOL, ADAPTIVE_POOL, FLATTEN, SELECT = range(8)
EXTENDED = ["flatten", "add", "recall", "relu6"]
FURTHER = ["conv_transpose", "upsample", "unflatten", "activation", "prelu", "concatenate", "multiply", "pad", "view"]
FURTHER += ["standardize", "resize", "adaptive_max_pool", "rearrange", "standardize_places", "attention"]
FURTHER += ["position_bias", "constant_positions", "embedding", "crop", "recurrent", "softmax", "again", "squeeze"]
PAD_MODES, RESIZE_MODES = (
    ["zeros", "reflect", "replicate", "circular"],
    ["nearest", "nearest-exact", "bilinear", "aligned"],
)
FURTHER_ACTIVATIONS = ["hardswish", "hardsigmoid", "mish", "gelu_tanh", "softsign", "times", "plus"]
FURTHER_ACTIVATIONS += ["at_least", "at_most"]
CODES = ["gaussian", "dirichlet", "logistic-normal"]
Pair = tuple[int, int]


@dataclass
class Descriptor:
    """What the header says of a tensor.

    `form` is float32, power, step, steps, levels or tied, to the tensor `distance` places before; `step` is e of the
    form power; `sides` of the form levels are how many are below and above zero; `levels` are the integers by place of
    a codebook of integers.
    """

    form: str = "float32"
    step: int = 0
    sides: tuple[int, int] = (0, 0)
    zero: bool = False
    density: int = 0
    strength: int = 0
    top: int = 0
    fall: int = 0
    levels: dict[int, int] | None = None
    distance: int = 0


@dataclass
class Layer:
    """One layer: its kind, the shapes before and after it, its fields, and its tensors' names, shapes, descriptors."""

    kind: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    factor: Pair = (1, 1)
    size: Pair = (1, 1)
    slope: float = 0.0
    mode: str = ""
    pad_before: Pair = (0, 0)
    pad_after: Pair = (0, 0)
    eps: float = 1e-5
    mean_square: bool = False
    view: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    heads: int = 1
    scale: float = 1.0
    causal: bool = False
    behind: bool = False
    cell: str = ""
    backwards: bool = False
    log: bool = False
    is_again: bool = False
    source: int | None = None
    kept: int = 0
    indices: list[int] = field(default_factory=list)
    name: str = ""
    tensors: dict[str, tuple[tuple[int, ...], Descriptor]] = field(default_factory=dict)


@dataclass
class Tensor:
    """Numbers in the tensor's shape, and the integers that were stored where it is not float32."""

    numbers: np.ndarray
    integers: np.ndarray | None = None


@dataclass
class Network:
    """What a file holds; `deviations` by tensor name, row major, None where the number is zero; `code` of a decoder."""

    input_shape: tuple[int, ...]
    layers: list[Layer]
    tensors: dict[str, Tensor]
    deviations: dict[str, list[int | None]]
    code: tuple[str, float | None] | None = None

    @property
    def selections(self) -> list[list[int]]:
        return [layer.indices for layer in self.layers if layer.kind == "select"]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


class Bits:
    """The header's fields; `at` is the byte behind those that were begun."""

    def __init__(self, data: bytes) -> None:
        self.data, self.bit = data, 0
        self.stem, self.number_in_name = "", -1
        self.last: dict[str, tuple[str, int]] = {"linear": ("fc", 0), "conv": ("conv", 0), "affine": ("bn", 0)}
        self.last |= {"conv_transpose": ("deconv", 0), "prelu": ("prelu", 0)}
        self.last |= {"position_bias": ("positions", 0), "constant_positions": ("constant", 0)}
        self.last |= {"embedding": ("embedding", 0), "recurrent": ("recurrent", 0)}
        self.steps = {"weight": 0, "other": 0}

    @property
    def at(self) -> int:
        return (self.bit + 7) // 8

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = 2 * value + (self.data[self.bit // 8] >> 7 - self.bit % 8 & 1)
            self.bit += 1
        return value

    def number(self, order: int = 4) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return 2 ** (zeros + order) + self.bits(zeros + order) - 2**order

    def pair(self) -> Pair:
        code = self.number(2)
        return code // 2, self.number(2) if code % 2 else code // 2

    def take(self, count: int) -> bytes:
        return bytes(self.bits(8) for _ in range(count))

    def name(self, kind: str) -> str:
        if self.bits(1):
            stem, number = self.last[kind]
            self.stem, self.number_in_name = stem, number + 1
        else:
            code = self.number()
            if code >= 64:
                self.stem, self.number_in_name = STEMS[(code - 64) // 6], (code - 64) % 6 - 1
            elif code:
                self.number_in_name += code
            else:
                self.stem = self.take(self.number()).decode()
                self.number_in_name = self.number() - 1
        self.last[kind] = self.stem, self.number_in_name
        return self.stem + (str(self.number_in_name) if self.number_in_name >= 0 else "")

    def descriptor(self, part: str, *, whole: bool = False) -> Descriptor:
        """Part 2.3; of whole numbers (2.6) there is no z."""
        kind, role = self.number(0), "weight" if part == "weight" else "other"
        if kind == 2:
            return Descriptor()
        if kind == 5:
            return Descriptor("tied", distance=self.number(2))
        if kind == 4:
            found = Descriptor(["step", "steps", "levels"][self.bits(2)])
            if found.form == "levels":
                found.sides = self.number(2), self.number(2)
            kind = self.number(0)
        elif whole:
            found = Descriptor("power", 0)
        else:
            z = self.number(0)
            step = self.steps[role] + (-(z + 1) // 2 if z % 2 else z // 2)
            self.steps["other"] = step
            self.steps[role] = step
            found = Descriptor("power", step)
        found.zero = kind == 1
        if found.zero:
            return found
        found.density, found.strength, found.top = self.number(2), self.bits(2), self.number(2)
        found.fall = self.bits(2) if found.top else 0
        if kind == 3:
            counts = self.number(2), self.number(2)
            order, found.levels = self.bits(4), {0: 0}
            for sign, count in zip((-1, 1), counts, strict=True):
                level = 0
                for place in range(1, count + 1):
                    level += 1 + self.number(order)
                    found.levels[sign * place] = sign * level
        return found


def window(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def read_layer(header: Bits, outputs: list[tuple[int, ...]], layers: list[Layer]) -> Layer:
    """The next layer, given the shapes of all outputs so far."""
    code, shape = header.bits(4), outputs[-1]
    number = header.bits(2) if code == FLATTEN else 0
    flags = [header.bits(1) for _ in range({LINEAR: 1, CONV: 4, MAX_POOL: 2, AVERAGE_POOL: 2}.get(code, code >= 8))]
    kinds = ["linear", "conv", "affine", "max_pool", "average_pool", "adaptive_pool", EXTENDED[number], "select"]
    layer = Layer([*kinds, *ACTIVATIONS][code], shape, shape)
    parts: dict[str, tuple[int, ...]] = {}
    if code == LINEAR:
        layer.after = (header.number(),)
        parts = {"weight": (*layer.after, *shape), "bias": layer.after}
    elif code == CONV:
        out, layer.kernel = header.number(), header.pair()
        layer.stride = header.pair() if flags[1] else (1, 1)
        layer.padding = header.pair() if flags[2] else (0, 0)
        layer.dilation, layer.groups = (header.pair(), header.number(2)) if flags[3] else ((1, 1), 1)
        parts = {"weight": (out, shape[0] // layer.groups, *layer.kernel), "bias": (out,)}
    elif code == AFFINE:
        parts = {"scale": shape[:1], "shift": shape[:1]}
    elif code in (MAX_POOL, AVERAGE_POOL):
        layer.kernel = header.pair()
        layer.stride = header.pair() if flags[0] else layer.kernel
        layer.padding = header.pair() if flags[1] else (0, 0)
    elif code == ADAPTIVE_POOL:
        layer.after = (shape[0], *header.pair())
    elif layer.kind in ("add", "recall"):
        distance = header.number(2)
        if not distance:
            return read_further(header, outputs, layers)
        layer.source = len(outputs) - 1 - distance
        layer.after = outputs[layer.source]
        if layer.kind == "add":
            layer.after = broadcast(shape, layer.after)
    elif layer.kind == "flatten":
        layer.after = (prod(shape),)
    elif code == SELECT:
        layer.kept = header.number()
        layer.after = (layer.kept, *shape[1:])
    elif code >= 8:
        default = {"leaky_relu": 0.01, "elu": 1.0}.get(layer.kind, 0.0)
        layer.slope = struct.unpack("<d", header.take(8))[0] if flags[0] else default
    if code in (CONV, MAX_POOL, AVERAGE_POOL):
        size = map(window, shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation)
        layer.after = (parts["weight"][0] if code == CONV else shape[0], *size)
    if code in (LINEAR, CONV) and not flags[0]:
        del parts["bias"]
    return with_tensors(header, layer, parts)


def read_further(header: Bits, outputs: list[tuple[int, ...]], layers: list[Layer]) -> Layer:
    """What stands in place of a Recall of distance 0."""
    shape = outputs[-1]
    layer = Layer(FURTHER[header.number(0)], shape, shape)
    if layer.kind == "again":
        first = layers[-header.number(2)]
        # vectors and series keep their places, images of another size have as many as the same windows give
        same = first.after == first.before
        layer = replace(first, before=shape, after=shape if same else first.after, is_again=True)
        if layer.kind in ("conv", "conv_transpose") and first.before != shape:
            windows = zip(shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
            layer.after = (first.after[0], *(window(*each) for each in windows))
        return layer
    if layer.kind == "upsample":
        layer.factor = header.pair()
        layer.after = (shape[0], shape[1] * layer.factor[0], shape[2] * layer.factor[1])
        return layer
    if layer.kind == "unflatten":
        layer.size = header.pair()
        layer.after = (shape[0] // prod(layer.size), *layer.size)
        return layer
    if layer.kind == "activation":
        flag = header.bits(1)
        layer.kind = FURTHER_ACTIVATIONS[header.number(2)]
        layer.slope = struct.unpack("<d", header.take(8))[0] if flag else 0.0
        return layer
    if layer.kind in ("concatenate", "multiply"):
        layer.source = len(outputs) - 1 - header.number(2)
        earlier = outputs[layer.source]
        if layer.kind == "concatenate":
            layer.after = (earlier[0] + shape[0], *shape[1:])
        else:
            layer.after = broadcast(shape, earlier)
        return layer
    if layer.kind == "pad":
        layer.mode = PAD_MODES[header.bits(2)]
        layer.pad_before, layer.pad_after = header.pair(), header.pair()
        extents = zip(shape[1:], layer.pad_before, layer.pad_after, strict=True)
        layer.after = (shape[0], *map(sum, extents))
        return layer
    if layer.kind == "view":
        layer.after = (shape[0], *[header.number() for _ in range(header.number(0) + 1)])
        return layer
    if layer.kind in ("standardize", "standardize_places"):
        layer.mean_square, has_eps = bool(header.bits(1)), header.bits(1)
        layer.groups = header.number(2)
        layer.eps = struct.unpack("<d", header.take(8))[0] if has_eps else 1e-5
        return layer
    if layer.kind == "squeeze":
        layer.after = ()
        return layer
    if layer.kind == "softmax":
        layer.log = bool(header.bits(1))
        return layer
    if layer.kind in ("resize", "adaptive_max_pool"):
        layer.mode = RESIZE_MODES[header.bits(2)] if layer.kind == "resize" else ""
        layer.after = (shape[0], *header.pair())
        return layer
    if layer.kind == "rearrange":
        layer.view = read_extents(header)
        layer.order = tuple(header.number(0) for _ in layer.view)
        layer.after = read_extents(header)
        return layer
    if layer.kind == "crop":
        layer.pad_before, layer.size = header.pair(), header.pair()
        layer.after = (shape[0], *layer.size)
        return layer
    if layer.kind == "attention":
        layer.causal = bool(header.bits(1))
        layer.heads, values = header.number(2), header.number()
        layer.after = (values, *shape[1:])
        layer.scale = struct.unpack("<d", header.take(8))[0]
        return layer
    if layer.kind == "position_bias":
        return with_tensors(header, layer, {"value": (prod(shape[1:]), shape[0])})
    if layer.kind == "constant_positions":
        layer.behind = bool(header.bits(1))
        count = header.number(2)
        layer.after = (*shape[:2], shape[2] + count)
        return with_tensors(header, layer, {"value": (count, shape[0])})
    if layer.kind == "embedding":
        tokens, features = header.number(), header.number()
        layer.after = (features, 1, shape[0])
        return with_tensors(header, layer, {"weight": (tokens, features)})
    if layer.kind == "recurrent":
        layer.cell = ["lstm", "gru", "rnn_tanh", "rnn_relu"][header.bits(2)]
        layer.backwards = bool(header.bits(1))
        has_bias = layer.cell == "gru" and header.bits(1)
        hidden = shape[0] // {"lstm": 4, "gru": 3}.get(layer.cell, 1)
        layer.after = (hidden, *shape[1:])
        states: dict[str, tuple[int, ...]] = {"weight": (shape[0], hidden)}
        return with_tensors(header, layer, states | ({"bias": (hidden,)} if has_bias else {}))
    if layer.kind == "prelu":
        return with_tensors(header, layer, {"slope": (shape[0] if header.bits(1) else 1,)})
    flags = [header.bits(1) for _ in range(5)]
    out, layer.kernel = header.number(), header.pair()
    layer.stride = header.pair() if flags[1] else (2, 2)
    layer.padding = header.pair() if flags[2] else (0, 0)
    layer.output_padding = header.pair() if flags[3] else (0, 0)
    layer.dilation, layer.groups = (header.pair(), header.number(2)) if flags[4] else ((1, 1), 1)
    sizes = zip(shape[1:], layer.stride, layer.padding, layer.dilation, layer.kernel, layer.output_padding, strict=True)
    layer.after = (out, *((size - 1) * s - 2 * p + d * (k - 1) + more + 1 for size, s, p, d, k, more in sizes))
    parts: dict[str, tuple[int, ...]] = {"weight": (shape[0], out // layer.groups, *layer.kernel)}
    return with_tensors(header, layer, parts | {"bias": (out,)} if flags[0] else parts)


def broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(b if a == 1 else a for a, b in zip(one, other, strict=True))


def read_extents(header: Bits) -> tuple[int, ...]:
    return tuple(header.number() for _ in range(header.number(0) + 1))


def with_tensors(header: Bits, layer: Layer, parts: dict[str, tuple[int, ...]]) -> Layer:
    """The layer with its name and descriptors."""
    layer.name = header.name(layer.kind) if parts else ""
    for part, extents in parts.items():
        layer.tensors[part] = extents, header.descriptor(part)
    return layer


def body_of(data: bytes) -> bytes:
    """Part 1."""
    length, start = varint(data, 4)
    assert data[:4] == b"PYR\1"
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    if len(data) != start + length + 4:
        size, note = varint(data, start + length)
        assert 1 <= size <= 2**16 and len(data) == note + size + 4
        assert json.loads(data[note:-4])
    return data[start : start + length]


def decode(data: bytes) -> Network:
    """The whole file."""
    body = body_of(data)
    header = Bits(body)
    has_deviations = header.bits(1)
    rank, code = header.number(2), None
    if rank > 8:
        parameter = struct.unpack("<d", header.take(8))[0] if rank > 9 else None
        rank, code = 1, (CODES[rank - 9], parameter)
    shape = tuple(header.number() for _ in range(rank))
    side = header.number() if rank == 1 and code is None else 0
    outputs, layers = [shape], list[Layer]()
    for _ in range(header.number()):
        layers.append(read_layer(header, outputs, layers))
        outputs.append(layers[-1].after)
    found, at = Network(shape, layers, {}, {}, code), header.at
    tensors = {f"{layer.name}.{part}": tensor for layer in layers for part, tensor in layer.tensors.items()}
    floats: dict[str, np.ndarray] = {}
    for name, (extents, said) in tensors.items():
        many = {"float32": prod(extents), "step": 1, "steps": extents[0], "levels": sum(said.sides)}.get(said.form, 0)
        floats[name] = np.frombuffer(body, "<f4", many, at)
        at += 4 * many
    coder = Range(body[at:])
    columns = read_selections(coder, layers, shape, side)
    for name, (extents, said) in tensors.items():
        if said.form == "tied":
            first = list(tensors)[list(tensors).index(name) - said.distance]
            same = found.tensors[first]
            assert tensors[first][1].form != "tied" and tensors[first][0][0] == extents[0]
            found.tensors[name] = Tensor(
                same.numbers.reshape(extents), None if same.integers is None else same.integers.reshape(extents)
            )
        elif said.form == "float32":
            found.tensors[name] = Tensor(floats[name].reshape(extents))
        else:
            integers = read_integers(coder, extents, said, columns[name])
            found.tensors[name] = Tensor(meant(integers, said, floats[name]), integers)
    for name, tensor in found.tensors.items() if has_deviations else ():
        if tensors[name][1].form == "tied":
            continue
        if tensor.numbers.any() and coder.bit(2**15):
            rows = tensor.numbers.reshape(len(tensor.numbers), -1).tolist()
            found.deviations[name] = deviations(coder, rows)
    for name, (_, said) in tensors.items():
        if said.form == "tied":
            first = list(tensors)[list(tensors).index(name) - said.distance]
            found.deviations |= {name: found.deviations[first]} if first in found.deviations else {}
    return found


def read_selections(coder: Range, layers: list[Layer], shape: tuple[int, ...], side: int) -> dict[str, list[Place]]:
    """Fills in the indices of every Select; gives the places of every tensor's columns (part 3.2)."""
    features = None
    if len(shape) == 1:
        features = grid(shape[0] // side**2, side, side) if side else grid(shape[0], 1, 1)
    seen, columns = [features], dict[str, list[Place]]()
    for layer in layers:
        known = dict(columns)
        for part in layer.tensors:
            columns[f"{layer.name}.{part}"] = [(0, 0, 0)]
        if layer.kind in ("embedding", "position_bias", "constant_positions"):
            for part, (extents, _) in layer.tensors.items():
                columns[f"{layer.name}.{part}"] = grid(extents[1], 1, 1)
        if layer.kind == "recurrent":
            columns[f"{layer.name}.weight"] = grid(layer.after[0], 1, 1)
        if layer.kind in ("embedding", "rearrange"):
            features = grid(layer.after[0], 1, 1) if len(layer.after) == 1 else None
        elif layer.kind == "linear":
            columns[f"{layer.name}.weight"] = features or []
            features = grid(layer.after[0], 1, 1)
        elif layer.kind == "conv":
            columns[f"{layer.name}.weight"] = grid(layer.before[0] // layer.groups, *layer.kernel)
        elif layer.kind == "conv_transpose":
            columns[f"{layer.name}.weight"] = grid(layer.after[0] // layer.groups, *layer.kernel)
        elif layer.kind == "unflatten":
            features = None
        elif layer.kind == "select":
            places = grid(layer.before[0], 1, 1) if features is None else features
            layer.indices = selection(coder, places, layer.kept)
            features = None if features is None else [places[k] for k in layer.indices]
        elif layer.kind == "flatten" and features is None:
            features = grid(*layer.before) if len(layer.before) == 3 else grid(layer.after[0], 1, 1)
        elif layer.kind == "recall" and layer.source is not None:
            features = seen[layer.source]
        elif layer.kind == "concatenate" and len(layer.after) == 1:
            features = grid(layer.after[0], 1, 1)
        elif layer.kind in ("add", "multiply") and layer.source is not None and layer.before == (1,):
            earlier = seen[layer.source]
            features = features if earlier is None or len(earlier) == 1 else earlier
        # a layer that is used again has its tensors where it is first used
        columns |= known
        seen.append(features)
    return columns


def meant(integers: np.ndarray, said: Descriptor, floats: np.ndarray) -> np.ndarray:
    """The numbers that integers stand for: float32 products, or levels (part 2.3)."""
    if said.form == "levels":
        book = np.insert(floats, said.sides[0], 0)
        return np.array([book[q + said.sides[0]] for q in integers.flat], np.float32).reshape(integers.shape)
    step = np.float32(2.0**said.step) if said.form == "power" else floats
    if said.form == "steps":
        step = floats.reshape(-1, *(1,) * (integers.ndim - 1))
    return np.asarray(integers.astype(np.float32) * step)


def read_integers(coder: Range, extents: tuple[int, ...], said: Descriptor, places: list[Place]) -> np.ndarray:
    if said.zero or not prod(extents):
        return np.zeros(extents, np.int64)
    start = (5 if said.density % 2 else 7) * 2**13 >> said.density // 2
    strength, fall = (1, 4, 16, 64)[said.strength], (6, 10, 13, 15)[said.fall]
    rows = Matrix(places, start, strength, said.top, fall).decode(coder, extents[0])
    integers = [said.levels[place] if said.levels else place for row in rows for place in row]
    return np.array(integers, np.int64).reshape(extents)
