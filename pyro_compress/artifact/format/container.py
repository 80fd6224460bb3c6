"""The file around a body: magic, version, length, perhaps a note, checksum (FORMAT.md part 1)."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

from pyro_compress.errors import ArtifactError

MAGIC = b"PYR"
VERSION = 1
CHECKSUM_BYTES = 4
MAX_LENGTH_BYTES = 5
MAX_NOTE = 1 << 16


def contained(body: bytes, note: bytes = b"") -> bytes:
    """The file around a body, and a note if it is not empty."""
    data = MAGIC + bytes([VERSION]) + _varint(len(body)) + body
    if note:
        data += _varint(len(note)) + note
    return data + _checksum(data)


def unwrap(data: bytes) -> bytes:
    """The body of a file."""
    return parted(data)[0]


def parted(data: bytes) -> tuple[bytes, bytes]:
    """Body and note of a file; an empty note if it has none.

    Raises:
        ArtifactError: the file is none of this version, truncated, damaged, or longer than it says.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise ArtifactError(f"not a compressed network: the file starts with {data[:4]!r}, {MAGIC!r} was expected")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise ArtifactError(
            f"the file has format version {data[len(MAGIC)]}, this program reads version {VERSION}: "
            "update the program, or write the file again with it"
        )
    length, start = _length(data, len(MAGIC) + 1)
    stop = start + length
    if len(data) < stop + CHECKSUM_BYTES:
        raise _truncated(data, stop + CHECKSUM_BYTES)
    if len(data) == stop + CHECKSUM_BYTES:
        _check(data)
        return data[start:stop], b""
    if data[stop : stop + CHECKSUM_BYTES] == _checksum(data[:stop]):
        raise _behind(len(data) - stop - CHECKSUM_BYTES)
    size, note_start = _length(data, stop)
    expected = note_start + size + CHECKSUM_BYTES
    if not 1 <= size <= MAX_NOTE:
        raise ArtifactError(f"a note has 1 to {MAX_NOTE} bytes, and that of the file {size}")
    if len(data) < expected:
        raise _truncated(data, expected)
    if len(data) > expected:
        raise _behind(len(data) - expected)
    _check(data)
    note = data[note_start : note_start + size]
    read_note(note)
    return data[start:stop], note


def read_note(note: bytes) -> dict[str, Any]:
    """The JSON object that a note is; an empty one of no note.

    Raises:
        ArtifactError: it is no such object in UTF-8.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    if not note:
        return {}
    try:
        found = json.loads(note.decode("utf-8"), object_pairs_hook=unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the note of the file is not JSON in UTF-8: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ArtifactError("the note of the file is no JSON object with entries")
    return found


def write_note(entries: Mapping[str, Any]) -> bytes:
    """Entries as a note; none for no entries.

    Raises:
        ArtifactError: they are not what JSON can say, or too many.
    """
    if not entries:
        return b""
    try:
        note = json.dumps(entries, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"a note holds what JSON can say: {error}") from error
    if len(note) > MAX_NOTE:
        raise ArtifactError(f"a note has at most {MAX_NOTE:,} bytes, and this one {len(note):,}: leave something out")
    if read_note(note) != entries:
        raise ArtifactError(
            "a note holds what JSON gives back as it was: texts as keys, lists, numbers, texts, true, null"
        )
    return note


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check(data: bytes) -> None:
    found, stated = _checksum(data[:-CHECKSUM_BYTES]), data[-CHECKSUM_BYTES:]
    if found != stated:
        raise ArtifactError(
            f"the file is damaged: its checksum is {found[::-1].hex()}, {stated[::-1].hex()} was expected; "
            "fetch it again"
        )


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def _truncated(data: bytes, expected: int) -> ArtifactError:
    return ArtifactError(f"the file is truncated: {len(data)} of {expected} bytes are there; fetch it again")


def _behind(count: int) -> ArtifactError:
    return ArtifactError(f"{count} bytes stand behind the end of the compressed network")


def _varint(value: int) -> bytes:
    """7 bits in each byte, the lowest first, the highest bit set on all but the last."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _length(data: bytes, start: int) -> tuple[int, int]:
    """The length at a place of the file, and where what it is the length of starts."""
    value = 0
    for position, byte in enumerate(data[start : start + MAX_LENGTH_BYTES]):
        value |= (byte & 127) << 7 * position
        if byte < 128:
            if not byte and position:
                break
            return value, start + position + 1
    else:
        if len(data) < start + MAX_LENGTH_BYTES:
            raise ArtifactError(
                f"the file is truncated: it ends after {len(data)} bytes, inside its length; fetch it again"
            )
    raise ArtifactError("the length at the start of the file is not written as the format asks")
