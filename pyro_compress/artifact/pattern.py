"""Where a matrix is not zero, and the order in which a matrix is coded: `FORMAT.md`, parts 3.2 and 3.3.

Binary models multiply the odds by one gain per group that an element belongs to (its row, its column, its number of
non-zero neighbours ...).  A gain is the posterior mean of a rate under a Gamma(a, a) prior: so many ones were seen
where so many were expected.
"""

from collections.abc import Callable

import numpy as np

from pyro_compress.artifact.coding import UNIT, UNIT_BITS, Coder, Values
from pyro_compress.artifact.layout import Columns

STRENGTHS = (1, 4, 16, 64)
DENSITIES = 30
NEIGHBOURS = 8
GROWTH = 8
PATCH = 4
BLOCK_NUMBERS = 1 << 17
# up to here one call of numpy for all groups is quicker than smaller arrays
STACKED_NUMBERS = 1 << 11

Choose = Callable[[slice, np.ndarray, np.ndarray], None]


class Gains:
    """Corrections of the odds, one per group, learnt from what was coded before."""

    def __init__(self, groups: int, strength: int) -> None:
        self._strength = strength * UNIT
        self._seen = np.zeros(groups, np.int64)
        self._ones = np.zeros(groups, np.int64)
        self._expected = np.zeros(groups, np.int64)

    def values(self) -> np.ndarray:
        """(groups,) float64: how much more often than expected a one was seen, over the same for zeros."""
        a = self._strength
        total, ones = self._seen * UNIT + a, self._ones * UNIT
        return ((ones + a) / (self._expected + a)) * ((total - self._expected) / (total - ones))

    def learn(self, seen: np.ndarray | int, ones: np.ndarray, expected: np.ndarray) -> None:
        """Count per group (groups,): elements, ones among them, what the other gains expected in units of 2⁻¹⁶."""
        self._seen += seen
        self._ones += ones
        self._expected += expected


