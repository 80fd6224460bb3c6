"""Part 3 of `FORMAT.md`, for the second decoder: plain Python, one symbol at a time, no code of the package."""

from math import floor

Place = tuple[int, int, int]


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

    def __init__(self, places: list[Place], start: int, strength: int, top: int | None, fall: int) -> None:
        self.places, self.start, self.a, self.top = places, start, strength * 65536, top
        self.spatial = any(y or x for _, y, x in places)
        phases = [y % 2 * 2 + x % 2 if self.spatial else j % 4 for j, (_, y, x) in enumerate(places)]
        self.parts = [[j for j, phase in enumerate(phases) if phase == k] for k in range(4) if k in phases]
        self.beside = [self._beside(part) for part in range(len(self.parts))]
        wide = max(x for _, _, x in places)
        labels = [[c for c, _, _ in places], [y * (wide + 1) + x for _, y, x in places]]
        labels.append([y // 4 * (wide // 4 + 1) + x // 4 for _, y, x in places])
        self.labels = [label for label in labels if 1 < len(set(label)) < len(places)]
        self.groups: dict[tuple[object, ...], list[int]] = {}
        self.signs = [[0, 0] for _ in range(4)]
        self.sizes = [[0] * ((top or 0) + 1) for _ in range(6)]
        prior = [1.0]
        while len(prior) <= (top or 0):
            prior.append(prior[-1] * fall / 16)
        total = 0.0
        for weight in prior:
            total += weight
        self.prior = [weight / total for weight in prior]

    def _beside(self, part: int) -> bool:
        """Whether a column of the part has a neighbour in an earlier one."""
        near = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        earlier = {self.places[j] for columns in self.parts[:part] for j in columns}
        here = [self.places[j] for j in self.parts[part]]
        return self.spatial and any((c, y + dy, x + dx) in earlier for c, y, x in here for dy, dx in near)

    def decode(self, coder: Range, rows: int) -> list[list[int]]:
        """The integers, row by row; 0 or 1 for a selection."""
        self.out = [[0] * len(self.places) for _ in range(rows)]
        for start, stop in blocks(rows, len(self.places)):
            late: list[tuple[int, int]] = []
            for part, columns in enumerate(self.parts):
                found = self._part(coder, [(i, j) for i in range(start, stop) for j in columns], part)
                if self.top is None:
                    for i, j in found:
                        self.out[i][j] = 1
                elif not self.spatial:
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
            if self.beside[part]:
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
        for k in by_level(levels):
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
        levels = [(0, 1, 2, 3, 4, 4, 5)[min(most, 6)] for most in largest]
        for k in by_level(levels):
            tokens[k] = coder.symbol(frequencies[levels[k]])
            self.sizes[levels[k]][tokens[k]] += 1
        octave = [4 + (t - 16) // 2 if t >= 16 else 1 for t in tokens]
        sizes = [t if t < 16 else 2**b + t % 2 * 2 ** (b - 1) for t, b in zip(tokens, octave, strict=True)]
        for k, b in enumerate(octave):
            for position in range(b - 2, -1, -1):
                sizes[k] += coder.bit(2**15) << position
        return sizes


def by_level(levels: list[int]) -> list[int]:
    """Positions of the lowest level first, in order within a level."""
    return sorted(range(len(levels)), key=levels.__getitem__)


def blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """First row of each block, and the row behind its last."""
    found, start = [], 0
    while start < rows:
        wanted = max(1, start // (2 if rows * columns < 1024 else 1), 128 // columns * (rows * columns >= 1024))
        found.append((start, min(rows, start + min(wanted, max(1, 2**17 // columns)))))
        start = found[-1][1]
    return found


def grid(channels: int, height: int, width: int) -> list[Place]:
    return [(c, y, x) for c in range(channels) for y in range(height) for x in range(width)]


def selection(coder: Range, places: list[Place], kept: int) -> list[int]:
    if kept in (0, len(places)):
        return list(range(kept))
    height, width = max(p[1] for p in places) + 1, max(p[2] for p in places) + 1
    channels = len(places) // (height * width)
    columns = [(0, 0, 0)]
    if places == grid(channels, height, width):
        columns = grid(1, height, width) if channels >= height else grid(1, 1, width)
    start = min(max(kept * 65536 // len(places), 1), 65535)
    rows = Matrix(columns, start, 1, None, 6).decode(coder, len(places) // len(columns))
    return [k for k, bit in enumerate(bit for row in rows for bit in row) if bit]


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


def deviations(coder: Range, rows: list[list[float]]) -> list[int | None]:
    """Part 3.6 for one tensor: exponents, row major, None where the number is zero."""
    lowest, levels = number(coder, 7) - 64, number(coder, 5) + 1
    counts, last = [[0] * levels for _ in range(levels + 1)], [0] * len(rows[0])
    found: list[int | None] = []
    for start, stop in blocks(len(rows), len(rows[0])):
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
