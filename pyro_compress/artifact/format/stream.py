"""The entropy-coded part of a compressed file: the range coder, and the order in which tensors go through it.

`FORMAT.md`, part 3, is the specification.  The coder is constriction's: 32-bit words, 64-bit state, 24-bit
frequencies.  Its models are built from frequencies that are integers already, so that rounding inside the
library has nothing to do: a table of n frequencies f is passed as the numbers f − 1, which sum to 2²⁴ − n.
"""

from typing import Any

import constriction
import numpy as np

from pyro_compress.artifact.format import layout
from pyro_compress.artifact.format.coding import FALLS, TOTAL, TOTAL_BITS, UNIT, UNIT_BITS, Coder, Values
from pyro_compress.artifact.format.header import ALL_ZERO, Header, TensorCode, shape_after
from pyro_compress.artifact.format.pattern import STRENGTHS, Pattern, code_matrix, density
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import walk
from pyro_compress.network.layers import Layer, Select

WORD_BYTES = 4
SELECT_STRENGTH = 1


_FAMILY = constriction.stream.model.Categorical(lazy=True, perfect=False)


def _binary(ones: np.ndarray) -> tuple[Any, ...]:
    """Model and parameters of binary symbols, as constriction takes them."""
    scaled = ones * float(1 << (TOTAL_BITS - UNIT_BITS))
    if scaled[0] == scaled[-1] and (scaled == scaled[0]).all():
        return (_alone(np.array([TOTAL - scaled[0], scaled[0]])),)
    tables = np.empty((len(ones), 2), np.float32)
    np.subtract(TOTAL - 1, scaled, out=tables[:, 0], casting="same_kind")
    np.subtract(scaled, 1, out=tables[:, 1], casting="same_kind")
    return _FAMILY, tables


def _tokens(tables: np.ndarray, levels: np.ndarray) -> tuple[Any, ...]:
    """Model and parameters of symbols whose frequencies are rows of `tables`."""
    if levels[0] == levels[-1] and (levels == levels[0]).all():
        return (_alone(tables[levels[0]]),)
    return _FAMILY, (tables - 1).astype(np.float32)[levels]


def _alone(frequencies: np.ndarray) -> constriction.stream.model.Model:
    """One model for all symbols of a call: the same bytes as a table for each of them, and several times faster."""
    return constriction.stream.model.Categorical((frequencies - 1).astype(np.float32), lazy=False, perfect=False)


