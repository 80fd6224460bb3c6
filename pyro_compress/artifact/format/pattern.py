"""Where a matrix is not zero, and the order in which a matrix is coded: `FORMAT.md`, parts 3.2 and 3.3.

Binary models multiply the odds by one gain per group that an element belongs to (its row, its column, its number of
non-zero neighbours ...).  A gain is the posterior mean of a rate under a Gamma(a, a) prior: so many ones were seen
where so many were expected.
"""

from collections.abc import Callable

import numpy as np

from pyro_compress.artifact.format.coding import UNIT, UNIT_BITS, Coder, Values
from pyro_compress.artifact.format.layout import Columns, row_blocks

STRENGTHS = (1, 4, 16, 64)
DENSITIES = 30
NEIGHBOURS = 8
PATCH = 4
# up to here one call of numpy for all groups is quicker than smaller arrays
STACKED_NUMBERS = 1 << 12

Choose = Callable[[slice, np.ndarray, np.ndarray], None]


class Gains:
    """Corrections of the odds, one per group, learnt from what was coded before.

    Counts are float64, and exact: they are integers below 2⁵³ in units of 2⁻¹⁶, with the prior's already added.
    """

    def __init__(self, groups: int, strength: int) -> None:
        self._strength = float(strength * UNIT)
        self._total = np.full(groups, 2 * self._strength)
        self._ones = np.full(groups, self._strength)
        self._expected = np.full(groups, self._strength)

    def values(self) -> np.ndarray:
        """(groups,) float64: how much more often than expected a one was seen, over the same for zeros."""
        gain = self._ones / self._expected
        gain *= (self._total - self._expected) / (self._total - self._ones)
        return gain

    def learn(self, seen: np.ndarray | int, ones: np.ndarray, expected: np.ndarray) -> None:
        """Count per group (groups,): elements, ones among them, what the other gains expected in units of 2⁻¹⁶."""
        self._total += UNIT * seen
        self._ones += UNIT * ones
        self._expected += expected


def probability(odds: np.ndarray) -> np.ndarray:
    """Odds as a probability in units of 2⁻¹⁶, whole float64 from 1 to 65,535; overwrites the array that is given."""
    np.divide(odds, odds + 1.0, out=odds)
    odds *= UNIT
    np.floor(odds, out=odds)
    np.minimum(odds, UNIT - 1.0, out=odds)
    return np.maximum(odds, 1.0, out=odds)


