"""The score of the MicroNet Challenge (NeurIPS 2019): what a network stores and computes, in 32-bit equivalents.

    score = parameters / parameters of a reference + operations / operations of a reference
    parameters = Σ bits stored / 32        operations = Σ bits of an operation / 32

(Gale, Hooker, Blalock et al. 2019, https://micronet-challenge.github.io; their `counting.py` for the smaller layers.)

* Storage: every number that inference needs.  Of a weight that holds zeros only the others are stored, and one bit for
  each of its entries that says where they are, unless that takes more than all of them.  A step, a step per channel and
  the levels of a codebook are 32 bits each; inputs that are selected need one bit of each that there is.
* Multiplies and additions count separately, of one example, at the wider of their operands.  A dot product with n
  weights that are not zero has n multiplies and n − 1 additions, one more with a bias.  Sums are held in 32 bits.
  Comparisons and functions such as exp count one multiply each; zeros among activations count nothing.
* An integer times a step that is a power of two is a fixed-point number.  Any other step is a multiply more for each
  output.  A codebook's index stands for a float32 level, so it saves storage alone.
* 'Freebie': where nothing has fewer than 16 bits, everything stored and every multiply counts 16.

A layer that is used again stores its numbers once.

Products come from torch's `FlopCounterMode`; widths and zeros from the stored numbers.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.errors import RunError, unknown_name
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Multiply, Resize, Softmax, Standardize
from pyro_compress.network.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    ChannelAffine,
    Conv2d,
    ConvTranspose2d,
    Layer,
    Linear,
    MaxPool2d,
    PReLU,
    Select,
    Weighted,
    describe,
    table_of,
)
from pyro_compress.network.quantizers import Codebook, PerChannel, Uniform, bits_for
from pyro_compress.network.sequence_layers import (
    Attention,
    ConstantPositions,
    Embedding,
    PositionBias,
    Recurrent,
)
from pyro_compress.network.stored import StoredNetwork, StoredTensor, each_used_once, tied_weights

FULL_BITS, FREE_BITS = 32, 16


@dataclass(frozen=True)
class Reference:
    """What a score is relative to.

    Attributes:
        network: which one it is.
        parameters, operations: of it, at 32 bits.
    """

    network: str
    parameters: float
    operations: float


REFERENCES: Mapping[str, Reference] = {
    "cifar-100": Reference("WideResNet-28-10", 36.5e6, 10.49e9),
    "imagenet": Reference("MobileNetV2 of width 1.4", 6.9e6, 1170e6),
    "wikitext-103": Reference("LSTM of 2048 units", 159e6, 318e6),
}

# multiplies (comparisons and functions among them) and additions of one value, as far as an activation has them
_OF_ACTIVATIONS = {
    "relu": (1, 0),
    "relu6": (2, 0),
    "leaky_relu": (2, 0),
    "elu": (3, 1),
    "tanh": (1, 0),
    "sigmoid": (2, 1),
    "softplus": (2, 1),
    "gelu": (4, 1),
    "silu": (3, 1),
    "hardswish": (4, 1),
    "hardsigmoid": (3, 1),
    "mish": (4, 1),
    "gelu_tanh": (7, 2),
    "softsign": (2, 1),
    "times": (1, 0),
    "plus": (0, 1),
    "at_least": (1, 0),
    "at_most": (1, 0),
}


@dataclass(frozen=True)
class LayerCost:
    """What one layer stores, and computes for one example.

    Attributes:
        layer: its kind and, where it has one, its name.
        storage_bits: of its numbers, masks, steps and levels.
        multiplies, additions: how many.
        operation_bits: bits of all of them.
    """

    layer: str
    storage_bits: int
    multiplies: int
    additions: int
    operation_bits: int


@dataclass(frozen=True)
class Score:
    """The score of a network.

    Attributes:
        layers: in order, without those that store and compute nothing.
        reference: what it is relative to.
        freebie: whether everything counted 16 bits although it has more.
    """

    layers: tuple[LayerCost, ...]
    reference: Reference
    freebie: bool

    @property
    def parameters(self) -> float:
        """32-bit parameters that take as many bits."""
        return sum(layer.storage_bits for layer in self.layers) / FULL_BITS

    @property
    def operations(self) -> float:
        """32-bit operations that take as many bits."""
        return sum(layer.operation_bits for layer in self.layers) / FULL_BITS

    @property
    def total(self) -> float:
        """The score; the reference at 32 bits has 2."""
        return self.parameters / self.reference.parameters + self.operations / self.reference.operations


def micronet_score(
    network: StoredNetwork,
    reference: Reference | str = "cifar-100",
    *,
    activation_bits: int = FULL_BITS,
    freebie: bool = True,
) -> Score:
    """The MicroNet score of a stored network.

    Args:
        network: what a file holds.
        reference: of `REFERENCES`, or one of your own.
        activation_bits: width of inputs and activations, 1 to 32.  The runtimes here have 32; with fewer the network
            must be one that keeps its error so, which nothing here checks.
        freebie: whether 16 bits may be counted where nothing has fewer.

    Raises:
        RunError: another width, or an unknown reference.
    """
    if not 1 <= activation_bits <= FULL_BITS:
        raise RunError(f"activation_bits is a width from 1 to {FULL_BITS}, found {activation_bits}")
    if isinstance(reference, str):
        if reference not in REFERENCES:
            raise RunError(unknown_name("reference of a score", reference, REFERENCES))
        reference = REFERENCES[reference]
    tied = tied_weights(network)
    named, network = network.architecture.places.keys(), each_used_once(network)
    reused = network.architecture.places.keys() - named
    widths = [_bits_each(tensor) for tensor in network.tensors.values()]
    free = freebie and min([activation_bits, *widths]) >= FREE_BITS
    counter = _Counter(network, FREE_BITS if free else FULL_BITS, activation_bits, tied)
    return Score(tuple(counter.costs(stored_before=reused)), reference, free)


def products(network: StoredNetwork) -> dict[str, int]:
    """Products of a forward pass of one example, zeros among the weights included, by the name of a layer used once."""
    module = to_torch(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, *network.architecture.input_shape))
    found = counter.get_flop_counts()
    names = {
        layer.name: f"{type(module).__name__}.{position}"
        for position, layer in enumerate(network.architecture.layers)
        if isinstance(layer, Weighted)
    }
    return {name: sum(found[path].values()) // 2 for name, path in names.items()}


def _bits_each(tensor: StoredTensor) -> int:
    """Of one number as it is stored: of a codebook, its index among levels and zero."""
    if tensor.integers is None:
        return FULL_BITS
    if isinstance(tensor.quantizer, Codebook):
        return max(1, math.ceil(math.log2(len(tensor.quantizer.levels) + 1)))
    return bits_for(tensor.integers)


class _Counter:
    """Counts a network's layers; nothing is wider than `widest`, and weights that are `tied` are stored elsewhere."""

    def __init__(self, network: StoredNetwork, widest: int, activation_bits: int, tied: Collection[str]) -> None:
        self._network, self._widest, self._tied = network, widest, tied
        self._activation = min(activation_bits, widest)
        self._products = products(network)

    def costs(self, stored_before: Collection[str]) -> list[LayerCost]:
        """What layers cost; those of these names store nothing."""
        architecture = self._network.architecture
        shapes = architecture.shapes()
        found = [
            replace(cost, storage_bits=0) if getattr(layer, "name", None) in stored_before else cost
            for at, layer in enumerate(architecture.layers)
            for cost in (self._cost(layer, *shapes[at : at + 2]),)
        ]
        return [cost for cost in found if cost.storage_bits or cost.operation_bits]

    def _cost(self, layer: Layer, before: tuple[int, ...], after: tuple[int, ...]) -> LayerCost:
        values = math.prod(after)
        match layer:
            case Linear() | Conv2d():
                return self._weighted(layer, values, *self._sums(layer))
            case ConvTranspose2d():
                by_input = isinstance(self._network.tensors[f"{layer.name}.weight"].quantizer, PerChannel)
                scaled = math.prod(before) if by_input else values
                return self._weighted(layer, scaled, *self._scattered(layer, before))
            case ChannelAffine(name=name):
                scale, shift = (self._network.tensors[f"{name}.{kind}"] for kind in ("scale", "shift"))
                bits = self._dense(scale) + self._dense(shift)
                return self._made(layer, bits, values, values, self._width(scale))
            case Select():
                return self._made(layer, before[0], 0, 0)
            case Activation(kind=kind):
                multiplies, additions = _OF_ACTIVATIONS[kind]
                return self._made(layer, 0, multiplies * values, additions * values)
            case PReLU(name=name):
                slope = self._network.tensors[f"{name}.slope"]
                return self._made(layer, self._dense(slope), 2 * values, 0, self._width(slope))
            case Add():
                return self._made(layer, 0, 0, values)
            case Multiply():
                return self._made(layer, 0, values, 0)
            case Attention():
                return self._made(layer, 0, *_of_attention(layer, before))
            case Recurrent():
                return self._recurrent(layer, after[2])
            case PositionBias(name=name):
                value = self._network.tensors[f"{name}.value"]
                return self._made(layer, self._dense(value), 0, values)
            case ConstantPositions() | Embedding():
                table, _ = table_of(layer)
                return self._made(layer, 0 if table in self._tied else self._dense(self._network.tensors[table]), 0, 0)
            case Standardize(groups=groups, centred=centred, by_place=by_place):
                groups *= math.prod(after[1:]) if by_place else 1
                sums = 2 * (values - groups) + values if centred else values - groups
                return self._made(layer, 0, 2 * values + (3 + centred) * groups, sums + groups)
            case Softmax(log=log):
                # the largest number of a place, which is taken away, is found by comparisons
                places = math.prod(after[1:])
                sums = 2 * values - places
                return self._made(layer, 0, sums + (places if log else values), sums + (values if log else 0))
            case Resize(mode="bilinear" | "aligned"):
                # two weighted sums of two, one along each axis
                lines = math.prod((after[0], after[1], before[2]))
                return self._made(layer, 0, 2 * (lines + values), lines + values)
            case AdaptiveMaxPool2d():
                windows = math.prod(map(_lengths, before[1:], after[1:])) * after[0]
                return self._made(layer, 0, windows - values, 0)
            case MaxPool2d(kernel_size=kernel):
                return self._made(layer, 0, (math.prod(kernel) - 1) * values, 0)
            case AvgPool2d(kernel_size=kernel):
                return self._made(layer, 0, values, (math.prod(kernel) - 1) * values)
            case AdaptiveAvgPool2d():
                windows = math.prod(map(_lengths, before[1:], after[1:])) * after[0]
                return self._made(layer, 0, values, windows - values)
        return self._made(layer, 0, 0, 0)

    def _recurrent(self, layer: Recurrent, places: int) -> LayerCost:
        """Products with the states, which are added to what there is, and what a step does with its gates."""
        weight = self._network.tensors[f"{layer.name}.weight"]
        products = int(np.count_nonzero(weight.dense()))
        bits = self._of_weight(layer)
        # of a unit in a step: functions, products with gates, and sums
        functions = {"lstm": ("sigmoid",) * 3 + ("tanh",) * 2, "gru": ("sigmoid",) * 2 + ("tanh",)}
        used = functions.get(layer.kind, (layer.kind.removeprefix("rnn_"),))
        multiplies, additions = (sum(_OF_ACTIVATIONS[one][which] for one in used) for which in (0, 1))
        multiplies += {"lstm": 3, "gru": 3}.get(layer.kind, 0)
        additions += {"lstm": 1, "gru": 2}.get(layer.kind, 0) + layer.bias
        if layer.bias:
            bits += self._dense(self._network.tensors[f"{layer.name}.bias"])
        scaled = layer.gates * layer.hidden if _has_other_step(weight) else 0
        fed = self._made(layer, bits, places * products, places * products, self._width(weight))
        steps = self._made(layer, 0, places * (layer.hidden * multiplies + scaled), places * layer.hidden * additions)
        return LayerCost(
            fed.layer,
            bits,
            fed.multiplies + steps.multiplies,
            fed.additions + steps.additions,
            fed.operation_bits + steps.operation_bits,
        )

    def _sums(self, layer: Linear | Conv2d) -> tuple[int, int]:
        """Products, and outputs that any goes into."""
        there = self._network.tensors[f"{layer.name}.weight"].dense() != 0
        rows = there.reshape(len(there), -1).sum(axis=1)
        # every weight is used at as many places as its output has
        places = self._products[layer.name] // there.size
        return places * int(rows.sum()), places * int((rows > 0).sum())

    def _scattered(self, layer: ConvTranspose2d, before: tuple[int, ...]) -> tuple[int, int]:
        """As `_sums`: how many weights reach each output differs from place to place."""
        there = torch.from_numpy(self._network.tensors[f"{layer.name}.weight"].dense() != 0)
        sizes = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        reached = F.conv_transpose2d(torch.ones(1, *before, dtype=torch.float64), there.double(), None, *sizes)
        return int(reached.sum()), int((reached > 0).sum())

    def _weighted(self, layer: Weighted, scaled: int, multiplies: int, reached: int) -> LayerCost:
        """`scaled`: numbers that a step which is no power of two multiplies."""
        weight = self._network.tensors[f"{layer.name}.weight"]
        sums = multiplies - reached
        bits = self._of_weight(layer)
        if layer.bias:
            bits += self._dense(self._network.tensors[f"{layer.name}.bias"])
            sums += reached
        cost = self._made(layer, bits, multiplies, sums, self._width(weight))
        if not _has_other_step(weight):
            return cost
        return LayerCost(
            cost.layer, cost.storage_bits, multiplies + scaled, sums, cost.operation_bits + scaled * self._widest
        )

    def _made(
        self, layer: Layer, storage_bits: int, multiplies: int, additions: int, width: int | None = None
    ) -> LayerCost:
        """`width`: of the other operand of its multiplies, where that is a stored number."""
        bits = max(width or 0, self._activation)
        name = getattr(layer, "name", None) or getattr(layer, "kind", None)
        label = f"{type(layer).__name__} {name}" if name else describe(layer)
        return LayerCost(label, storage_bits, multiplies, additions, multiplies * bits + additions * FULL_BITS)

    def _width(self, tensor: StoredTensor) -> int:
        """Of one number in a product."""
        if isinstance(tensor.quantizer, Codebook):
            return self._widest
        return min(self._widest, _bits_each(tensor))

    def _of_weight(self, layer: Weighted | Recurrent) -> int:
        """What is stored of a weight: nothing where it is an earlier one's."""
        name = f"{layer.name}.weight"
        return 0 if name in self._tied else self._sparse(self._network.tensors[name])

    def _dense(self, tensor: StoredTensor) -> int:
        return tensor.dense().size * min(self._widest, _bits_each(tensor)) + self._of_quantizer(tensor)

    def _sparse(self, tensor: StoredTensor) -> int:
        """With a mask, if that takes less."""
        there = int(np.count_nonzero(tensor.dense()))
        each = min(self._widest, _bits_each(tensor))
        if isinstance(tensor.quantizer, Codebook):  # a mask says where zeros are: they need no index
            each = max(1, math.ceil(math.log2(max(1, len(tensor.quantizer.levels)))))
        masked = tensor.dense().size + there * each + self._of_quantizer(tensor)
        return min(self._dense(tensor), masked)

    def _of_quantizer(self, tensor: StoredTensor) -> int:
        match tensor.quantizer:
            case Uniform():
                return self._widest
            case PerChannel(steps):
                return self._widest * len(steps)
            case Codebook(levels):
                return self._widest * len(levels)
        return 0


