"""Names of tensors in a file of weights: parts between dots, told by what they share with the name before.

`FORMAT.md`, 2.6, is the specification.
"""

from itertools import takewhile

from pyro_compress.artifact.format.descriptors import DescriptorReader, DescriptorWriter
from pyro_compress.artifact.format.header import LEAST, MAX_NAME_BYTES, SMALL, split_name
from pyro_compress.errors import ArtifactError

FIRST_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SPELLED, COUNTED, LISTED = range(3)
MOST_COUNTED = 15
PARTS_ORDER = 1


class Names:
    """What both sides remember: the parts of the name before, and all parts that were spelled."""

    def __init__(self) -> None:
        self._last: tuple[str, ...] = ()
        self._known = list(FIRST_PARTS)

    def write(self, writer: DescriptorWriter, name: str) -> None:
        """Tell a name."""
        parts = tuple(name.split("."))
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(parts, self._last, strict=False))))
        writer.number(shared, PARTS_ORDER)
        writer.number(len(parts) - shared, PARTS_ORDER)
        for place in range(shared, len(parts)):
            self._write_part(writer, parts[place], place)
        self._last = parts

    def _write_part(self, writer: DescriptorWriter, part: str, place: int) -> None:
        if place < len(self._last):
            (stem, number), (last_stem, last_number) = split_name(part), split_name(self._last[place])
            if stem == last_stem and 0 < number - last_number <= MOST_COUNTED:
                writer.number(COUNTED, SMALL)
                writer.number(number - last_number - 1, LEAST)
                return
        if part in self._known:
            writer.number(LISTED + self._known.index(part), SMALL)
            return
        raw = part.encode()
        writer.number(SPELLED, SMALL)
        writer.number(len(raw), SMALL)
        writer.raw(raw)
        self._known.append(part)

    def read(self, reader: DescriptorReader) -> str:
        """The next name.

        Raises:
            ArtifactError: there is none.
        """
        what = "a tensor's name"
        shared = reader.within(what, len(self._last), order=PARTS_ORDER)
        more = reader.within(what, MAX_NAME_BYTES + 1, order=PARTS_ORDER)
        parts = list(self._last[:shared])
        for place in range(shared, shared + more):
            parts.append(self._read_part(reader, place))
        if sum(len(part.encode()) + 1 for part in parts) > MAX_NAME_BYTES + 1:
            raise ArtifactError(f"a tensor's name has more than {MAX_NAME_BYTES} bytes")
        self._last = tuple(parts)
        return ".".join(parts)

    def _read_part(self, reader: DescriptorReader, place: int) -> str:
        what = "a part of a tensor's name"
        way = reader.within(what, LISTED + len(self._known) - 1, order=SMALL)
        if way == COUNTED:
            if place >= len(self._last):
                raise ArtifactError("a tensor's name counts on where the name before has no part")
            stem, number = split_name(self._last[place])
            return f"{stem}{number + 1 + reader.within(what, MOST_COUNTED - 1, order=LEAST)}"
        if way >= LISTED:
            return self._known[way - LISTED]
        raw = reader.raw(reader.within(what, MAX_NAME_BYTES, order=SMALL), what)
        try:
            part = raw.decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"a tensor's name is not UTF-8: {error}") from error
        self._known.append(part)
        return part
