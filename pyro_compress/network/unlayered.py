"""In place of an architecture: the tensors of a module whose forward pass no file describes.

A file of weights is made of it; the module itself runs what was decoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyro_compress.network.stored_weights import Given


@dataclass(frozen=True, eq=False)
class Unlayered:
    """A module as a file of weights sees it.

    Attributes:
        state: its state dict, in order, and buffers that this does not list: names and types of all tensors, and
            numbers of those that no decision holds.
        output_shape: of one example.
        reason: why there is no architecture, in words that follow "because".
    """

    state: Mapping[str, Given]
    output_shape: tuple[int, ...]
    reason: str
