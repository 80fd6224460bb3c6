"""Headers by hand: their fields as the characters 0 and 1, which `fuzzing.packed` makes bytes of."""

from tests.artifact.fuzzing import bit_number


def number(value: int, order: int = 4) -> str:
    """An Exp-Golomb code."""
    return bit_number(value, order)


def shape(*extents: int) -> str:
    """No flags, rank, extents."""
    return "0" + number(len(extents), 2) + "".join(map(number, extents))


def pair(first: int, second: int | None = None) -> str:
    """A pair, of equal numbers if the second is not given."""
    return number(2 * first, 2) if second is None else number(2 * first + 1, 2) + number(second, 2)


def text(data: bytes) -> str:
    """8 bits for each byte."""
    return "".join(f"{byte:08b}" for byte in data)


def linear(outputs: int, name: str = "1") -> str:
    """A dense layer without bias, of the name that is expected."""
    return "0000 0" + number(outputs) + name


FLAT = shape(4) + number(0)  # four numbers, no image
LINEAR = FLAT + number(1) + linear(2)
IMAGE = shape(1, 4, 4) + number(1)
ZEROS = "010 1"  # all zero, e = 0
GIVEN = "0"  # a name that is not the one expected
