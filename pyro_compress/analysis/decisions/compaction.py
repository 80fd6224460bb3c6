"""A smaller network to go on training: units that no kept weight reads are left out, and the way back is kept.

Unlike `structure.remove_dead` nothing is folded and every number stays a number of the original network, so what is
trained on the compact network can be written back where it came from.  Training it costs what is left, not what
there was.
"""

from dataclasses import dataclass, replace

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.network.architecture import Architecture, BatchNorm, Conv2d, Flatten, Layer, Linear, Select
from pyro_compress.network.liveness import is_plain_chain
from pyro_compress.network.stored import StoredNetwork, StoredTensor


@dataclass(frozen=True, eq=False)
class Compaction:
    """A compact network and where its tensors lie in the original ones.

    Attributes:
        network: decision.stored() values of the units that are read, float32.
        index: per parameter name the index (for `numpy.ix_`) of its entries in the original tensor.
    """

    network: StoredNetwork
    index: dict[str, tuple[np.ndarray, ...]]

    def take(self, name: str, original: np.ndarray) -> np.ndarray:
        """The compact part of an original tensor."""
        return original[self.index[name]]

    def rows(self, name: str) -> np.ndarray:
        """Which entries of axis 0 of an original tensor are there."""
        return np.ravel(self.index[name][0])

    def put_back(self, name: str, compact: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of the original shape, zero outside the compact part."""
        whole = np.zeros(shape, dtype=compact.dtype)
        whole[self.index[name]] = compact
        return whole


def can_compact(architecture: Architecture) -> bool:
    """Plain chains, as liveness says, without batch norm (its statistics cover all channels)."""
    normed = any(isinstance(layer, BatchNorm) for layer in architecture.layers)
    return is_plain_chain(architecture) and not normed


def compact(architecture: Architecture, decision: Decision) -> Compaction:
    """Leave out every unit and input that no kept weight reads; for architectures that `can_compact`.

    Args:
        architecture: as traced.
        decision: whose kept weights count as read.
    """
    shapes = architecture.shapes()
    reads = _reads(architecture, decision)
    present = np.arange(architecture.input_shape[0])  # which entries of axis 1 are there, in original numbering
    layers: list[Layer] = []
    index: dict[str, tuple[np.ndarray, ...]] = {}
    for position, layer in enumerate(architecture.layers):
        if isinstance(layer, Flatten):
            area = int(np.prod(shapes[position][1:]))
            layers.append(layer)
            present = (present[:, None] * area + np.arange(area)).ravel()
            continue
        if not isinstance(layer, Linear | Conv2d):
            layers.append(layer)
            continue
        wanted = reads[position]
        if len(wanted) < len(present):
            layers.append(Select(tuple(int(i) for i in np.searchsorted(present, wanted))))
        outputs = _outputs_read(architecture, reads, position)
        layers.append(_resized(layer, len(wanted), len(outputs)))
        index[f"{layer.name}.weight"] = np.ix_(outputs, wanted)
        if layer.bias:
            index[f"{layer.name}.bias"] = (outputs,)
        present = outputs
    held = {name: StoredTensor(floats=decision.sites[name].stored()[index[name]]) for name in index}
    return Compaction(StoredNetwork(Architecture(architecture.input_shape, tuple(layers)), held), index)


def _reads(architecture: Architecture, decision: Decision) -> dict[int, np.ndarray]:
    """Input units or channels with a kept weight, per position of a weighted layer; at least one."""
    found = {}
    for position, layer in enumerate(architecture.layers):
        if isinstance(layer, Linear | Conv2d):
            kept = decision.sites[f"{layer.name}.weight"].kept()
            used = np.flatnonzero(kept.any(axis=tuple(axis for axis in range(kept.ndim) if axis != 1)))
            found[position] = used if len(used) else np.array([0])
    return found


def _outputs_read(architecture: Architecture, reads: dict[int, np.ndarray], position: int) -> np.ndarray:
    """Units of the layer at `position` that the next weighted layer reads; all of them for the last one."""
    area = 1
    for later in range(position + 1, len(architecture.layers)):
        layer = architecture.layers[later]
        if isinstance(layer, Flatten):
            area = int(np.prod(architecture.shapes()[later][1:]))
        if later in reads:
            return np.unique(reads[later] // area)
    weighted = architecture.layers[position]
    return np.arange(weighted.out_features if isinstance(weighted, Linear) else getattr(weighted, "out_channels", 0))


def _resized(layer: Linear | Conv2d, inputs: int, outputs: int) -> Linear | Conv2d:
    if isinstance(layer, Linear):
        return replace(layer, in_features=inputs, out_features=outputs)
    return replace(layer, in_channels=inputs, out_channels=outputs)
