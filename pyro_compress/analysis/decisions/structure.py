"""Structured removal: from a decision that zeroes weights to a smaller dense network that computes the same.

What is not live (`network/liveness.py`) is removed: rows and bias of the layer that makes it, columns of the layer
that reads it, with constants folded into that layer's bias, b' = b + Σ W·c.  Where entries cannot be removed at
their source (the network's input, some positions of a channel that is flattened) a `Select` layer picks those
that are kept.

Channels that meet in a sum or product go together or stay together: `liveness` keeps one mask for all outputs along a
residual connection.  Constants pass through them like everything else.  A concatenation or selection whose entries are
not all read is followed by a `Select`.

What stays although one might think it dead:

* A constant c ≠ 0 under zero padding: at the border the convolution sees zeros in place of c, so W·c is no bias,
  and the channel stays.  So it does in front of a transposed convolution, which makes another sum of its kernel at
  every phase of its stride.  Average pooling with padding breaks a constant likewise; max pooling does not.
* Channels of a grouped convolution: its groups have equal sizes, so all its inputs and outputs stay (outputs that
  nobody reads become zeros, cut by a `Select` behind it).  Depthwise convolutions (groups = inputs = outputs)
  lose channels like everything else.
* Features of which an `Unflatten` makes a channel that stays.
* Entries of a group that is normalised together (`Standardize`), of which one stays: the others count in its mean and
  variance, so that a layer in front of it makes even what is constant or unread.
* Whole outputs around a `Rearrange`, which moves numbers between axes, around a `Softmax`, which sums over them, and in
  front of an `Embedding`.
* Entries of heads of an `Attention` of which another head keeps more.
* One entry, with zero weights, where a layer would be left with none, so that every shape stays valid.

Exactness: a reduced network differs from the masked one by float rounding, and by at most half a grid step in each
bias that takes a fold, because that bias is rounded to its own grid again.  A bias in front of a batch norm goes
into the affine shift in float32 and is not rounded.

A layer that is used again is reduced at each of its places in the same way, to equal layers with one set of tensors.
"""

from dataclasses import replace

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.reduced_tensors import (
    equal_numbers,
    finer,
    kept_of_transposed,
    resized,
    stored_bias,
    stored_integers,
)
from pyro_compress.analysis.decisions.structure_checks import check
from pyro_compress.network.activations import applied
from pyro_compress.network.architecture import Architecture, last_references
from pyro_compress.network.coupling import sharing
from pyro_compress.network.further_layers import Concatenate, Multiply, Softmax, Standardize
from pyro_compress.network.layers import (
    Add,
    BatchNorm,
    ChannelAffine,
    ConvTranspose2d,
    FixedAffine,
    Flatten,
    Layer,
    Linear,
    PReLU,
    Recall,
    Select,
    Table,
    Unflatten,
    Weighted,
    groups_of,
    is_depthwise,
    outputs_of,
    table_of,
)
from pyro_compress.network.liveness import Signal, around, signals
from pyro_compress.network.numbers import Numbers, as_stored, by_output
from pyro_compress.network.parameter_names import added_bias, aliased, in_layer, parameter_shapes
from pyro_compress.network.sequence_layers import Attention, Embedding, Rearrange, Recurrent
from pyro_compress.network.stored import StoredNetwork, StoredTensor


def remove_dead(architecture: Architecture, decision: Decision) -> StoredNetwork:
    """The smaller network that computes what `architecture` does with the numbers that `decision` stores.

    Args:
        architecture: as traced, so without `ChannelAffine`.
        decision: one site for each of its weights, biases, batch-norm weights and biases; its `buffers` hold
            NAME.running_mean and NAME.running_var of every batch norm.

    Returns:
        A network for the same input shape and with the same outputs.  Weights and biases whose site has a step
        are integers on that grid, all others float32.  A batch norm has become a `ChannelAffine` with
        scale = γ / √(var + ε), shift = β - mean·scale (+ scale·bias of the layer in front of it), float32.
        A layer whose biases are all zero has none; one without biases gains them (float32) if a fold needs it.

    Raises:
        DecisionError: a site or buffer is missing, superfluous, of another shape or not finite, or a grid is
            too fine for its numbers.
    """
    return _built(architecture, decision).network()