class RangeWriter:
    """The encoder's side of a `Coder`."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def bits(self, ones: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        if len(symbols):
            self.write(symbols.astype(np.int32), _binary(ones))
        return symbols

    def tokens(self, tables: np.ndarray, levels: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        if len(symbols):
            self.write(symbols.astype(np.int32), _tokens(tables, levels))
        return symbols

    def alike(self, table: np.ndarray, count: int, symbols: np.ndarray | None) -> np.ndarray:
        assert symbols is not None
        self.write(symbols.astype(np.int32), (_alone(table),))
        return symbols

    def write(self, symbols: np.ndarray, models: tuple[Any, ...]) -> None:
        """Write int32 symbols (n,), at least one."""
        self._encoder.encode(symbols, *models)

    def used_bits(self) -> int:
        """Information written so far, in bits rounded up; integer arithmetic, so all machines agree."""
        words, (_, width) = self._encoder.pos()
        return 32 * words + 65 - int(width).bit_length()

    def words(self) -> int:
        """Whole words written so far, of which the stream has at least as many."""
        return int(self._encoder.pos()[0])

    def finish(self) -> bytes:
        """The stream: big-endian words, the last one as round as its interval allows, its zero bytes left out."""
        words = self._encoder.get_compressed().copy()
        position, (lower, width) = self._encoder.pos()
        if len(words) == position + 1 and lower + width <= 1 << 64:
            for kept in (8, 16, 24, 32):
                point = -(-lower >> (64 - kept)) << (64 - kept)
                if point < lower + width:
                    words[-1] = point >> 32
                    break
        stream = words.astype(">u4").tobytes()
        for _ in range(WORD_BYTES - 1):
            stream = stream.removesuffix(b"\0")
        return stream


class RangeReader:
    """The decoder's side of a `Coder`.

    It encodes again what it decodes: a stream is accepted only if it is the one that the encoder would have written.
    """

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        padded = stream + bytes(-len(stream) % WORD_BYTES)
        self._words = len(padded) // WORD_BYTES
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
        self._again = RangeWriter()

    def bits(self, ones: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        if not len(ones):
            return np.zeros(0, bool)
        return self._read(len(ones), _binary(ones)).astype(bool)

    def tokens(self, tables: np.ndarray, levels: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        if not len(levels):
            return np.zeros(0, np.int64)
        return self._read(len(levels), _tokens(tables, levels)).astype(np.int64)

    def alike(self, table: np.ndarray, count: int, symbols: np.ndarray | None) -> np.ndarray:
        return self._read(count, (_alone(table),)).astype(np.int64)

    def used_bits(self) -> int:
        """Information read so far, in bits rounded up."""
        return self._again.used_bits()

    def check_end(self) -> None:
        """Raise unless the stream held what was decoded and nothing else."""
        if self._again.finish() != self._stream:
            raise ArtifactError("the stream of weights holds other or more bytes than its numbers need")

    def _read(self, count: int, models: tuple[Any, ...]) -> np.ndarray:
        amount = models[1:] or (count,)
        try:
            symbols = self._decoder.decode(models[0], *amount)
        except AssertionError as error:
            raise ArtifactError(f"the stream of weights cannot be decoded: {error}") from error
        self._again.write(symbols, models)
        if self._again.words() > self._words:
            raise ArtifactError(f"the stream of weights ends before its numbers do, after {len(self._stream)} bytes")
        return symbols


def code_tensor(
    coder: Coder, code: TensorCode, columns: layout.Columns, rows: int, given: np.ndarray | None
) -> np.ndarray:
    """Code one tensor of integers as a matrix, int32 (rows, columns)."""
    if code.density == ALL_ZERO or not rows * len(columns):
        return np.zeros((rows, len(columns)), np.int32)
    return code_matrix(coder, rows, columns, *tensor_models(code, columns), given)


def tensor_models(code: TensorCode, columns: layout.Columns) -> tuple[Pattern, Values]:
    """The models of one tensor before anything is coded."""
    pattern = Pattern(columns, density(code.density), STRENGTHS[code.strength])
    return pattern, Values(code.top_token, FALLS[code.fall])


def code_selection(
    coder: Coder, features: layout.Columns, count: int, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Code which `count` of the features a `Select` layer keeps."""
    total = len(features)
    if count in (0, total):
        return tuple(range(count))
    rows, columns = layout.selection_matrix(features)
    wanted = None
    if given is not None:
        flags = np.zeros(total, np.int32)
        flags[list(given)] = 1
        wanted = flags.reshape(rows, len(columns))
    pattern = Pattern(columns, min(max(count * UNIT // total, 1), UNIT - 1), SELECT_STRENGTH)
    kept = np.flatnonzero(code_matrix(coder, rows, columns, pattern, None, wanted))
    if len(kept) != count:
        raise ArtifactError(f"a selection holds {len(kept)} entries where the header says {count}")
    return tuple(kept.tolist())


def code_selections(coder: Coder, header: Header, given: tuple[Layer, ...] | None) -> tuple[Layer, ...]:
    """Code the indices of all `Select` layers; returns the header's layers with their indices filled in."""
    shapes, layers = [header.input_shape], list[Layer]()

    def after(layer: Layer, features: layout.Columns | None, earlier: layout.Columns | None) -> layout.Columns | None:
        position, shape = len(layers), shapes[-1]
        if isinstance(layer, Select):
            places = layout.flat(shape[0]) if features is None else features
            known = given[position] if given is not None else None
            wanted = known.indices if isinstance(known, Select) else None
            layer = Select(code_selection(coder, places, header.selected[position], wanted))
        layers.append(layer)
        shapes.append(shape_after(layer, shapes, header.selected.get(position)))
        return layout.features_after(layer, features, shape, earlier)

    for _ in walk(header.layers, layout.input_features(header.input_shape, header.image_side), after):
        pass
    return tuple(layers)
