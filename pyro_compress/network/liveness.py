"""Which units, filters and inputs of a pruned network still matter: two passes over its layers.

Forwards, what is constant (`constants.py`); backwards, what is needed (`needs.py`); then what stays beside that because
it is coupled with it (`coupling.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.constants import constants_of
from pyro_compress.network.coupling import Sharing, kept_of
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    FixedAffine,
    Flatten,
    Linear,
    MaxPool2d,
    Upsample,
    groups_of,
)
from pyro_compress.network.needs import live_of
from pyro_compress.network.numbers import Numbers

PLAIN = (
    *(Linear, Conv2d, BatchNorm, ChannelAffine, FixedAffine, Activation),
    *(MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Upsample, Flatten),
)


@dataclass(frozen=True)
class Signal:
    """What flows between two layers, per entry of axis 1.

    Attributes:
        constant: float64, the value that the entry has for every example (and pixel), NaN if it varies.
        live: the outputs depend on it in a way that no bias can take over.
        kept: live here or in a coupled output, or the one entry that stays, unread, where none is live.
    """

    constant: np.ndarray
    live: np.ndarray
    kept: np.ndarray


def signals(architecture: Architecture, numbers: Numbers) -> list[Signal]:
    """The signal before each layer, and after the last: len(layers) + 1 of them, one for each output.

    One pass each way is enough: constants never depend on needs, and a need only on constants and later needs.
    """
    numbers = numbers.within(architecture)
    constants = constants_of(architecture, numbers)
    live = live_of(architecture, constants, numbers)
    kept = kept_of(architecture, live)
    return [Signal(*arrays) for arrays in zip(constants, live, kept, strict=True)]


def read(architecture: Architecture, numbers: Numbers) -> list[np.ndarray]:
    """Boolean per output, as many as there are `signals`: the entries from which weights lead to the network's outputs.

    No constant is folded: what has to stay while biases are trained, which may make another one of it.
    """
    numbers = numbers.within(architecture)
    # a number without axes is one entry
    varying = [np.full(shape[:1] or (1,), np.nan) for shape in architecture.shapes()]
    return kept_of(architecture, live_of(architecture, varying, numbers))


def around(sharing: Sharing, flow: Sequence[Signal], position: int) -> tuple[Signal, Signal]:
    """The signals before and behind a layer; of a weight that is at several places, live at any, and no constants."""
    found = [flow[position], flow[position + 1]]
    for side, outputs in sharing.sides[position].items():
        live = np.any([flow[number].live for number in outputs], axis=0)
        found[side] = Signal(np.full(live.size, np.nan), live, found[side].kept)
    return found[0], found[1]


def is_plain_chain(architecture: Architecture) -> bool:
    """Whether there is nothing but dense layers, convolutions of one group, and what treats every entry alike."""
    plain = all(isinstance(layer, PLAIN) for layer in architecture.layers) and not architecture.tied
    return plain and not architecture.reused and all(groups_of(layer) == 1 for layer in architecture.weighted())


def products_per_link(architecture: Architecture) -> list[int]:
    """Per dense layer and convolution: products of a forward pass of one example between one input and one output."""
    found, shapes = [], architecture.shapes()
    for layer, before, after in zip(architecture.layers, shapes[:-1], shapes[1:], strict=True):
        if isinstance(layer, Conv2d):
            found.append(math.prod(layer.kernel_size) * math.prod(after[1:]))
        elif isinstance(layer, ConvTranspose2d):
            found.append(math.prod(layer.kernel_size) * math.prod(before[1:]))
        elif isinstance(layer, Linear):
            found.append(1)
    return found
