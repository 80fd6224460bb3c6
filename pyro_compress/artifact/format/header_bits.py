"""The bits that a header is made of, in both directions: `FORMAT.md`, part 2."""

from pyro_compress.artifact.format.header import LONGEST_CODE, MAX_EXTENT, SIZE, SMALL
from pyro_compress.errors import ArtifactError
from pyro_compress.network.layers import Pair


class BitReader:
    """Takes numbers from the start of a body, none of them beyond what the caller allows."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._bit = 0

    @property
    def position(self) -> int:
        """The byte behind those that were begun."""
        return -(-self._bit // 8)

    def bits(self, count: int, what: str) -> int:
        """So many bits, the first one the highest."""
        if self._bit + count > 8 * len(self.data):
            raise ArtifactError(f"the file ends inside its header, where {what} was expected")
        first, self._bit = self._bit, self._bit + count
        piece = self.data[first // 8 : -(-self._bit // 8)]
        return int.from_bytes(piece, "big") >> -self._bit % 8 & ((1 << count) - 1)

    def number(self, what: str, limit: int, order: int) -> int:
        """An Exp-Golomb code, or anything beyond the limit if it is beyond the limit."""
        zeros = 0
        while not self.bits(1, what):
            zeros += 1
            if zeros > LONGEST_CODE:
                return limit + 1
        return (1 << zeros + order) + self.bits(zeros + order, what) - (1 << order)

    def within(self, what: str, limit: int, least: int = 0, order: int = SIZE) -> int:
        """A number from `least` to `limit`."""
        value = self.number(what, limit, order)
        if value > limit:
            raise ArtifactError(f"{what} in the header exceeds the limit {limit}")
        if value < least:
            raise ArtifactError(f"{what} in the header is {value}, at least {least} is expected")
        return value

    def raw(self, length: int, what: str) -> bytes:
        return self.bits(8 * length, what).to_bytes(length, "big")

    def pair(self, what: str, least: int) -> Pair:
        code = self.within(what, 2 * MAX_EXTENT, 2 * least, SMALL)
        return (code // 2, self.within(what, MAX_EXTENT, least, SMALL) if code % 2 else code // 2)


class BitWriter:
    """Collects bits."""

    def __init__(self) -> None:
        self._bits = 0
        self.count = 0

    def filled(self) -> bytes:
        """All bits so far; zeros fill the last byte."""
        filling = -self.count % 8
        return (self._bits << filling).to_bytes((self.count + filling) // 8, "big")

    def bits(self, value: int, count: int) -> None:
        """So many bits, the highest first."""
        self._bits = self._bits << count | value
        self.count += count

    def number(self, value: int, order: int = SIZE) -> None:
        """The Exp-Golomb code of an order: value + 2^order in binary, behind one zero for each bit beyond order + 1."""
        if value < 0:
            raise ArtifactError(f"the header holds no negative numbers, {value} was given")
        self.bits(value + (1 << order), number_bits(value, order))

    def raw(self, data: bytes) -> None:
        """8 bits for each byte."""
        self.bits(int.from_bytes(data, "big"), 8 * len(data))

    def pair(self, value: Pair) -> None:
        """Two numbers, of which the second is left out where it is the first."""
        self.number(2 * value[0] + (value[0] != value[1]), SMALL)
        if value[0] != value[1]:
            self.number(value[1], SMALL)


def number_bits(value: int, order: int) -> int:
    """The length of the Exp-Golomb code of an order."""
    return 2 * ((value >> order) + 1).bit_length() - 1 + order
