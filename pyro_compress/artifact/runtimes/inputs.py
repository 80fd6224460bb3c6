"""What every runtime says of an input that does not fit."""

from pyro_compress.errors import ArtifactError


def check_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse anything but a batch of examples of the shape that the network was made for.

    Other sizes might go through, but sums, padding, cuts and interpolations hold the sizes of that shape.

    Raises:
        ArtifactError: says both shapes.
    """
    if not found or found[1:] != expected:
        shape = ", ".join(map(str, ("batch", *expected)))
        raise ArtifactError(f"the network takes an array of shape ({shape}), but {found} was given")
