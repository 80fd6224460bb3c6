"""The probability models of the compressed format; encoder and decoder run this same code.

`FORMAT.md`, part 3, is the specification.  Everything here is integer arithmetic, or + − × ÷ and floor on
float64 element by element, which IEEE 754 defines to the last bit: no machine can disagree with the one that
wrote a file.  Sums run over integers only, so their order does not matter.

Binary models multiply the odds by one gain per group that an element belongs to (its row, its column, its
number of non-zero neighbours ...).  A gain is the posterior mean of a rate under a Gamma(a, a) prior: so many
ones were seen where so many were expected.
"""

from typing import Protocol

import numpy as np

from pyro_compress.artifact.layout import Columns

UNIT_BITS = 16
UNIT = 1 << UNIT_BITS
TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS

STRENGTHS = (1, 4, 16, 64)
FALLS = (6, 10, 13, 15)
DENSITIES = 30
NEIGHBOURS = 8
SMALL_BITS = 4
SMALL_TOKENS = 1 << SMALL_BITS
TOKENS = 56
LARGEST = 1 << 24
GROWTH = 8
PATCH = 4
BLOCK_NUMBERS = 1 << 17
SIGN_LEVELS = 4
SIZE_LEVELS = 9
SHARED_STRENGTH = 16.0
LEVEL_STRENGTH = 16.0


