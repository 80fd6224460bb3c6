"""How the numbers of each layer are laid out as a matrix whose columns have a place in an image or kernel.

The probability models of `coding.py` see every tensor as a matrix: one row per output unit or filter, one column
per input, and the other way round for a transposed convolution.  A column is a triple (channel, y, x); neighbours in
(y, x) tend to be pruned together, and to have the same sign, which saves a fifth of a file.  Both sides of the format
derive the same places from the architecture alone, so they cost no bytes.
"""

from dataclasses import dataclass

import numpy as np

from pyro_compress.network.architecture import Architecture, walk
from pyro_compress.network.further_layers import Concatenate, Multiply
from pyro_compress.network.layers import (
    Add,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Layer,
    Linear,
    Recall,
    Select,
    Table,
    Unflatten,
    Weighted,
    table_of,
)
from pyro_compress.network.sequence_layers import Embedding, Rearrange, Recurrent
from pyro_compress.network.stored import tensor_shapes

PARITY = 2
FLAT_SEGMENTS = 4
# Of one block of rows, but that a block has one row at least; matrices of fewer than FEW_NUMBERS have smaller blocks.
MOST_NUMBERS, LEAST_NUMBERS, FEW_NUMBERS = 1 << 17, 1 << 7, 1 << 10


@dataclass(frozen=True, eq=False)
class Columns:
    """The places of a matrix's columns: three int64 arrays of shape (columns,)."""

    channel: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.channel)

    @property
    def spatial(self) -> bool:
        """Whether columns have neighbours: some differ in y or x."""
        return bool(self.y.any() or self.x.any())

    def take(self, indices: np.ndarray) -> "Columns":
        """The places of some of the columns."""
        return Columns(self.channel[indices], self.y[indices], self.x[indices])

    def place(self, patch: int) -> np.ndarray:
        """(columns,): number of the square patch, `patch` wide and the same for all channels, that a column is in."""
        return self.y // patch * (self.x.max(initial=0) // patch + 1) + self.x // patch

    def segments(self) -> list[np.ndarray]:
        """The columns in four interleaved parts, coded one after the other: by parity of (y, x), else index mod 4."""
        phase = (self.y % PARITY) * PARITY + self.x % PARITY if self.spatial else np.arange(len(self)) % FLAT_SEGMENTS
        parts = [np.flatnonzero(phase == number) for number in range(FLAT_SEGMENTS)]
        return [part for part in parts if len(part)]

    def neighbours(self) -> np.ndarray:
        """(8, columns): index of the same channel's column at each of eight steps, len(self) where none is."""
        height, width = int(self.y.max()) + 3, int(self.x.max()) + 3
        _, channel = np.unique(self.channel, return_inverse=True)
        place = (channel * height + self.y + 1) * width + self.x + 1
        at = np.full((int(channel.max()) + 1) * height * width, len(self), np.int64)
        at[place] = np.arange(len(self))
        steps = [dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
        return np.stack([at[place + step] for step in steps])


def row_blocks(rows: int, columns: int) -> list[slice]:
    """Rows that are coded in one go: as many as came before them, half as many in small matrices.

    Fewer and larger blocks learn later and decode several times faster.
    """
    few, most = rows * columns < FEW_NUMBERS, max(1, MOST_NUMBERS // columns)
    blocks, start = [], 0
    while start < rows:
        wanted = start // 2 if few else max(start, LEAST_NUMBERS // columns)
        stop = min(rows, start + min(most, max(1, wanted)))
        blocks.append(slice(start, stop))
        start = stop
    return blocks


def grid(channels: int, height: int, width: int) -> Columns:
    """Places of channels × height × width numbers, row major."""
    index = np.arange(channels * height * width, dtype=np.int64)
    return Columns(index // (height * width), index // width % height, index % width)


def flat(length: int) -> Columns:
    """Places of numbers that have no neighbours."""
    return grid(length, 1, 1)


def weight_columns(layer: Weighted, features: Columns | None) -> Columns:
    """Places of the columns of a layer's weight matrix, given those of the features that reach it."""
    if isinstance(layer, Conv2d):
        return grid(layer.in_channels // layer.groups, *layer.kernel_size)
    if isinstance(layer, ConvTranspose2d):
        return grid(layer.out_channels // layer.groups, *layer.kernel_size)
    return features if features is not None else flat(layer.in_features)


def input_features(shape: tuple[int, ...], image_side: int) -> Columns | None:
    """Places of one example's entries if it is flat; `image_side` pixels declare it to be square images, 0 not."""
    if len(shape) != 1:
        return None
    return grid(shape[0] // image_side**2, image_side, image_side) if image_side else flat(shape[0])


def features_after(
    layer: Layer, features: Columns | None, shape: tuple[int, ...], earlier: Columns | None
) -> Columns | None:
    """Places of the features after a layer that is given one example of `shape`; None while it is not flat.

    `earlier` are those of the output that the layer refers to.
    """
    if isinstance(layer, Recall):
        return earlier
    if isinstance(layer, Concatenate):
        return None if features is None or earlier is None else flat(len(earlier) + len(features))
    if isinstance(layer, Add | Multiply) and features is not None and earlier is not None:
        return earlier if len(features) == 1 != len(earlier) else features
    if isinstance(layer, Unflatten):
        return None
    if isinstance(layer, Embedding):
        return None
    if isinstance(layer, Rearrange):
        return flat(layer.size[0]) if len(layer.size) == 1 else None
    if isinstance(layer, Flatten) and len(shape) == 3:
        return grid(*shape)
    if isinstance(layer, Select) and features is not None:
        return features.take(np.asarray(layer.indices, np.int64))
    if isinstance(layer, Linear):
        return flat(layer.out_features)
    if isinstance(layer, Flatten) and features is None:
        return flat(int(np.prod(shape, dtype=np.int64)))
    return features


def tensor_columns(architecture: Architecture, image_side: int) -> dict[str, Columns]:
    """The columns of every tensor's matrix by name; biases, scales and shifts have one column."""
    shapes = iter(architecture.shapes())
    places = walk(
        architecture.layers,
        input_features(architecture.input_shape, image_side),
        lambda layer, features, earlier: features_after(layer, features, next(shapes), earlier),
    )
    columns: dict[str, Columns] = {}
    for layer, features in zip(architecture.layers, places, strict=False):
        for name in tensor_shapes(Architecture((), (layer,))):
            if name in columns:
                # a layer that is used again has its tensors where it is first used
                continue
            if isinstance(layer, Weighted) and name.endswith(".weight"):
                columns[name] = weight_columns(layer, features)
            elif isinstance(layer, Table):
                columns[name] = flat(table_of(layer)[1][1])
            elif isinstance(layer, Recurrent) and name.endswith(".weight"):
                columns[name] = flat(layer.hidden)
            else:
                columns[name] = flat(1)
    return columns


def selection_matrix(features: Columns) -> tuple[int, Columns]:
    """Rows and columns of the pattern that says which features are kept.

    Features that form a whole grid of channels × height × width become one row per channel if there are at least
    as many channels as lines, else one row per line of each image; other features are one column.
    """
    height, width = int(features.y.max(initial=0)) + 1, int(features.x.max(initial=0)) + 1
    channels = len(features) // (height * width)
    whole = grid(channels, height, width)
    if len(whole) != len(features) or not all(
        np.array_equal(a, b)
        for a, b in ((whole.channel, features.channel), (whole.y, features.y), (whole.x, features.x))
    ):
        return len(features), flat(1)
    if channels >= height:
        return channels, grid(1, height, width)
    return channels * height, grid(1, 1, width)
