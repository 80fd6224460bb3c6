"""The numbers of a network's layers, as those ask for them who want to know which matter.

A weight is looked at as (outputs, inputs per group, *kernel), whatever the layer keeps it as.
"""

import copy
from collections.abc import Mapping

import numpy as np

from pyro_compress.network.activations import applied
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    PReLU,
    Table,
    Weighted,
    outputs_of,
    table_of,
)
from pyro_compress.network.sequence_layers import (
    Recurrent,
)


class Numbers:
    """The numbers of a network's layers.

    Args:
        values: float, weights and biases by dotted name; zeros are weights that are not there.
        buffers: of batch norms.
        adds_biases: whether a layer without a bias may be given one, for a constant to be folded into.
    """

    def __init__(
        self, values: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray], *, adds_biases: bool = True
    ) -> None:
        self._stored = values
        self._buffers = {name: buffer.astype(np.float64) for name, buffer in buffers.items()}
        self._adds_biases = adds_biases
        self._reused: frozenset[str] = frozenset()

    def within(self, architecture: Architecture) -> "Numbers":
        """The same, of layers that are used as they are in a network."""
        found = copy.copy(self)
        found._reused = architecture.reused
        return found

    def foldable(self, layer: Weighted, constant: np.ndarray) -> np.ndarray:
        """Boolean, which inputs are constants that the layer's bias can take over.

        Zero padding puts zeros beside a constant, so near the border W·c would be wrong unless c = 0.  A transposed
        convolution makes another sum of its kernel at every phase of its stride.  A layer that is used again may find
        that the same entry varies elsewhere, and so takes over nothing, not even a 0.
        """
        uneven = isinstance(layer, ConvTranspose2d) or (isinstance(layer, Conv2d) and any(layer.padding))
        if layer.name in self._reused:
            return np.zeros(constant.size, dtype=bool)
        takes_over = (layer.bias or self._adds_biases) and not uneven
        return np.isfinite(constant) if takes_over else constant == 0

    def links(self, layer: Weighted) -> np.ndarray:
        """Boolean (outputs, inputs per group): whether any weight between the two is not zero."""
        nonzero = by_output(layer, self._stored[f"{layer.name}.weight"]) != 0
        return nonzero.any(axis=tuple(range(2, nonzero.ndim)))

    def gains(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs, inputs per group): what an output takes from an input that is 1 everywhere."""
        weight = by_output(layer, self._stored[f"{layer.name}.weight"])
        return weight.sum(axis=tuple(range(2, weight.ndim)), dtype=np.float64)

    def bias(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs,): zeros if the layer has none."""
        return self._stored[f"{layer.name}.bias"].astype(np.float64) if layer.bias else np.zeros(outputs_of(layer))

    def slope(self, layer: PReLU) -> np.ndarray:
        """float64 (slopes,)."""
        return self._stored[f"{layer.name}.weight"].astype(np.float64)

    def table(self, layer: Table) -> np.ndarray:
        """float64 (rows, channels)."""
        return self._stored[table_of(layer)[0]].astype(np.float64)

    def recurrent(self, layer: Recurrent) -> tuple[np.ndarray, np.ndarray]:
        """float64 weight (gates, hidden, hidden) and bias (gates, hidden) from the states to the gates."""
        weight = self._stored[f"{layer.name}.weight"].astype(np.float64).reshape(layer.gates, layer.hidden, -1)
        bias = self._stored[f"{layer.name}.bias"].astype(np.float64) if layer.bias else np.zeros(weight[..., 0].size)
        return weight, bias.reshape(layer.gates, layer.hidden)

    def affine(self, layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
        """float64 (channels,), twice: scale and shift of a batch norm at inference."""
        mean, deviation = self.statistics(layer)
        scale = 1 / deviation
        shift = np.zeros(layer.channels)
        if layer.affine and layer.gain:
            scale = scale * applied(layer.function, self._stored[f"{layer.name}.weight"])
        if layer.affine and layer.bias:
            own = () if layer.gain else layer.function
            shift = shift + applied(own, self._stored[f"{layer.name}.bias"])
        return scale, shift - mean * scale

    def statistics(self, layer: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
        """float64 (channels,), twice: running mean and √(running variance + ε); 0 and 1 if there are none."""
        if not layer.running:
            return np.zeros(layer.channels), np.ones(layer.channels)
        variance = self._buffers[f"{layer.name}.running_var"]
        return self._buffers[f"{layer.name}.running_mean"], np.sqrt(variance + layer.eps)


def by_output(layer: Weighted, weight: np.ndarray) -> np.ndarray:
    """A weight, or what is said of each of its numbers, as (outputs, inputs per group, *kernel)."""
    if not isinstance(layer, ConvTranspose2d):
        return weight
    groups, kernel = layer.groups, weight.shape[2:]
    grouped = weight.reshape(groups, layer.in_channels // groups, layer.out_channels // groups, *kernel)
    return grouped.swapaxes(1, 2).reshape(layer.out_channels, layer.in_channels // groups, *kernel)


def as_stored(layer: Weighted, weight: np.ndarray) -> np.ndarray:
    """The inverse of `by_output`, of (outputs, inputs per group, ...)."""
    if not isinstance(layer, ConvTranspose2d):
        return weight
    groups, inputs, rest = layer.groups, weight.shape[1], weight.shape[2:]
    grouped = weight.reshape(groups, layer.out_channels // groups, inputs, *rest)
    return grouped.swapaxes(1, 2).reshape(groups * inputs, layer.out_channels // groups, *rest)