def probability(odds: np.ndarray) -> np.ndarray:
    """Odds as a probability in units of 2⁻¹⁶, int64, from 1 to 65,535; the array that is given is overwritten."""
    more = odds + 1.0
    np.divide(odds, more, out=odds)
    odds *= UNIT
    np.minimum(odds, UNIT - 1.0, out=odds)
    ones = odds.astype(np.int64)  # rounds down: odds are positive
    return np.maximum(ones, 1, out=ones)


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
    """The model of which elements are non-zero: one starting probability and gains by group.

    Groups of columns (all, by channel, place, patch, column) are numbered through, so one array holds their gains.
    """

    def __init__(self, columns: Columns, start: int, strength: int) -> None:
        self._start_odds = start / (UNIT - start)
        self._strength = strength
        self._parts = columns.segments()
        self._earlier = self._earlier_neighbours(columns) if columns.spatial else []
        labels, groups = [np.zeros(len(columns), np.int64)], 1
        for label in (columns.channel, columns.place(1), columns.place(PATCH)):
            _, group = np.unique(label, return_inverse=True)
            different = int(group.max(initial=-1)) + 1
            if 1 < different < len(columns):
                labels.append(group + groups)
                groups += different
        labels.append(np.arange(len(columns)) + groups)
        self._groups = groups + len(columns)
        self._labels = [np.stack(labels)[:, part] for part in self._parts]
        self._sizes = [np.bincount(label.ravel(), minlength=self._groups) for label in self._labels]
        self._shared = Gains(self._groups, strength)
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

    def code(
        self,
        coder: Coder,
        known: np.ndarray,
        part: int,
        rows: Gains,
        symbols: Callable[[np.ndarray], np.ndarray] | None,
    ) -> np.ndarray:
        """Code one part of the columns of a block of rows: boolean (rows, columns of the part).

        `known` (rows, columns + 1) holds the numbers coded so far, zero elsewhere; its last column stays zero.
        `symbols` is told the probabilities of ones (rows, columns of the part) and gives what is to be coded.
        """
        shared, row = self._shared.values()[self._labels[part]], rows.values()[:, None]
        by_column = np.full(shared.shape[1], self._start_odds)
        for gain in shared:
            by_column = by_column * gain
        odds = by_column * row
        count = around = None
        if part and self._earlier:
            count = self._count(known, part)
            around = self._around.values()[count]
            odds *= around
        ones = probability(odds.copy())
        flat = None if symbols is None else symbols(ones).ravel()
        found = coder.bits(ones.ravel(), flat).reshape(ones.shape)
        self._learn(part, found, rows, odds, shared, row)
        if count is not None and around is not None:
            self._learn_around(count.ravel(), found.ravel(), probability(odds / around).ravel())
        return found

    def _count(self, known: np.ndarray, part: int) -> np.ndarray:
        """Group of each element (rows, columns of the part) by the number of its neighbours that are not zero."""
        # byte columns as rows: taking a row is one copy
        nonzero = np.ascontiguousarray((known != 0).T).view(np.uint8)
        count = np.full((len(self._parts[part]), len(known)), part * (NEIGHBOURS + 1), np.uint8)
        for step in self._earlier[part]:
            count += nonzero[step]
        return count.T.astype(np.intp, order="C")

    def _learn(
        self, part: int, found: np.ndarray, rows: Gains, odds: np.ndarray, shared: np.ndarray, row: np.ndarray
    ) -> None:
        label = self._labels[part].ravel()
        if odds.size <= STACKED_NUMBERS:
            expected = probability(odds / shared[:, None, :]).sum(1)
        else:
            expected = np.stack([probability(odds / gain).sum(0) for gain in shared])
        ones = np.broadcast_to(found.sum(0), expected.shape)
        self._shared.learn(
            self._sizes[part] * len(odds),
            _by_group(label, ones, self._groups),
            _by_group(label, expected, self._groups),
        )
        rows.learn(odds.shape[1], found.sum(1), probability(odds / row).sum(1))

    def _learn_around(self, group: np.ndarray, found: np.ndarray, expected: np.ndarray) -> None:
        groups = len(self._parts) * (NEIGHBOURS + 1)
        seen = np.bincount(group, minlength=groups)
        self._around.learn(seen, np.bincount(group[found], minlength=groups), _by_group(group, expected, groups))


def _by_group(label: np.ndarray, counts: np.ndarray, groups: int) -> np.ndarray:
    """Sums of integers below 2⁵³ by group; int64 (groups,)."""
    return np.bincount(label, counts.ravel(), minlength=groups).astype(np.int64)


def code_matrix(
    coder: Coder,
    rows: int,
    columns: Columns,
    pattern: Pattern,
    values: Values | None,
    given: np.ndarray | None,
    choose: Choose | None = None,
) -> np.ndarray:
    """Code a matrix of integers, int32 (rows, columns); without `values` its elements are 0 or 1.

    `choose` may change what is `given` just before it is coded: rows, columns, probability of not being zero.
    """
    parts = columns.segments()
    neighbours = columns.neighbours() if columns.spatial and values is not None else None
    out = np.zeros((rows, len(columns) + 1), np.int32)

    def wanted(block: slice, part: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        if given is None:
            return None

        def symbols(ones: np.ndarray) -> np.ndarray:
            if choose is not None:
                choose(block, part, ones)
            return given[block, part] != 0

        return symbols

    for block in row_blocks(rows, len(columns)):
        known = out[block]
        row_gains = pattern.row_gains(len(known))
        for number, part in enumerate(parts):
            found = pattern.code(coder, known, number, row_gains, wanted(block, part))
            row, column = np.nonzero(found)
            column = part[column]
            if values is None:
                known[row, column] = 1
            elif len(row):
                around = None if neighbours is None else known[row, neighbours[:, column]]
                numbers = None if given is None else given[block][row, column]
                known[row, column] = values.code(coder, around, len(row), numbers)
    return out[:, :-1]
