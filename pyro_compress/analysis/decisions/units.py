"""Which units go so that a forward pass costs no more than a share of what it did.

A posterior that factorises says what it costs to set weights to zero: ½ Σ (μ/σ)² nats, the quadratic loss of Optimal
Brain Damage (LeCun et al. 1990) with the posterior's precision for the curvature.  A unit is gone when all that it
reads is, or all that reads it, so it costs the lesser of the two.  Units leave one by one, those first that cost the
fewest nats per multiply-add that their going saves; both sides are counted again after each.  What is one unit, along
residual connections and in front of concatenations too, says `network/units.py`.

Groups and single weights that the posterior calls noise go by `pruning.prune`, which does not know that a filter of an
early layer costs more to run than a thousand weights of a late one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.pruning import signal_to_noise
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Linear, Weighted, groups_of, is_depthwise, outputs_of
from pyro_compress.network.liveness import products_per_link
from pyro_compress.network.numbers import as_stored, by_output
from pyro_compress.network.units import Units, entries_left, units_of
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def prune_units(posterior: Posterior, architecture: Architecture, *, multiply_adds: float) -> Decision:
    """Zero bits for all weights, biases and batch norms of the units that go.

    Units are output channels of convolutions and units of dense layers, those that are added or multiplied being one,
    and single inputs of dense layers that read the network's input or a flattened one.  Outputs of the network stay,
    and so do units that meet a grouped convolution, a normalisation over groups, attention or a recurrent layer.

    Args:
        posterior: moments of the network's parameters.
        architecture: as traced.
        multiply_adds: share of the products of a forward pass that may stay, above 0 and at most 1; those of dense
            layers and convolutions are counted.

    Raises:
        DecisionError: a share outside that range or below what the fewest units cost that can stay, or a layer whose
            weights are point estimates.
    """
    if not 0 < multiply_adds <= 1:
        raise DecisionError(f"multiply_adds is the share that may stay, above 0 and at most 1; found {multiply_adds}")
    units = units_of(architecture)
    graph = _Graph(architecture, units, posterior)
    graph.shrink(multiply_adds)
    stay, own = graph.kept()
    return _with_masks(posterior, entries_left(architecture, units, stay) | own, {"multiply_adds": multiply_adds})


def without_units(
    posterior: Posterior, architecture: Architecture, kept: Mapping[str, np.ndarray], made_by: Mapping[str, object]
) -> Decision:
    """Zero bits for all that belongs to units, or reads them: weights, biases and batch norms.

    Args:
        posterior: moments of the network's parameters.
        architecture: as traced; a chain of layers without grouped or transposed convolutions.
        kept: boolean (outputs,) by name of the layer that has them; layers that are not named keep theirs.
        made_by: of the decision.
    """
    units = units_of(architecture)
    stay = np.ones(len(units.free), bool)
    for layer, _, made in _weighted(architecture, units):
        stay[made] = kept.get(layer.name, True)
    return _with_masks(posterior, entries_left(architecture, units, stay), made_by)


def _weighted(architecture: Architecture, units: Units) -> list[tuple[Weighted, np.ndarray, np.ndarray]]:
    """Dense layers and convolutions, the units that they read and those that they make."""
    return [
        (layer, units.of[position], units.of[position + 1])
        for position, layer in enumerate(architecture.layers)
        if isinstance(layer, Weighted)
    ]


def _with_masks(posterior: Posterior, masks: Mapping[str, np.ndarray], made_by: Mapping[str, object]) -> Decision:
    """All of what the masks, over the first axes of tensors, leave."""
    sites = {name: _site(site, masks.get(name)) for name, site in posterior.parameters.items()}
    return Decision(sites, dict(posterior.buffers), dict(made_by))


def _site(site: ParameterPosterior, kept: np.ndarray | None) -> SiteDecision:
    stays = (
        np.ones(site.mean.shape, bool)
        if kept is None
        else kept.reshape(*kept.shape, *(1,) * (site.mean.ndim - kept.ndim))
    )
    bits = np.where(np.broadcast_to(stays, site.mean.shape), FLOAT_BITS, 0).astype(np.uint8)
    return SiteDecision.of(site, bits)


class _Links:
    """The weights of one layer as a matrix (outputs, inputs per group) of nats.

    Attributes:
        layer: whose.
        products: of one forward pass, per entry of the matrix.
        nats: float64, what it costs to lose each entry.
        made, read: numbers of the units of its outputs, and of its inputs; a depthwise convolution reads none, as its
            entries are those of the units that pass through it.
        alone: boolean, inputs that may leave by themselves: features of a channel, or inputs of the network, that a
            dense layer reads.
        outputs, inputs: boolean, which are still there.
        by_output, by_input: float64, nats over all that is still there.
    """

    def __init__(
        self,
        layer: Weighted,
        products: int,
        posterior: Posterior,
        read: np.ndarray,
        made: np.ndarray,
        network_inputs: int,
    ) -> None:
        site = posterior.parameters[f"{layer.name}.weight"]
        if site.is_point:
            raise DecisionError(
                f"multiply_adds weighs units by their posterior, and {layer.name}.weight is a point estimate: give "
                "that layer a prior"
            )
        self.layer, self.products = layer, products
        nats = by_output(layer, 0.5 * signal_to_noise(site) ** 2)
        self.nats = nats.reshape(*nats.shape[:2], -1).sum(axis=2)
        self.made, self.read = made, read if groups_of(layer) == 1 else None
        self.alone = np.zeros(self.nats.shape[1], bool)
        if isinstance(layer, Linear):
            self.alone = (np.bincount(read)[read] > 1) | (read < network_inputs)
        self.outputs, self.inputs = (np.ones(size, bool) for size in self.nats.shape)
        self.by_output, self.by_input = self.nats.sum(axis=1), self.nats.sum(axis=0)

    def multiply_adds(self) -> int:
        return self.products * int(self.outputs.sum()) * int(self.inputs.sum())

    def drop_outputs(self, numbers: np.ndarray) -> None:
        numbers = numbers[self.outputs[numbers]]
        self.outputs[numbers] = False
        lost = self.nats[numbers].sum(axis=0)
        # of weights without a variance, which cost ∞, a difference would be NaN
        self.by_input = self.by_input - lost if np.isfinite(lost).all() else self.nats[self.outputs].sum(axis=0)

    def drop_inputs(self, numbers: np.ndarray) -> None:
        numbers = numbers[self.inputs[numbers]]
        self.inputs[numbers] = False
        lost = self.nats[:, numbers].sum(axis=1)
        self.by_output = self.by_output - lost if np.isfinite(lost).all() else self.nats[:, self.inputs].sum(axis=1)


@dataclass(frozen=True)
class _Candidate:
    """What could go next: a unit, or a single input of a layer."""

    price: float
    number: int
    of: _Links | None = None


class _Graph:
    """All layers with what is still there of them."""

    def __init__(self, architecture: Architecture, units: Units, posterior: Posterior) -> None:
        self._free, self._stay, self._fixed = units.free, np.ones(len(units.free), bool), 0
        self._links: list[_Links] = []
        fixed = {*dict(architecture.aliases), *(f"{name}.weight" for name in architecture.reused)}
        each = zip(_weighted(architecture, units), products_per_link(architecture), strict=True)
        for (layer, read, made), products in each:
            movable = groups_of(layer) == 1 or is_depthwise(layer)
            if movable and f"{layer.name}.weight" not in fixed:
                self._links.append(_Links(layer, products, posterior, read, made, units.inputs))
            else:
                self._fixed += products * outputs_of(layer) * (read.size // groups_of(layer))

    def shrink(self, share: float) -> None:
        """Let units go until no more than that share of the products is left."""
        whole = self._multiply_adds()
        while self._multiply_adds() > share * whole:
            found = min(self._candidates(), key=lambda candidate: candidate.price)
            if found.price == math.inf:
                least = self._multiply_adds() / whole
                raise DecisionError(
                    f"with the fewest units that can stay, a forward pass costs {least:.2g} of its multiply-adds: "
                    f"multiply_adds={share:g} is out of reach"
                )
            self._drop(found)

    def kept(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Which units stay; per weight boolean over its first two axes as stored, per bias (outputs,)."""
        masks = {}
        for links in self._links:
            masks[f"{links.layer.name}.weight"] = as_stored(links.layer, links.outputs[:, None] & links.inputs)
            masks[f"{links.layer.name}.bias"] = links.outputs
        return self._stay, masks

    def _multiply_adds(self) -> int:
        return self._fixed + sum(links.multiply_adds() for links in self._links)

    def _candidates(self) -> list[_Candidate]:
        count = len(self._stay)
        made, read, saved, last = (np.zeros(count) for _ in range(4))
        for links in self._links:
            there = links.made[links.outputs]
            made += np.bincount(there, links.by_output[links.outputs], count)
            saved += np.bincount(there, minlength=count) * float(links.products * links.inputs.sum())
            last[there] += len(there) == 1
            if links.read is not None:
                there = links.read[links.inputs]
                read += np.bincount(there, links.by_input[links.inputs], count)
                saved += np.bincount(there, minlength=count) * float(links.products * links.outputs.sum())
                last[there] += bool((there == there[0]).all())
        found = [self._cheapest(np.minimum(made, read), saved, self._free & self._stay & (last == 0))]
        for links in self._links:
            if links.alone.any() and links.inputs.sum() > 1:
                each = np.full(len(links.inputs), float(links.products * links.outputs.sum()))
                found.append(self._cheapest(links.by_input, each, links.inputs & links.alone, links))
        return found

    @staticmethod
    def _cheapest(nats: np.ndarray, saved: np.ndarray, there: np.ndarray, of: _Links | None = None) -> _Candidate:
        price = np.where(there, np.maximum(nats, 0) / np.maximum(saved, 1), math.inf)
        number = int(price.argmin())
        return _Candidate(float(price[number]), number, of)

    def _drop(self, found: _Candidate) -> None:
        if found.of is not None:
            found.of.drop_inputs(np.array([found.number]))
            return
        self._stay[found.number] = False
        for links in self._links:
            links.drop_outputs(np.flatnonzero(links.made == found.number))
            if links.read is not None:
                links.drop_inputs(np.flatnonzero(links.read == found.number))