def remove_dead_indexed(
    architecture: Architecture, decision: Decision
) -> tuple[StoredNetwork, dict[str, tuple[np.ndarray, ...]]]:
    """What `remove_dead` gives, and per weight the index (`numpy.ix_`) of what is left in the original tensor."""
    builder = _built(architecture, decision)
    return builder.network(), builder.index


def remove_dead_spread(architecture: Architecture, decision: Decision) -> tuple[StoredNetwork, dict[str, np.ndarray]]:
    """What `remove_dead` gives, and per tensor the posterior's spread about what is stored (`SiteDecision.spread`).

    What is folded brings its spread along, to first order and as if all weights were independent: of b + Σ W·c the sum
    of those of b and W·c, of a batch norm's scale γ / √(var + ε) and shift those of γ, β and the bias in front.
    """
    builder = _built(architecture, decision, with_spread=True)
    return builder.network(), builder.spread


def _built(architecture: Architecture, decision: Decision, *, with_spread: bool = False) -> "_Builder":
    decision = in_layers(architecture, decision)
    check(architecture, decision)
    builder = _Builder(architecture, decision, with_spread)
    builder.build()
    return builder


def numbers_of(decision: Decision) -> Numbers:
    """What a decision stores, for `liveness`."""
    return Numbers({name: site.stored() for name, site in decision.sites.items()}, decision.buffers)


def in_layers(architecture: Architecture, decision: Decision) -> Decision:
    """The decision with every site under the name, and in the shape, that it has in the architecture."""
    sites, given = dict(decision.sites), aliased(architecture)
    # a parameter of several layers may have its own name in one of them
    own = {name for layer in architecture.layers for name in parameter_shapes(layer)} if given else set()
    for _, parameter, _ in given:
        if parameter not in own:
            sites.pop(parameter, None)
    for name, parameter, shape in given:
        if parameter in decision.sites:
            sites[name] = _in_layer(decision.sites[parameter], shape)
    return replace(decision, sites=sites)