def density(index: int) -> int:
    """The starting probability with this index, in units of 2⁻¹⁶: 7/8, 5/8, and so on by halves; index below 30."""
    return ((7, 5)[index % 2] << (UNIT_BITS - 3)) >> (index // 2)


class Pattern:
    """The model of which elements are non-zero: one starting probability and gains by group.

    Groups of columns (all, by channel, place, patch, column) are numbered through, so one array holds their gains.
    """

    def __init__(self, columns: Columns, start: int, strength: int) -> None:
        self.parts = columns.segments()
        self._start_odds = start / (UNIT - start)
        self._strength = strength
        self._steps = columns.neighbours() if columns.spatial else None
        self._earlier = self._earlier_neighbours(columns)
        labels, groups = [np.zeros(len(columns), np.int64)], 1
        for label in (columns.channel, columns.place(1), columns.place(PATCH)) if columns.spatial else ():
            _, group = np.unique(label, return_inverse=True)
            different = int(group.max(initial=-1)) + 1
            if 1 < different < len(columns):
                labels.append(group + groups)
                groups += different
        labels.append(np.arange(len(columns)) + groups)
        self._groups = groups + len(columns)
        self._labels = [np.stack(labels)[:, part] for part in self.parts]
        self._sizes = [np.bincount(label.ravel(), minlength=self._groups) for label in self._labels]
        self._shared = Gains(self._groups, strength)
        self._around = [Gains(NEIGHBOURS + 1, strength) for _ in self.parts]

    def _earlier_neighbours(self, columns: Columns) -> list[np.ndarray]:
        """For each part, the neighbours of its columns in those directions in which some were coded before."""
        if self._steps is None:
            return [np.zeros((0, 0), np.int64) for _ in self.parts]
        number = np.full(len(columns) + 1, len(self.parts))
        for part, members in enumerate(self.parts):
            number[members] = part
        return [
            np.array([step[members] for step in self._steps if (number[step[members]] < part).any()], np.int64)
            for part, members in enumerate(self.parts)
        ]

    def around(self, known: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray | None:
        """(8, n): the neighbours of elements among the numbers `known` so far (rows, columns + 1)."""
        return None if self._steps is None else known[row, self._steps[:, column]]

    def row_gains(self, rows: int) -> Gains:
        """Fresh gains for the rows of a block."""
        return Gains(rows, self._strength)

    def code(
        self,
        coder: Coder,
        nonzero: np.ndarray,
        part: int,
        rows: Gains,
        symbols: Callable[[np.ndarray], np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code one part of the columns of a block of rows: rows and columns of its non-zero elements, row major.

        `nonzero` (columns + 1, rows) uint8 says which elements are known to be non-zero; this part is filled in.
        `symbols` is told the probabilities of ones (rows, columns of the part) and gives what is to be coded.
        """
        members = self.parts[part]
        shared, row = self._shared.values()[self._labels[part]], rows.values()[:, None]
        by_column = self._start_odds * shared[0]
        for gain in shared[1:]:
            by_column *= gain
        odds = by_column * row
        count = around = None
        if part and len(self._earlier[part]):
            count = nonzero[self._earlier[part]].sum(0, np.uint8).T.astype(np.intp, order="C")
            around = self._around[part].values()[count]
            odds *= around
        ones = probability(odds.copy())
        flat = None if symbols is None else symbols(ones).ravel()
        found = np.flatnonzero(coder.bits(ones.ravel(), flat))
        at, column = np.divmod(found, len(members))
        columns, by_row, each = _expected(odds, shared, row, around)
        label = self._labels[part]
        self._shared.learn(
            self._sizes[part] * len(odds),
            np.bincount(label[:, column].ravel(), minlength=self._groups),
            np.bincount(label.ravel(), columns.ravel(), self._groups),
        )
        if part + 1 < len(self.parts):  # a block's rows have gains of their own
            rows.learn(len(members), np.bincount(at, minlength=len(odds)), by_row)
        if count is not None and each is not None:
            seen = count.ravel()
            self._around[part].learn(
                np.bincount(seen, minlength=NEIGHBOURS + 1),
                np.bincount(seen[found], minlength=NEIGHBOURS + 1),
                np.bincount(seen, each.ravel(), NEIGHBOURS + 1),
            )
        column = members[column]
        nonzero[column, at] = 1
        return at, column


def _expected(
    odds: np.ndarray, shared: np.ndarray, row: np.ndarray, around: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ones that are expected without one of the gains: by family and column, by row, and of each element."""
    if odds.size > STACKED_NUMBERS:
        columns = np.stack([probability(odds / gain).sum(0) for gain in shared])
        return columns, probability(odds / row).sum(1), None if around is None else probability(odds / around)
    gains = np.empty((len(shared) + 1 + (around is not None), *odds.shape))
    gains[: len(shared)], gains[len(shared)] = shared[:, None], row
    if around is not None:
        gains[-1] = around
    expected = probability(np.divide(odds, gains, out=gains))
    return expected[: len(shared)].sum(1), expected[len(shared)].sum(1), None if around is None else expected[-1]


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
    out = np.zeros((rows, len(columns) + 1), np.int32)

    def wanted(block: slice, part: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        if given is None:
            return None

        def symbols(ones: np.ndarray) -> np.ndarray:
            if choose is not None:
                choose(block, part, ones)
            return given[block, part] != 0

        return symbols

    def fill(block: slice, row: np.ndarray, column: np.ndarray) -> None:
        if len(row) and values is not None:
            numbers = None if given is None else given[block][row, column]
            known[row, column] = values.code(coder, pattern.around(known, row, column), len(row), numbers)

    # neighbours tell a part of the numbers before it; without them all numbers of a block can go together
    values_last = not columns.spatial
    for block in row_blocks(rows, len(columns)):
        known = out[block]
        nonzero = np.zeros((len(columns) + 1, len(known)), np.uint8)
        row_gains = pattern.row_gains(len(known))
        for number, part in enumerate(pattern.parts):
            row, column = pattern.code(coder, nonzero, number, row_gains, wanted(block, part))
            if not values_last:
                fill(block, row, column)
        if values is None:
            known[:, :-1] = nonzero[:-1].T
        elif values_last:
            fill(block, *np.nonzero(nonzero.T))
    return out[:, :-1]
