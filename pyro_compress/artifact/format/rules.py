"""What differs between the versions of the format in how matrices are cut and ordered: `FORMAT.md`, parts 3.2 to 3.4.

Fewer and larger pieces learn later and decode several times faster.
"""

from dataclasses import dataclass

import numpy as np

MOST_NUMBERS = 1 << 17


@dataclass(frozen=True)
class Rules:
    """How a version cuts and orders matrices.

    Attributes:
        growth: a block starting at row r has r / growth rows.
        least_numbers: a block has about so many numbers at least.
        few_numbers: of matrices with fewer numbers blocks have r / 2 rows, and one at least.
        size_levels: what is told apart of the largest neighbour.
        by_level: signs and tokens are ordered by level, and extra bits number by number; without neighbours the
            non-zero numbers of a block follow all its zero patterns.
        codebooks: whether tensors may have them.
    """

    growth: int
    least_numbers: int
    few_numbers: int
    size_levels: int
    by_level: bool
    codebooks: bool

    def row_blocks(self, rows: int, columns: int) -> list[slice]:
        """Rows coded in one go, never many more than 2¹⁷ numbers."""
        blocks, start, most = [], 0, max(1, MOST_NUMBERS // columns)
        least, growth = max(1, self.least_numbers // columns), self.growth
        if rows * columns < self.few_numbers:
            least, growth = 1, FEW_GROWTH
        while start < rows:
            stop = min(rows, start + min(most, max(least, start // growth)))
            blocks.append(slice(start, stop))
            start = stop
        return blocks

    def size_level(self, largest: np.ndarray) -> np.ndarray:
        """Level of each number by the largest magnitude among its neighbours."""
        if not self.by_level:
            return np.minimum(largest, self.size_levels - 1).astype(np.int64)
        return LEVEL_OF[np.minimum(largest, len(LEVEL_OF) - 1)]


FEW_GROWTH = 2
LEVEL_OF = np.array([0, 1, 2, 3, 4, 4, 5])
OLD = Rules(growth=8, least_numbers=0, few_numbers=0, size_levels=9, by_level=False, codebooks=False)
NEW = Rules(growth=1, least_numbers=128, few_numbers=1 << 10, size_levels=6, by_level=True, codebooks=True)


def rules_of(version: int) -> Rules:
    """Those of a version of the format."""
    return OLD if version < 3 else NEW