def _in_layer(site: SiteDecision, shape: tuple[int, ...]) -> SiteDecision:
    quantizer, channels = site.quantizer, len(np.atleast_1d(site.value))
    if quantizer is not None:
        # the rows of a layer's tensor are those of axis 0, or lie in its one entry
        quantizer = quantizer.rows(np.arange(shape[0]) * channels // max(channels, shape[0]))
    value, variance, bits = (in_layer(part, shape) for part in (site.value, site.variance, site.bits))
    mean, aim = (None if part is None else in_layer(part, shape) for part in (site.mean, site.aim))
    return SiteDecision(value, variance, bits, quantizer, mean, aim)


def bias_in_front(architecture: Architecture, position: int) -> Weighted | None:
    """The layer whose bias goes into the shift of the batch norm at a position, None where there is none.

    It is the one before, if nothing else reads its output and the norm has a shift; where either is used again, if both
    always are, one behind the other.
    """
    layers = architecture.layers
    norm = layers[position] if 0 < position < len(layers) else None
    if not isinstance(norm, BatchNorm) or norm.one or norm.function or not (norm.running or norm.bias):
        return None
    before = layers[position - 1]
    if not isinstance(before, Weighted):
        return None
    places = architecture.places
    in_pairs = [place + 1 for place in places[before.name]] == places[norm.name]
    read_elsewhere = not last_references(layers).keys().isdisjoint(places[norm.name])
    return before if in_pairs and not read_elsewhere else None


class _Builder:
    """Adds the reduced layers one by one; `present` says which original entries flow at the moment.

    Behind every layer a selection brings them to those that are kept, so that coupled outputs have the same entries;
    `_number` tells which output of the reduced network an original one has become.
    """

    def __init__(self, architecture: Architecture, decision: Decision, with_spread: bool) -> None:
        self._architecture, self._original = architecture, architecture.layers
        self._sites = decision.sites
        self._numbers = numbers_of(decision)
        self._signals = signals(architecture, self._numbers)
        self._present = np.ones(architecture.input_shape[0], dtype=bool)
        self._number: list[int] = []
        self._bias_for_norm: tuple[np.ndarray, np.ndarray] | None = None
        self._with_spread = with_spread
        self.layers: list[Layer] = []
        self.tensors: dict[str, StoredTensor] = {}
        self.index: dict[str, tuple[np.ndarray, ...]] = {}
        self.spread: dict[str, np.ndarray] = {}

    def network(self) -> StoredNetwork:
        return StoredNetwork(replace(self._architecture, layers=tuple(self.layers), aliases=()), self.tensors)

    def build(self) -> None:
        self._select(self._signals[0].kept)
        shared = sharing(self._architecture)
        for position, layer in enumerate(self._original):
            self._add(position, layer, *around(shared, self._signals, position))
            self._select(self._signals[position + 1].kept)

    def _select(self, kept: np.ndarray) -> None:
        if not np.array_equal(self._present, kept):
            self.layers.append(Select(tuple(np.flatnonzero(kept[self._present]).tolist())))
            self._present = kept
        self._number.append(len(self.layers))

    def _add(self, position: int, layer: Layer, before: Signal, after: Signal) -> None:
        if isinstance(layer, Weighted):
            norm_follows = bias_in_front(self._architecture, position + 1) is layer
            self._add_weighted(layer, before, after, norm_follows, _states_behind(self._original, position))
        elif isinstance(layer, BatchNorm):
            self._add_norm(layer)
        elif isinstance(layer, FixedAffine):
            for kind, numbers in (("scale", layer.scale), ("shift", layer.shift)):
                held = np.array(numbers, np.float32)[self._present]
                self.tensors[f"{layer.name}.{kind}"] = StoredTensor(floats=held) if held.any() else equal_numbers(held)
                self.spread[f"{layer.name}.{kind}"] = np.zeros(held.shape)
            self.layers.append(ChannelAffine(layer.name, int(self._present.sum())))
        elif isinstance(layer, PReLU):
            self._add_slopes(layer)
        elif isinstance(layer, Add | Recall | Multiply):
            self.layers.append(type(layer)(self._number[layer.source]))
            self._present = after.kept
        elif isinstance(layer, Concatenate):
            self.layers.append(Concatenate(self._number[layer.source]))
            self._present = np.concatenate([self._signals[layer.source].kept, self._present])
        elif isinstance(layer, Select):
            # written even where it leaves nothing out: what refers to the output before it must find another one
            place = np.cumsum(self._present) - 1
            self.layers.append(Select(tuple(place[list(layer.indices)][after.kept].tolist())))
            self._present = after.kept
        elif isinstance(layer, Table):
            self._add_table(layer, after)
        elif isinstance(layer, Recurrent):
            self._add_recurrent(position, layer, before, after)
        elif isinstance(layer, Rearrange | Softmax):
            self._present = after.kept
            self.layers.append(layer)
        elif isinstance(layer, Attention):
            heads = int(after.kept.reshape(layer.heads, -1).any(axis=1).sum())
            self.layers.append(replace(layer, heads=heads, values=int(after.kept.sum())))
            self._present = after.kept
        elif isinstance(layer, Standardize):
            groups = int(before.kept.reshape(layer.groups, -1).any(axis=1).sum())
            self.layers.append(replace(layer, groups=groups))
        else:
            if isinstance(layer, Flatten):
                self._present = np.repeat(self._present, after.kept.size // before.kept.size)
            elif isinstance(layer, Unflatten):
                self._present = np.asarray(self._present.reshape(after.kept.size, -1).any(axis=1))
            self.layers.append(layer)

    def _add_norm(self, layer: BatchNorm) -> None:
        scale, shift = self._numbers.affine(layer)
        bias, bias_spread = self._bias_for_norm if self._bias_for_norm is not None else (np.zeros(1), np.zeros(1))
        self._bias_for_norm = None
        weight, beta = (self._norm_spread(layer, kind) for kind in ("weight", "bias"))
        mean, deviation = self._numbers.statistics(layer)
        found = {
            "scale": (scale, weight / deviation**2),
            "shift": (
                shift + scale * bias,
                beta + weight * ((bias - mean) / deviation) ** 2 + scale**2 * bias_spread,
            ),
        }
        for kind, (numbers, spread) in found.items():
            held = numbers[self._present].astype(np.float32)
            self.tensors[f"{layer.name}.{kind}"] = equal_numbers(held) if layer.one else StoredTensor(floats=held)
            self.spread[f"{layer.name}.{kind}"] = np.broadcast_to(spread, numbers.shape)[self._present]
        self.layers.append(ChannelAffine(layer.name, int(self._present.sum())))

    def _norm_spread(self, layer: BatchNorm, kind: str) -> np.ndarray:
        """Of a weight or bias, or to first order of what the network takes of it."""
        name = f"{layer.name}.{kind}"
        spread = self._spread_of(name)
        if not layer.function or not spread.any():
            return spread
        value, little = self._sites[name].stored().astype(np.float64), np.sqrt(spread) / 2
        sides = (applied(layer.function, value + sign * little) for sign in (1, -1))
        return np.square(np.subtract(*sides))

    def _add_slopes(self, layer: PReLU) -> None:
        kept = self._present if layer.slopes > 1 else np.ones(1, dtype=bool)
        name, site = f"{layer.name}.slope", self._sites[f"{layer.name}.weight"]
        if site.quantizer is None:
            self.tensors[name] = StoredTensor(floats=site.stored()[kept])
        else:
            self.tensors[name] = stored_integers(site.integers()[kept], site.quantizer.rows(kept))
        self.spread[name] = np.broadcast_to(self._spread_of(f"{layer.name}.weight"), site.value.shape)[kept]
        self.layers.append(PReLU(layer.name, int(kept.sum())))

    def _add_table(self, layer: Table, after: Signal) -> None:
        """A row for each token or position; what nobody reads is zero."""
        name, _ = table_of(layer)
        site, kept = self._sites[name], after.kept
        if site.quantizer is None:
            self.tensors[name] = StoredTensor(floats=(site.stored() * after.live)[:, kept].astype(np.float32))
        else:
            integers = (site.integers() * after.live)[:, kept].astype(np.int32)
            self.tensors[name] = stored_integers(integers, site.quantizer)
        self.spread[name] = np.broadcast_to(self._spread_of(name), site.value.shape)[:, kept]
        size = int(kept.sum())
        smaller = replace(layer, features=size) if isinstance(layer, Embedding) else replace(layer, channels=size)
        self.layers.append(smaller)
        self._present = kept

    def _add_recurrent(self, position: int, layer: Recurrent, before: Signal, after: Signal) -> None:
        """Units that stay, with zeros for those that nobody needs."""
        name, kept = f"{layer.name}.weight", after.kept
        needed = before.live.reshape(layer.gates, -1).any(axis=0)
        site, rows = self._sites[name], np.tile(kept, layer.gates)
        mask = np.tile(needed, layer.gates)[:, None] & needed
        self.index[name] = np.ix_(rows, kept)
        self.spread[name] = np.broadcast_to(self._spread_of(name), site.value.shape)[self.index[name]]
        if site.quantizer is None:
            numbers = StoredTensor(floats=(site.stored() * mask)[self.index[name]].astype(np.float32))
        else:
            integers = (site.integers() * mask)[self.index[name]].astype(np.int32)
            numbers = stored_integers(integers, site.quantizer.rows(rows))
        self.tensors[name] = numbers
        has_bias = False
        if layer.bias and layer.kind == "gru":
            bias, own = f"{layer.name}.bias", np.arange(2 * layer.hidden, 3 * layer.hidden)
            of_unit = np.where(needed, self._numbers.recurrent(layer)[1][2], 0)[kept]
            stored = stored_bias(of_unit, self._sites[bias], own[kept])
            if stored is not None:
                has_bias, self.tensors[bias] = True, stored
                whole = np.broadcast_to(self._spread_of(bias), (3 * layer.hidden,))
                self.spread[bias] = whole[own][kept]
        self.layers.append(replace(layer, hidden=int(kept.sum()), bias=has_bias))
        self._present = kept

    def _spread_of(self, name: str) -> np.ndarray:
        """float64 of the parameter's shape; one zero where there is no such parameter, or nobody asks for spreads."""
        return self._sites[name].spread() if self._with_spread and name in self._sites else np.zeros(1)

    def _add_weighted(
        self, layer: Weighted, before: Signal, after: Signal, norm_follows: bool, states: Recurrent | None
    ) -> None:
        bias, bias_spread = self._numbers.bias(layer), self._spread_of(f"{layer.name}.bias")
        bias_site = self._sites.get(f"{layer.name}.bias")
        if states is not None and states.bias:
            gates, own = added_bias(states), self._sites[f"{states.name}.bias"]
            bias = bias + np.where(gates, self._numbers.recurrent(states)[1].ravel(), 0)
            bias_spread = bias_spread + np.where(gates, self._spread_of(f"{states.name}.bias"), 0)
            bias_site = finer(bias_site, own)
        rows, columns = after.kept, before.kept
        alive = after.live[:, None]
        if groups_of(layer) == 1:
            folded = np.isfinite(before.constant) & ~before.live
            constant = np.where(folded, before.constant, 0)
            bias = bias + self._numbers.gains(layer) @ constant
            bias_spread = bias_spread + self._gain_spread(layer) @ constant**2
            alive = alive & before.live
        else:
            columns = np.ones(1 if is_depthwise(layer) else before.kept.size // groups_of(layer), dtype=bool)
            if not is_depthwise(layer):
                rows = np.ones(outputs_of(layer), dtype=bool)
        bias, bias_spread = np.where(after.live, bias, 0), np.where(after.live, bias_spread, 0)
        self._add_weight(layer, rows, columns, alive)
        if norm_follows:
            self._bias_for_norm, stored = (bias, bias_spread), None
        else:
            stored = stored_bias(bias[rows], bias_site, rows)
        if stored is not None:
            self.tensors[f"{layer.name}.bias"], self.spread[f"{layer.name}.bias"] = (
                stored,
                np.broadcast_to(bias_spread, bias.shape)[rows],
            )
        self.layers.append(resized(layer, int(rows.sum()), int(before.kept.sum()), stored is not None))
        self._present = rows

    def _gain_spread(self, layer: Weighted) -> np.ndarray:
        """float64 (outputs, inputs per group): spread of `Numbers.gains`; a weight that is zero has none."""
        site = self._sites[f"{layer.name}.weight"]
        spread = by_output(layer, self._spread_of(f"{layer.name}.weight") * (site.stored() != 0))
        return np.asarray(spread.sum(axis=tuple(range(2, spread.ndim))))

    def _add_weight(self, layer: Weighted, rows: np.ndarray, columns: np.ndarray, alive: np.ndarray) -> None:
        """Store the kept outputs and inputs, with zeros where `alive` (outputs, inputs per group or 1) is false."""
        name = f"{layer.name}.weight"
        site = self._sites[name]
        alive = as_stored(layer, np.broadcast_to(alive, (alive.shape[0], columns.size)))
        if isinstance(layer, ConvTranspose2d):
            rows, columns = kept_of_transposed(layer, rows, columns)
        self.index[name] = np.ix_(rows, columns)
        mask = alive.reshape(*alive.shape, *(1,) * (site.value.ndim - 2))

        def left(numbers: np.ndarray) -> np.ndarray:
            found = numbers[rows][:, columns]
            # that of a Conv1d has no axis for rows
            return found if isinstance(layer, Linear) else found.reshape(*found.shape[:2], *layer.kernel_size)

        self.spread[name] = left(np.broadcast_to(self._spread_of(name), site.value.shape))
        if site.quantizer is None:
            self.tensors[name] = StoredTensor(floats=left(site.stored() * mask).astype(np.float32))
        else:
            integers = left(site.integers() * mask).astype(np.int32)
            self.tensors[name] = stored_integers(integers, site.quantizer.rows(rows))


def _states_behind(layers: tuple[Layer, ...], position: int) -> Recurrent | None:
    """The recurrent layer that alone takes what a layer makes."""
    follower = layers[position + 1] if position + 1 < len(layers) else None
    return follower if isinstance(follower, Recurrent) and position + 1 not in last_references(layers) else None
