"""A second decoder that follows `FORMAT.md`: plain Python, one symbol at a time, no code of the package.

It is slow and trusts the file.  That it agrees with `pyro_compress.artifact.format.decode` ties the specification to
the code.
"""

import struct
from dataclasses import dataclass, field
from math import floor

STEMS = ["", "fc", "conv", "bn", "features.", "classifier.", "layers.", "net.", "linear", "layer"]
Place = tuple[int, int, int]


def prod(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


class Bytes:
    """The header's fields."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stem, self.number, self.steps = "", -1, {True: 0, False: 0}

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self, order: int = 4) -> int:
        low = self.byte()
        return low if low < 128 else low - 128 + 128 * self.varint(order)

    def pair(self) -> tuple[int, int]:
        code = self.varint(2)
        return code // 2, self.varint(2) if code % 2 else code // 2

    def head(self) -> tuple[int, int, list[int]]:
        """Code, the number of code 6, flags."""
        head = self.byte()
        return head & 15, head >> 4, [head >> bit & 1 for bit in range(4, 8)]

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def name(self, code: int) -> str:
        return self._name()

    def _name(self) -> str:
        code = self.varint()
        if code >= 64:
            self.stem, self.number = STEMS[(code - 64) // 6], (code - 64) % 6 - 1
        elif code:
            self.number += code
        else:
            self.stem = self.take(self.varint()).decode()
            self.number = self.varint() - 1
        return self.stem + (str(self.number) if self.number >= 0 else "")

    def descriptor(self, part: str) -> "Descriptor":
        head = self.byte()
        if head & 128:
            self.steps[part == "weight"] = self.byte() - 64
        sizes = self.byte() if head & 31 < 30 else 0
        return Descriptor(head & 31, head >> 5 & 3, self.steps[part == "weight"], sizes & 63, sizes >> 6)


class Bits(Bytes):
    """The header's fields in version 3, part 2.1; `at` is the byte behind those that were begun."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bit = 0
        self.last: dict[int, tuple[str, int]] = {0: ("fc", 0), 1: ("conv", 0), 2: ("bn", 0)}

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = 2 * value + (self.data[self.bit // 8] >> 7 - self.bit % 8 & 1)
            self.bit += 1
        self.at = (self.bit + 7) // 8
        return value

    def varint(self, order: int = 4) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return 2 ** (zeros + order) + self.bits(zeros + order) - 2**order

    def byte(self) -> int:
        return self.bits(8)

    def take(self, count: int) -> bytes:
        return bytes(self.bits(8) for _ in range(count))

    def head(self) -> tuple[int, int, list[int]]:
        code = self.bits(4)
        number = self.bits(2) if code == 6 else 0
        count = {0: 1, 1: 4, 3: 2, 4: 2}.get(code, int(code >= 8))
        return code, number, [self.bits(1) for _ in range(count)]

    def name(self, code: int) -> str:
        if self.bits(1):
            stem, number = self.last[code]
            self.stem, self.number = stem, number + 1
        else:
            self._name()
        self.last[code] = self.stem, self.number
        return self.stem + (str(self.number) if self.number >= 0 else "")

    def descriptor(self, part: str) -> "Descriptor":
        kind = self.varint(0)
        if kind == 2:
            return Descriptor(30)
        z = self.varint(0)
        step = self.steps[part == "weight"] + (-(z + 1) // 2 if z % 2 else z // 2)
        self.steps[False] = step
        if part == "weight":
            self.steps[True] = step
        if kind == 1:
            return Descriptor(31, step=step)
        density, strength, top = self.varint(2), self.bits(2), self.varint(2)
        found = Descriptor(density, strength, step, top, self.bits(2) if top else 0)
        if kind == 3:
            counts = self.varint(2), self.varint(2)
            order, found.levels = self.bits(4), {0: 0}
            for sign, count in zip((-1, 1), counts, strict=True):
                level = 0
                for place in range(1, count + 1):
                    level += 1 + self.varint(order)
                    found.levels[sign * place] = sign * level
        return found


@dataclass
class Descriptor:
    """What the header says of a tensor; `levels` by place if there is a codebook."""

    density: int
    strength: int = 0
    step: int = 0
    top: int = 0
    fall: int = 0
    levels: dict[int, int] | None = None


class Range:
    """The range decoder of part 3.1."""

    def __init__(self, stream: bytes) -> None:
        self.words = (int.from_bytes(stream[i : i + 4].ljust(4, b"\0"), "big") for i in range(0, len(stream), 4))
        self.lower, self.width = 0, 2**64 - 1
        self.point = next(self.words, 0) * 2**32 + next(self.words, 0)

    def symbol(self, frequencies: list[int]) -> int:
        scale = self.width >> 24
        quantile = (self.point - self.lower) % 2**64 // scale
        symbol = start = 0
        while start + frequencies[symbol] <= quantile:
            start += frequencies[symbol]
            symbol += 1
        self.lower, self.width = (self.lower + scale * start) % 2**64, scale * frequencies[symbol]
        if self.width < 2**32:
            self.lower, self.width = self.lower * 2**32 % 2**64, self.width * 2**32
            self.point = (self.point * 2**32 + next(self.words, 0)) % 2**64
        return symbol

    def bit(self, p: int) -> int:
        return self.symbol([2**8 * (2**16 - p), 2**8 * p])


def clipped(odds: float) -> int:
    return min(max(floor(odds / (1.0 + odds) * 65536), 1), 65535)


class Matrix:
    """Parts 3.2 to 3.4 for one matrix; `top` is None for a selection."""

    def __init__(
        self, version: int, places: list[Place], start: int, strength: int, top: int | None, fall: int
    ) -> None:
        self.new = version == 3
        self.places, self.start, self.a, self.top = places, start, strength * 65536, top
        self.spatial = any(y or x for _, y, x in places)
        phases = [y % 2 * 2 + x % 2 if self.spatial else j % 4 for j, (_, y, x) in enumerate(places)]
        self.parts = [[j for j, phase in enumerate(phases) if phase == k] for k in range(4) if k in phases]
        wide = max(x for _, _, x in places)
        labels = [[c for c, _, _ in places], [y * (wide + 1) + x for _, y, x in places]]
        labels.append([y // 4 * (wide // 4 + 1) + x // 4 for _, y, x in places])
        self.labels = [label for label in labels if 1 < len(set(label)) < len(places)]
        self.groups: dict[tuple[object, ...], list[int]] = {}
        self.signs = [[0, 0] for _ in range(4)]
        self.sizes = [[0] * ((top or 0) + 1) for _ in range(6 if self.new else 9)]
        prior = [1.0]
        while len(prior) <= (top or 0):
            prior.append(prior[-1] * fall / 16)
        total = 0.0
        for weight in prior:
            total += weight
        self.prior = [weight / total for weight in prior]

    def decode(self, coder: Range, rows: int) -> list[list[int]]:
        self.out = [[0] * len(self.places) for _ in range(rows)]
        for start, stop in blocks(3 if self.new else 1, rows, len(self.places)):
            late: list[tuple[int, int]] = []
            for part, columns in enumerate(self.parts):
                found = self._part(coder, [(i, j) for i in range(start, stop) for j in columns], part)
                if self.top is None:
                    for i, j in found:
                        self.out[i][j] = 1
                elif self.new and not self.spatial:
                    late += found
                else:
                    self._numbers(coder, found)
            self._numbers(coder, sorted(late))
        return self.out

    def _part(self, coder: Range, elements: list[tuple[int, int]], part: int) -> list[tuple[int, int]]:
        learnt: list[tuple[list[int], int, int]] = []
        around = {element: self._around(*element) for element in elements}
        found = []
        for i, j in elements:
            keys: list[tuple[object, ...]] = [("all",)]
            keys += [(k, label[j]) for k, label in enumerate(self.labels)]
            keys += [("column", j), ("row", i)]
            if self.spatial and part:
                keys.append(("around", part, sum(value != 0 for value in around[i, j])))
            groups = [self.groups.setdefault(key, [0, 0, 0]) for key in keys]
            gains = [self._gain(*group) for group in groups]
            odds = self.start / (65536 - self.start)
            for gain in gains:
                odds *= gain
            bit = coder.bit(clipped(odds))
            learnt += [(group, bit, clipped(odds / gain)) for group, gain in zip(groups, gains, strict=True)]
            found += [(i, j)] * bit
        for group, bit, expected in learnt:
            group[0], group[1], group[2] = group[0] + 1, group[1] + bit, group[2] + expected
        return found

    def _numbers(self, coder: Range, found: list[tuple[int, int]]) -> None:
        if found:
            around = [self._around(*element) for element in found]
            negative = self._signs(coder, list(map(sum, around)))
            sizes = self._sizes(coder, [max(map(abs, near), default=0) for near in around])
            for (i, j), minus, size in zip(found, negative, sizes, strict=True):
                self.out[i][j] = -1 - size if minus else 1 + size

    def _order(self, levels: list[int]) -> list[int]:
        return sorted(range(len(levels)), key=levels.__getitem__) if self.new else list(range(len(levels)))

    def _gain(self, seen: int, ones: int, expected: int) -> float:
        total, a = 65536 * seen, self.a
        return ((65536 * ones + a) / (expected + a)) * ((total - expected + a) / (total - 65536 * ones + a))

    def _around(self, i: int, j: int) -> list[int]:
        if not self.spatial:
            return []
        c, y, x = self.places[j]
        near = {(c, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} - {(c, y, x)}
        return [self.out[i][k] for k, place in enumerate(self.places) if place in near]

    def _signs(self, coder: Range, leans: list[int]) -> list[bool]:
        before = [((2 * t + 1) * 65536) // (2 * m + 2) for m, t in self.signs]
        levels = [min((abs(lean) + 1) // 2, 3) for lean in leans]
        negative = [False] * len(leans)
        for k in self._order(levels):
            level = levels[k]
            against = coder.bit(min(max(before[level], 1), 65535))
            self.signs[level][0] += 1
            self.signs[level][1] += against
            negative[k] = bool(against) != (leans[k] < 0)
        return negative

    def _sizes(self, coder: Range, largest: list[int]) -> list[int]:
        if not self.top:
            return [0] * len(largest)
        tokens, frequencies = [0] * len(largest), tables(self.sizes, self.prior)
        levels = [[0, 1, 2, 3, 4, 4, 5][min(most, 6)] if self.new else min(most, 8) for most in largest]
        for k in self._order(levels):
            tokens[k] = coder.symbol(frequencies[levels[k]])
            self.sizes[levels[k]][tokens[k]] += 1
        octave = [4 + (t - 16) // 2 if t >= 16 else 1 for t in tokens]
        sizes = [t if t < 16 else 2**b + t % 2 * 2 ** (b - 1) for t, b in zip(tokens, octave, strict=True)]
        places = [(k, position) for k, b in enumerate(octave) for position in range(b - 2, -1, -1)]
        for k, position in places if self.new else sorted(places, key=lambda place: -place[1]):
            sizes[k] += coder.bit(2**15) << position
        return sizes


def blocks(version: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """First row of each block, and the row behind its last."""
    found, start = [], 0
    while start < rows:
        wanted = max(1, start // (2 if rows * columns < 1024 else 1), 128 // columns * (rows * columns >= 1024))
        if version < 3:
            wanted = max(1, start // 8)
        found.append((start, min(rows, start + min(wanted, max(1, 2**17 // columns)))))
        start = found[-1][1]
    return found


def grid(channels: int, height: int, width: int) -> list[Place]:
    return [(c, y, x) for c in range(channels) for y in range(height) for x in range(width)]


def selection(version: int, coder: Range, places: list[Place], kept: int) -> list[int]:
    if kept in (0, len(places)):
        return list(range(kept))
    height, width = max(p[1] for p in places) + 1, max(p[2] for p in places) + 1
    channels = len(places) // (height * width)
    columns = [(0, 0, 0)]
    if places == grid(channels, height, width):
        columns = grid(1, height, width) if channels >= height else grid(1, 1, width)
    start = min(max(kept * 65536 // len(places), 1), 65535)
    rows = Matrix(version, columns, start, 1, None, 6).decode(coder, len(places) // len(columns))
    return [k for k, bit in enumerate(bit for row in rows for bit in row) if bit]


@dataclass
class Read:
    """What the header says of one layer."""

    code: int
    before: tuple[int, ...]
    after: tuple[int, ...] = ()
    columns: list[Place] | None = None
    kept: int = 0
    source: int | None = None
    tensors: list[tuple[str, tuple[int, ...], Descriptor]] = field(default_factory=list)


def window(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def read_layer(header: Bytes, outputs: list[tuple[int, ...]]) -> Read:
    (code, number, flags), shape = header.head(), outputs[-1]
    layer, parts = Read(code, shape, shape), []
    if code == 0:
        layer.after = (header.varint(),)
        parts = [("weight", (*layer.after, *shape)), ("bias", layer.after)][: 1 + flags[0]]
    elif code == 1:
        out, kernel = header.varint(), header.pair()
        stride = header.pair() if flags[1] else (1, 1)
        padding = header.pair() if flags[2] else (0, 0)
        dilation, groups = (header.pair(), header.varint(2)) if flags[3] else ((1, 1), 1)
        layer.after = (out, *map(window, shape[1:], kernel, stride, padding, dilation))
        layer.columns = grid(shape[0] // groups, *kernel)
        parts = [("weight", (out, shape[0] // groups, *kernel)), ("bias", (out,))][: 1 + flags[0]]
    elif code == 2:
        parts = [("scale", shape[:1]), ("shift", shape[:1])]
    elif code in (3, 4):
        kernel = header.pair()
        stride = header.pair() if flags[0] else kernel
        padding = header.pair() if flags[1] else (0, 0)
        layer.after = (shape[0], *map(window, shape[1:], kernel, stride, padding, (1, 1)))
    elif code == 5:
        layer.after = (shape[0], *header.pair())
    elif code == 6 and number == 0:
        layer.after = (prod(shape),)
    elif code == 6:
        layer.code = 16 + number  # 17 Add, 18 Recall, 19 relu6
        if layer.code < 19:
            layer.source = len(outputs) - 1 - header.varint(2)
            layer.after = outputs[layer.source]
    elif code == 7:
        layer.kept = header.varint()
        layer.after = (layer.kept, *shape[1:])
    elif flags[0]:
        header.take(8)
    name = header.name(code) if parts else ""
    layer.tensors = [(f"{name}.{part}", extents, header.descriptor(part)) for part, extents in parts]
    return layer


def number(coder: Range, bits: int) -> int:
    value = 0
    for _ in range(bits):
        value = 2 * value + coder.bit(2**15)
    return value


def tables(counts: list[list[int]], prior: list[float]) -> list[list[int]]:
    """Frequencies of tokens by level, part 3.4."""
    total = sum(map(sum, counts))
    every = [(sum(level[t] for level in counts) + 16 * weight) / (total + 16) for t, weight in enumerate(prior)]
    found = []
    for level in counts:
        shares = [(n + 16 * e) / (sum(level) + 16) for n, e in zip(level, every, strict=True)]
        table = [1 + floor(share * (2**24 - len(shares))) for share in shares]
        table[0] += 2**24 - sum(table)
        found.append(table)
    return found


def deviations(version: int, coder: Range, rows: list[list[float]]) -> list[int | None]:
    """Part 3.6 for one tensor: exponents, row major, None where the number is zero."""
    lowest, levels = number(coder, 7) - 64, number(coder, 5) + 1
    counts, last = [[0] * levels for _ in range(levels + 1)], [0] * len(rows[0])
    found: list[int | None] = []
    for start, stop in blocks(version, len(rows), len(rows[0])):
        frequencies, seen, after = tables(counts, [1 / levels] * levels), [], list(last)
        for row in rows[start:stop]:
            for j, value in enumerate(row):
                token = coder.symbol(frequencies[last[j]]) if value and levels > 1 else 0
                found.append(lowest + token if value else None)
                if value:
                    seen.append((last[j], token))
                    after[j] = token + 1
        for level, token in seen:
            counts[level][token] += 1
        last = after
    return found


def decode(data: bytes) -> tuple[list[list[int]], dict[str, list[float]]]:
    """Indices of every Select, and the numbers of every tensor, row major."""
    return decode_all(data)[:2]


def decode_all(data: bytes) -> tuple[list[list[int]], dict[str, list[float]], dict[str, list[int | None]]]:
    """The same, and the exponents of the deviations of every tensor that has them."""
    file = Bytes(data)
    version = file.take(4)[3]
    header = Bytes(file.take(file.varint()))
    if version == 3:
        header = Bits(header.data)
    flags = header.byte() if version == 2 else header.bits(1) if isinstance(header, Bits) else 0
    shape = tuple(header.varint() for _ in range(header.varint(2)))
    side = header.varint() if len(shape) == 1 else 0
    features = (grid(shape[0] // side**2, side, side) if side else grid(shape[0], 1, 1)) if len(shape) == 1 else None
    layers: list[Read] = []
    for _ in range(header.varint()):
        layers.append(read_layer(header, [shape, *(layer.after for layer in layers)]))
    numbers: dict[str, list[float]] = {}
    for name, extents, settings in (tensor for layer in layers for tensor in layer.tensors):
        if settings.density == 30:
            numbers[name] = list(struct.unpack_from(f"<{prod(extents)}f", header.data, header.at))
            header.at += 4 * prod(extents)
    coder, selections, seen = Range(header.data[header.at :]), [], [features]
    for layer in layers:
        layer.columns = features if layer.code == 0 else layer.columns
        if layer.code == 7:
            kept = selection(version, coder, features or grid(layer.before[0], 1, 1), layer.kept)
            selections.append(kept)
            features = [features[k] for k in kept] if features is not None else None
        if layer.code in (0, 6) and not (layer.code == 6 and features is not None):
            features = grid(*layer.before) if layer.code == 6 and len(layer.before) == 3 else grid(layer.after[0], 1, 1)
        if layer.code == 18 and layer.source is not None:
            features = seen[layer.source]
        seen.append(features)
    for layer in layers:
        for name, extents, said in layer.tensors:
            density = said.density
            if density == 30:
                continue
            places = layer.columns if name.endswith(".weight") else [(0, 0, 0)]
            rows: list[list[int]] = [[0] * prod(extents)]
            if density != 31 and prod(extents) and places:
                start = (5 if density % 2 else 7) * 2**13 >> density // 2
                strength, fall = (1, 4, 16, 64)[said.strength], (6, 10, 13, 15)[said.fall]
                rows = Matrix(version, places, start, strength, said.top, fall).decode(coder, extents[0])
            values = [said.levels[place] if said.levels else place for row in rows for place in row]
            numbers[name] = [value * 2.0**said.step for value in values]
    spread: dict[str, list[int | None]] = {}
    for name, extents, owner in ((t[0], t[1], layer) for layer in layers for t in layer.tensors if flags):
        if any(numbers[name]) and coder.bit(2**15):
            wide = len(owner.columns or []) if name.endswith(".weight") else 1
            held = numbers[name]
            spread[name] = deviations(version, coder, [held[k * wide : (k + 1) * wide] for k in range(extents[0])])
    return selections, numbers, spread
