"""A network as it is stored: an architecture and, per tensor, what integers stand for, or plain float32 numbers.

This is what structured removal hands to the encoder and what the decoder gives back, so it imports numpy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import (
    BatchNorm,
    ChannelAffine,
    FixedAffine,
    Linear,
    Named,
    PReLU,
    Table,
    Weighted,
    outputs_of,
    table_of,
    weight_shape,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Stored, Uniform, power_of_two
from pyro_compress.network.sequence_layers import Recurrent


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """Numbers `quantizer.value(integers)`, integers int32, or `floats` (float32); exactly one is given.

    Attributes:
        integers: indices of the quantizer, multiples of its step or places in its codebook; zero is 0.
        quantizer: what they stand for, the integers themselves if it is not given; None for floats.

    Args:
        step_exponent: e of the grid of step 2^e, in place of a quantizer.
    """

    integers: np.ndarray | None = None
    quantizer: Stored | None = None
    floats: np.ndarray | None = None
    step_exponent: InitVar[int | None] = None

    def __post_init__(self, step_exponent: int | None) -> None:
        if step_exponent is not None:
            if self.quantizer is not None:
                raise ValueError("a stored tensor has a quantizer or the exponent of a step, not both")
            object.__setattr__(self, "quantizer", power_of_two(step_exponent))
        if (self.integers is None) == (self.floats is None):
            raise ValueError("a stored tensor has either integers or floats")
        if self.floats is not None and self.floats.dtype != np.float32:
            raise ValueError(f"stored floats are float32, not {self.floats.dtype}")
        if self.integers is None:
            if self.quantizer is not None:
                raise ValueError(f"stored floats are rounded to nothing, {self.quantizer} was given")
            return
        if self.integers.dtype != np.int32:
            raise ValueError(f"stored integers are int32, not {self.integers.dtype}")
        match self.quantizer:
            case None:
                object.__setattr__(self, "quantizer", Uniform(1.0))
            case PerChannel(steps) if self.integers.shape[:1] != (len(steps),):
                raise ValueError(f"{len(steps)} steps were given for a tensor of shape {self.integers.shape}")
            case Codebook():
                below, above = self.quantizer.sides
                least, most = int(self.integers.min(initial=0)), int(self.integers.max(initial=0))
                if least < -below or most > above:
                    raise ValueError(f"a codebook of {below} and {above} levels has no places {least} and {most}")

    @property
    def shape(self) -> tuple[int, ...]:
        held = self.integers if self.integers is not None else self.floats
        assert held is not None
        return held.shape

    def dense(self) -> np.ndarray:
        """The numbers as float32: what every reader finds, as |integer| ≤ 2**24 is checked where grids are made."""
        if self.integers is None or self.quantizer is None:
            assert self.floats is not None
            return self.floats
        return self.quantizer.value(self.integers)

    def reshaped(self, shape: tuple[int, ...]) -> "StoredTensor":
        """The same numbers in another shape, of as many along the first axis."""
        integers, floats = (None if held is None else held.reshape(shape) for held in (self.integers, self.floats))
        return StoredTensor(integers, self.quantizer, floats)

    def equals(self, other: "StoredTensor") -> bool:
        """Bit for bit the same content."""
        if self.quantizer != other.quantizer or self.shape != other.shape:
            return False
        if self.integers is not None and other.integers is not None:
            return bool(np.array_equal(self.integers, other.integers))
        if self.floats is not None and other.floats is not None:
            return self.floats.tobytes() == other.floats.tobytes()
        return False


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """An architecture without `BatchNorm` layers, and every tensor that it names, of the shape that it says.

    Attributes:
        architecture: of the smaller network.
        tensors: by name.
        deviations: by name of a tensor, int8 of its shape: posterior standard deviations are 2**deviation where the
            tensor is not zero; elsewhere they are zero, and 0 stands there.
    """

    architecture: Architecture
    tensors: dict[str, StoredTensor]
    deviations: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = tensor_shapes(self.architecture)
        if set(expected) != set(self.tensors):
            raise ValueError(f"tensors {sorted(self.tensors)} given, {sorted(expected)} expected")
        for name, shape in expected.items():
            if self.tensors[name].shape != shape:
                raise ValueError(f"tensor {name} has shape {self.tensors[name].shape}, expected {shape}")
        for name, exponents in self.deviations.items():
            if name not in expected or exponents.shape != expected[name] or exponents.dtype != np.int8:
                raise ValueError(
                    f"deviations of {name} are {exponents.dtype} {exponents.shape}, int8 of a tensor expected"
                )
            zero = self.tensors[name].dense() == 0
            if exponents[zero].any() or zero.all():
                raise ValueError(f"deviations of {name} stand beside numbers that are zero")


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an architecture, in storage order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in architecture.layers:
        if isinstance(layer, Weighted):
            shapes[f"{layer.name}.weight"] = weight_shape(layer)
            if layer.bias:
                shapes[f"{layer.name}.bias"] = (outputs_of(layer),)
        elif isinstance(layer, ChannelAffine):
            shapes[f"{layer.name}.scale"] = (layer.channels,)
            shapes[f"{layer.name}.shift"] = (layer.channels,)
        elif isinstance(layer, PReLU):
            shapes[f"{layer.name}.slope"] = (layer.slopes,)
        elif isinstance(layer, Table):
            name, shape = table_of(layer)
            shapes[name] = shape
        elif isinstance(layer, Recurrent):
            shapes[f"{layer.name}.weight"] = (layer.gates * layer.hidden, layer.hidden)
            if layer.bias:
                shapes[f"{layer.name}.bias"] = (layer.hidden,)
        elif isinstance(layer, BatchNorm | FixedAffine):
            raise ValueError(f"normalisation {layer.name} must become a ChannelAffine before it is stored")
    return shapes


def tied_weights(network: StoredNetwork) -> dict[str, str]:
    """Weights whose numbers are those of an earlier one, by that: of an embedding and the output that shares them.

    What is all zero is left out, which takes no place anyway.
    """
    found: dict[str, str] = {}
    seen: dict[tuple[int, int], list[str]] = {}
    for name, tensor in network.tensors.items():
        if not name.endswith(".weight") or not tensor.dense().any():
            continue
        alike = seen.setdefault((len(tensor.dense()), tensor.dense().size), [])
        first = next((one for one in alike if _same(network, one, name)), None)
        if first is None:
            alike.append(name)
        else:
            found[name] = first
    return found


def _same(network: StoredNetwork, first: str, name: str) -> bool:
    one, other = network.tensors[first], network.tensors[name]
    nothing = np.zeros(0, np.int8)
    deviations = network.deviations.get(first, nothing).ravel(), network.deviations.get(name, nothing).ravel()
    if not np.array_equal(deviations[0], deviations[1]):
        return False
    return one.reshaped(other.shape).equals(other)


def each_used_once(network: StoredNetwork) -> StoredNetwork:
    """The same network with layers of their own, NAME@2 and so on, at further places of those that are used again."""
    tensors, layers = dict(network.tensors), list(network.architecture.layers)
    for name, places in network.architecture.places.items():
        for number, place in enumerate(places[1:], 2):
            layer, own = layers[place], f"{name}@{number}"
            assert isinstance(layer, Named)
            layers[place] = replace(layer, name=own)
            for tensor in tensor_shapes(Architecture((), (layer,))):
                tensors[own + tensor.removeprefix(name)] = network.tensors[tensor]
    return StoredNetwork(replace(network.architecture, layers=tuple(layers)), tensors)


def architecture_left(network: StoredNetwork) -> list[int]:
    """The sizes left in the notation of the published tables: filters of a convolution, inputs of a dense layer.

    LeNet-300-100 gives the inputs of fc1, fc2 and fc3 (311, 86, 14); LeNet-5 the filters of conv1 and conv2, then
    the inputs of fc1 and fc2 (5, 10, 76, 16).
    """
    layers = network.architecture.weighted()
    return [layer.in_features if isinstance(layer, Linear) else layer.out_channels for layer in layers]


def format_architecture(sizes: Sequence[int]) -> str:
    """`[5, 10, 76, 16]` as `5-10-76-16`."""
    return "-".join(str(size) for size in sizes)