class Coder(Protocol):
    """One side of the range coder: the encoder is given the symbols, the decoder (None) finds them."""

    def bits(self, ones: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Binary symbols; `ones` (n,) int64 is the probability of a one in units of 2⁻¹⁶, from 1 to 65,535."""

    def tokens(self, tables: np.ndarray, levels: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Symbols below K; row `levels[i]` of `tables` (L, K) int64 holds frequencies that sum to 2²⁴."""


class Gains:
    """Corrections of the odds, one per group, learnt from what was coded before."""

    def __init__(self, groups: int, strength: int) -> None:
        self._strength = strength * UNIT
        self._seen = np.zeros(groups, np.int64)
        self._ones = np.zeros(groups, np.int64)
        self._expected = np.zeros(groups, np.int64)

    def values(self) -> np.ndarray:
        """(groups,) float64: how much more often than expected a one was seen, over the same for zeros."""
        a, total = self._strength, self._seen * UNIT
        ones = (self._ones * UNIT + a) / (self._expected + a)
        zeros = (total - self._expected + a) / (total - self._ones * UNIT + a)
        return ones * zeros

    def learn(self, groups: np.ndarray, symbols: np.ndarray, expected: np.ndarray) -> None:
        """Count symbols (rows, columns) and what the other gains alone expected of them, in units of 2⁻¹⁶.

        `groups` is (rows, columns), or has one row or one column that stands for all.
        """
        size, label, many = len(self._seen), groups.ravel(), symbols.size // groups.size
        for axis in (0, 1):
            if groups.shape[axis] == 1:
                symbols, expected = symbols.sum(axis, keepdims=True), expected.sum(axis, keepdims=True)
        self._seen += np.bincount(label, minlength=size) * many
        self._ones += np.bincount(label, symbols.ravel(), minlength=size).astype(np.int64)
        self._expected += np.bincount(label, expected.ravel(), minlength=size).astype(np.int64)


def probability(odds: np.ndarray) -> np.ndarray:
    """Odds as a probability in units of 2⁻¹⁶, int64, from 1 to 65,535."""
    ones = np.floor(odds / (1.0 + odds) * UNIT)
    return np.minimum(np.maximum(ones, 1.0), UNIT - 1.0).astype(np.int64)


def density(index: int) -> int:
    """The starting probability with this index, in units of 2⁻¹⁶: 7/8, 5/8, and so on by halves; index below 30."""
    return ((7, 5)[index % 2] << (UNIT_BITS - 3)) >> (index // 2)


def row_blocks(rows: int, columns: int) -> list[slice]:
    """Rows coded in one go: one at first, later an eighth of those already coded, never many more than 2¹⁷ numbers."""
    blocks, start, most = [], 0, max(1, BLOCK_NUMBERS // columns)
    while start < rows:
        stop = min(rows, start + min(most, max(1, start // GROWTH)))
        blocks.append(slice(start, stop))
        start = stop
    return blocks


class Pattern:
    """The model of which elements are non-zero: one starting probability and gains by group."""

    def __init__(self, columns: Columns, start: int, strength: int) -> None:
        self._start_odds = start / (UNIT - start)
        self._strength = strength
        self._parts = columns.segments()
        self._earlier = self._earlier_neighbours(columns) if columns.spatial else []
        self._shared = [(np.zeros(len(columns), np.int64), Gains(1, strength))]
        for label in (columns.channel, columns.place(1), columns.place(PATCH)):
            _, group = np.unique(label, return_inverse=True)
            groups = int(group.max(initial=-1)) + 1
            if 1 < groups < len(columns):
                self._shared.append((group, Gains(groups, strength)))
        self._single = [Gains(len(part), strength) for part in self._parts]
        self._around = Gains(len(self._parts) * (NEIGHBOURS + 1), strength)

    def _earlier_neighbours(self, columns: Columns) -> list[list[np.ndarray]]:
        """For each part, the neighbours of its columns in those directions in which some were coded before."""
        number = np.full(len(columns) + 1, len(self._parts))
        for part, members in enumerate(self._parts):
            number[members] = part
        steps = columns.neighbours()
        return [
            [step[members] for step in steps if (number[step[members]] < part).any()]
            for part, members in enumerate(self._parts)
        ]

    def row_gains(self, rows: int) -> Gains:
        """Fresh gains for the rows of a block."""
        return Gains(rows, self._strength)

    def code(self, coder: Coder, known: np.ndarray, part: int, rows: Gains, symbols: np.ndarray | None) -> np.ndarray:
        """Code one part of the columns of a block of rows: boolean (rows, columns of the part).

        `known` (rows, columns + 1) holds the numbers coded so far, zero elsewhere; its last column stays zero.
        """
        columns = self._parts[part]
        shape = (len(known), len(columns))
        factors = [(group[columns][None, :], gains) for group, gains in self._shared]
        factors.append((np.arange(shape[1])[None, :], self._single[part]))
        factors.append((np.arange(shape[0])[:, None], rows))
        if part and self._earlier:
            count = np.zeros(shape, np.int64)
            for step in self._earlier[part]:
                count += known[:, step] != 0
            factors.append((part * (NEIGHBOURS + 1) + count, self._around))
        gains = [model.values()[group] for group, model in factors]
        odds = np.full(shape, self._start_odds)
        for gain in gains:
            odds = odds * gain
        ones = probability(odds).ravel()
        found = coder.bits(ones, None if symbols is None else symbols.ravel()).reshape(shape)
        for (group, model), gain in zip(factors, gains, strict=True):
            model.learn(group, found, probability(odds / gain))
        return found


class Values:
    """The model of the non-zero numbers: signs that agree with neighbours, magnitudes as tokens and extra bits."""

    def __init__(self, top_token: int, fall: int) -> None:
        self._seen = np.zeros(SIGN_LEVELS, np.int64)
        self._against = np.zeros(SIGN_LEVELS, np.int64)
        self._counts = np.zeros((SIZE_LEVELS, max(2, top_token + 1)), np.int64)
        self._top = top_token
        prior = [1.0]
        while len(prior) < self._counts.shape[1]:
            prior.append(prior[-1] * fall / 16.0)
        total = 0.0
        for share in prior:
            total = total + share
        self._prior = np.array([share / total for share in prior])

    def code(self, coder: Coder, around: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
        """Code non-zero int32 numbers (n,); `around` (neighbours, n) holds what is known of their neighbours."""
        lean = around.sum(axis=0, dtype=np.int64)
        negative = self._code_signs(coder, lean, None if numbers is None else numbers < 0)
        sizes = self._code_sizes(coder, np.abs(around).max(axis=0), None if numbers is None else np.abs(numbers) - 1)
        return np.where(negative, -1 - sizes, 1 + sizes).astype(np.int32)

    def _code_signs(self, coder: Coder, lean: np.ndarray, negative: np.ndarray | None) -> np.ndarray:
        level = np.minimum((np.abs(lean) + 1) // 2, SIGN_LEVELS - 1)
        share = (2 * self._against + 1) * UNIT // (2 * self._seen + 2)
        ones = np.clip(share, 1, UNIT - 1)[level]
        against = coder.bits(ones, None if negative is None else negative != (lean < 0))
        self._seen += np.bincount(level, minlength=SIGN_LEVELS)
        self._against += np.bincount(level[against], minlength=SIGN_LEVELS)
        return against != (lean < 0)

    def _code_sizes(self, coder: Coder, largest: np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
        if self._top == 0:
            return np.zeros(len(largest), np.int64)
        level = np.minimum(largest, SIZE_LEVELS - 1).astype(np.int64)
        token = coder.tokens(self._tables(), level, None if sizes is None else split(sizes)[0])
        np.add.at(self._counts, (level, token), 1)
        low, extra = token_range(token)
        rest = np.zeros(len(token), np.int64)
        for bit in range(int(extra.max(initial=0)) - 1, -1, -1):
            has = np.flatnonzero(extra > bit)
            wanted = None if sizes is None else ((sizes[has] - low[has]) >> bit & 1).astype(bool)
            rest[has] += coder.bits(np.full(len(has), UNIT // 2), wanted).astype(np.int64) << bit
        return low + rest

    def _tables(self) -> np.ndarray:
        counts = self._counts
        every = (counts.sum(axis=0) + SHARED_STRENGTH * self._prior) / (counts.sum() + SHARED_STRENGTH)
        share = (counts + LEVEL_STRENGTH * every) / (counts.sum(axis=1, keepdims=True) + LEVEL_STRENGTH)
        frequencies = 1 + np.floor(share * (TOTAL - counts.shape[1])).astype(np.int64)
        frequencies[:, 0] += TOTAL - frequencies.sum(axis=1)
        return frequencies


def token_range(token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest size that a token stands for, and its number of extra bits: exact below 16, then two per octave."""
    exponent = SMALL_BITS + (token - SMALL_TOKENS) // 2
    exponent = np.where(token < SMALL_TOKENS, 1, exponent)
    large = (1 << exponent) + (token % 2 << (exponent - 1))
    return np.where(token < SMALL_TOKENS, token, large), exponent - 1


def split(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token of each size, and what is left to be said by the extra bits."""
    firsts = token_range(np.arange(TOKENS))[0]
    token = np.searchsorted(firsts, sizes, side="right") - 1
    return token, sizes - firsts[token]


def code_matrix(
    coder: Coder, rows: int, columns: Columns, pattern: Pattern, values: Values | None, given: np.ndarray | None
) -> np.ndarray:
    """Code a matrix of integers, int32 (rows, columns); without `values` its elements are 0 or 1."""
    parts = columns.segments()
    neighbours = columns.neighbours() if columns.spatial else None
    out = np.zeros((rows, len(columns) + 1), np.int32)
    for block in row_blocks(rows, len(columns)):
        known = out[block]
        row_gains = pattern.row_gains(len(known))
        for number, part in enumerate(parts):
            wanted = None if given is None else given[block, part]
            found = pattern.code(coder, known, number, row_gains, None if wanted is None else wanted != 0)
            row, column = np.nonzero(found)
            column = part[column]
            if values is None:
                known[row, column] = 1
            elif len(row):
                around = np.zeros((1, len(row)), np.int32) if neighbours is None else known[row, neighbours[:, column]]
                known[row, column] = values.code(coder, around, None if wanted is None else wanted[found])
    return out[:, :-1]
