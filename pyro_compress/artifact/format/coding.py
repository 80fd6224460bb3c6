"""The probability models of the compressed format; encoder and decoder run this same code.

`FORMAT.md`, part 3, is the specification.  Everything here and in `pattern.py` is integer arithmetic, or + − × ÷
and floor on float64 element by element, which IEEE 754 defines to the last bit: no machine can disagree with the
one that wrote a file.  Sums run over integers only, so their order does not matter.
"""

from typing import Protocol

import numpy as np

UNIT_BITS = 16
UNIT = 1 << UNIT_BITS
TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS

FALLS = (6, 10, 13, 15)
SMALL_BITS = 4
SMALL_TOKENS = 1 << SMALL_BITS
TOKENS = 56
LARGEST = 1 << 24
SIGN_LEVELS = 4
# What is told apart of the largest neighbour, by its magnitude.
SIZE_LEVEL = np.array([0, 1, 2, 3, 4, 4, 5])
SHARED_STRENGTH = 16.0
LEVEL_STRENGTH = 16.0


class Coder(Protocol):
    """One side of the range coder: the encoder is given the symbols, the decoder (None) finds them."""

    def bits(self, ones: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Binary symbols; `ones` (n,), whole, is the probability of a one in units of 2⁻¹⁶, from 1 to 65,535."""

    def tokens(self, tables: np.ndarray, levels: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Symbols below K; row `levels[i]` of `tables` (L, K) int64 holds frequencies that sum to 2²⁴."""

    def alike(self, table: np.ndarray, count: int, symbols: np.ndarray | None) -> np.ndarray:
        """`count` symbols below K, at least one, that all have the frequencies `table` (K,)."""


class Values:
    """The model of the non-zero numbers: signs that agree with neighbours, magnitudes as tokens and extra bits."""

    def __init__(self, top_token: int, fall: int) -> None:
        self._signs = [[0, 0] for _ in range(SIGN_LEVELS)]
        self._counts = np.zeros((int(SIZE_LEVEL[-1]) + 1, max(2, top_token + 1)), np.int64)
        self._top = top_token
        prior = [1.0]
        while len(prior) < self._counts.shape[1]:
            prior.append(prior[-1] * fall / 16.0)
        total = 0.0
        for share in prior:
            total = total + share
        self._prior = np.array([share / total for share in prior])

    def code(self, coder: Coder, around: np.ndarray | None, count: int, numbers: np.ndarray | None) -> np.ndarray:
        """Code `count` non-zero int32 numbers; `around` (neighbours, count) holds what is known of their neighbours."""
        neighbour_sum = largest_neighbour = np.zeros(count, np.int64)
        if around is not None:
            neighbour_sum, largest_neighbour = around.sum(axis=0, dtype=np.int64), np.abs(around).max(axis=0)
        negative = self._code_signs(coder, neighbour_sum, None if numbers is None else numbers < 0)
        sizes = self._code_sizes(coder, largest_neighbour, None if numbers is None else np.abs(numbers) - 1)
        return np.where(negative, -1 - sizes, 1 + sizes).astype(np.int32)

    def size_frequencies(self) -> np.ndarray:
        """(tokens,) float64: how often each token is to be expected, whatever the neighbours; sums to one."""
        return _every(self._counts, self._prior)

    def _code_signs(self, coder: Coder, neighbour_sum: np.ndarray, negative: np.ndarray | None) -> np.ndarray:
        level = np.minimum((np.abs(neighbour_sum) + 1) >> 1, SIGN_LEVELS - 1)
        tables = np.array([self._sign_table(*counts) for counts in self._signs])
        towards = neighbour_sum < 0
        against = self._by_level(coder, tables, level, None if negative is None else negative != towards)
        for number, (others, ones) in enumerate(_pairs(level, against)):
            self._signs[number][0] += others + ones
            self._signs[number][1] += ones
        return against != towards

    @staticmethod
    def _sign_table(seen: int, against: int) -> tuple[int, int]:
        """Frequencies of 'as the neighbours' and 'against them'."""
        share = min(max((2 * against + 1) * UNIT // (2 * seen + 2), 1), UNIT - 1)
        return TOTAL - (share << (TOTAL_BITS - UNIT_BITS)), share << (TOTAL_BITS - UNIT_BITS)

    def _by_level(self, coder: Coder, tables: np.ndarray, level: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Symbols whose frequencies are the rows of `tables`, level by level."""
        counts = np.bincount(level).tolist()
        if counts[-1] == len(level):
            return coder.alike(tables[len(counts) - 1], len(level), symbols)
        order = np.argsort(level.astype(np.uint8), kind="stable")
        given = None if symbols is None else symbols[order]
        parts, start = [], 0
        for table, count in zip(tables, counts, strict=False):
            if count:
                parts.append(coder.alike(table, count, None if given is None else given[start : start + count]))
                start += count
        found = np.empty(len(level), np.int64)
        found[order] = np.concatenate(parts)
        return found

    def _code_sizes(self, coder: Coder, largest_neighbour: np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
        if self._top == 0:
            return np.zeros(len(largest_neighbour), np.int64)
        level = SIZE_LEVEL[np.minimum(largest_neighbour, len(SIZE_LEVEL) - 1)]
        wanted = sizes if sizes is None or self._top < SMALL_TOKENS else split(sizes)[0]
        token = self._by_level(coder, frequencies(self._counts, self._prior), level, wanted)
        levels, tokens = self._counts.shape
        self._counts += np.bincount(level * tokens + token, minlength=levels * tokens).reshape(levels, tokens)
        if self._top < SMALL_TOKENS:
            return token
        low, extra = token_range(token)
        rest = None if sizes is None else sizes - low
        return low + self._extra_bits(coder, extra, rest)

    def _extra_bits(self, coder: Coder, extra: np.ndarray, given: np.ndarray | None) -> np.ndarray:
        """Extra bits number by number, the highest first."""
        rest, count = np.zeros(len(extra), np.int64), int(extra.sum())
        if count:
            which = np.repeat(np.arange(len(extra)), extra)
            place = np.cumsum(extra)[which] - 1 - np.arange(count)
            wanted = None if given is None else given[which] >> place & 1
            bits = coder.alike(np.array([TOTAL // 2, TOTAL // 2]), count, wanted)
            np.add.at(rest, which, bits.astype(np.int64) << place)
        return rest


def _pairs(level: np.ndarray, against: np.ndarray) -> list[list[int]]:
    """How many zeros and ones there are at each level."""
    counts: list[list[int]] = np.bincount(2 * level + against, minlength=2 * SIGN_LEVELS).reshape(-1, 2).tolist()
    return counts


def frequencies(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Tables for the range coder, int64 (levels, tokens), from the tokens counted so far at each level."""
    share = (counts + LEVEL_STRENGTH * _every(counts, prior)) / (counts.sum(axis=1, keepdims=True) + LEVEL_STRENGTH)
    tables = np.floor(share * (TOTAL - counts.shape[1])).astype(np.int64) + 1
    tables[:, 0] += TOTAL - tables.sum(axis=1)
    return tables


def _every(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return (counts.sum(axis=0) + SHARED_STRENGTH * prior) / (counts.sum() + SHARED_STRENGTH)


def token_range(token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest size that a token stands for, and its number of extra bits: exact below 16, then two per octave."""
    return _LOW[token], _EXTRA[token]


def _ranges() -> tuple[np.ndarray, np.ndarray]:
    token = np.arange(TOKENS)
    exponent = np.where(token < SMALL_TOKENS, 1, SMALL_BITS + (token - SMALL_TOKENS) // 2)
    large = (1 << exponent) + (token % 2 << (exponent - 1))
    return np.where(token < SMALL_TOKENS, token, large), exponent - 1


_LOW, _EXTRA = _ranges()


def split(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token of each size, and what is left to be said by the extra bits."""
    token = np.searchsorted(_LOW, sizes, side="right") - 1
    return token, sizes - _LOW[token]
