"""Layers of networks over positions: what attends, embeds, moves numbers, and holds numbers of its own for each place.

A sequence of L positions with D features is an image of D channels, height 1 and width L.  They are plain data as those
of `layers.py` are, which speaks of all of them as layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
Pair = tuple[int, int]
Expect = Callable[[bool, str], None]


@dataclass(frozen=True)
class Rearrange:
    """All numbers in another order: seen in the shape `view`, with its axes in the order `order`, seen as `size`."""

    view: Shape
    order: tuple[int, ...]
    size: Shape


@dataclass(frozen=True)
class Crop:
    """The `size` rows and columns of an image from `before` on."""

    before: Pair
    size: Pair


@dataclass(frozen=True)
class Attention:
    """Each head's softmax(scale · qᵀk) v over all places of an image (Vaswani et al. 2017).

    Axis 1 holds q, k and v, and each of these one head after the other: v the last `values` entries, q and k a half of
    the others.  With `causal` a place attends to itself and to those before it, row major.
    """

    heads: int
    values: int
    scale: float
    causal: bool = False

    def keys(self, channels: int) -> int:
        """Entries of q, and as many of k, of so many in all."""
        return (channels - self.values) // 2


@dataclass(frozen=True)
class PositionBias:
    """y[:, c] at place p = x + value[p, c], with NAME.value of shape (positions, channels)."""

    name: str
    positions: int
    channels: int


@dataclass(frozen=True)
class ConstantPositions:
    """`count` positions with numbers of their own before all others, or behind: (C, 1, L) → (C, 1, L + count).

    NAME.value has shape (count, channels).
    """

    name: str
    count: int
    channels: int
    behind: bool = False


@dataclass(frozen=True)
class Embedding:
    """Row x[p] of NAME.weight, (tokens, features), at position p: L whole numbers below `tokens` → (features, 1, L)."""

    name: str
    tokens: int
    features: int

    def not_tokens(self, least: float, largest: float) -> str:
        """What to say of inputs in this range that are no tokens."""
        return f"tokens are whole numbers from 0 to {self.tokens - 1}, found {least} to {largest}"


# Gates of the recurrent layers, in torch's order: input, forget, candidate, output; reset, update, candidate; one.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CANDIDATE = {"lstm": 2, "gru": 2, "rnn_tanh": 0, "rnn_relu": 0}


@dataclass(frozen=True)
class Recurrent:
    """The part of a recurrent layer behind its product with the input: (gates · hidden, 1, L) → (hidden, 1, L).

    With x_t what stands at place t, the state h before the first place zero, σ the logistic function and
    a = x_t + W h, W = NAME.weight of shape (gates · hidden, hidden), each gate's rows one after the other:

        lstm    c ← σ(a_f) c + σ(a_i) tanh(a_g),  h ← σ(a_o) tanh(c)             gates i, f, g, o; c zero at first
        gru     n = tanh(x_n + σ(a_r) (W_n h + b)),  h ← (1 − σ(a_z)) n + σ(a_z) h   gates r, z, n
        rnn     h ← tanh(a), or max(a, 0)

    A place gets the h of its step.  With `reverse` the last place comes first.  A GRU's b = NAME.bias, of shape
    (hidden,), is there with `bias`.  In a traced network NAME.bias is the module's own one, of all gates of whatever
    kind, of which structured removal puts what it can into the layer in front.
    """

    name: str
    kind: str
    hidden: int
    reverse: bool = False
    bias: bool = False

    @property
    def gates(self) -> int:
        """Groups of rows of W."""
        return GATES[self.kind]


SequenceLayer = Recurrent | Rearrange | Crop | Attention | PositionBias | ConstantPositions | Embedding


def shape_after_sequence(layer: SequenceLayer, shape: Shape, expect: Expect) -> Shape:
    """Shape of one example after a layer."""
    match layer:
        case Rearrange(view=view, order=order, size=size):
            expect(prod(shape) == prod(view) == prod(size), f"{prod(view)} numbers")
            expect(sorted(order) == list(range(len(view))), f"an order of {len(view)} axes and not {order}")
            return size
        case Embedding(features=features):
            expect(len(shape) == 1, "a vector of tokens")
            return (features, 1, shape[0])
        case PositionBias(positions=positions, channels=channels):
            found = (prod(shape[1:]), shape[0]) if shape else ()
            expect(found == (positions, channels), f"{channels} channels of {positions} places")
            return shape
        case ConstantPositions(count=count, channels=channels):
            expect(len(shape) == 3 and shape[:2] == (channels, 1), f"(channels={channels}, 1, positions)")
            return (channels, 1, shape[2] + count)
        case Recurrent(hidden=hidden, gates=gates):
            expect(len(shape) == 3 and shape[:2] == (gates * hidden, 1), f"(channels={gates * hidden}, 1, positions)")
            return (hidden, 1, shape[2])
        case Crop(before=before, size=size):
            inside = len(shape) == 3 and all(a + b <= n for a, b, n in zip(before, size, shape[1:], strict=True))
            expect(inside, f"an image that has {size} rows and columns from {before} on")
            return (shape[0], *size)
    rest = shape[0] - layer.values if len(shape) == 3 else -1
    fits = rest > 0 < layer.values and rest % (2 * layer.heads) == 0 and layer.values % layer.heads == 0
    expect(fits and prod(shape[1:]) > 0, f"an image of q, k and {layer.values} entries of v, of {layer.heads} heads")
    return (layer.values, *shape[1:])


def scores(layer: Attention, shape: Shape) -> int:
    """Numbers of softmax(scale · qᵀk) of one example, given the shape that reaches the layer."""
    return layer.heads * prod(shape[1:]) ** 2