def _has_other_step(tensor: StoredTensor) -> bool:
    """Whether integers stand for multiples of a step that is no power of two."""
    match tensor.quantizer:
        case Uniform(step):
            return math.frexp(step)[0] != 0.5
        case PerChannel(steps):
            return any(math.frexp(step)[0] != 0.5 for step in steps)
    return False


def _of_attention(layer: Attention, before: tuple[int, ...]) -> tuple[int, int]:
    """Multiplies and additions: of q with k and of shares with v, and of each score a scale, e^x and a division."""
    places = math.prod(before[1:])
    rows = layer.heads * places
    pairs = layer.heads * (places * (places + 1) // 2 if layer.causal else places**2)
    keys, values = layer.keys(before[0]) // layer.heads, layer.values // layer.heads
    # the largest score of a row, which is taken away, is found by comparisons
    multiplies = pairs * (keys + values) + 3 * pairs + pairs - rows
    additions = pairs * max(keys - 1, 0) + pairs + (pairs - rows) * (1 + values)
    return multiplies, additions


def _lengths(before: int, after: int) -> int:
    """Summed lengths of the windows of adaptive pooling along one axis: from ⌊i·b/a⌋ to ⌈(i+1)·b/a⌉."""
    return sum(-(-(i + 1) * before // after) - i * before // after for i in range(after))
