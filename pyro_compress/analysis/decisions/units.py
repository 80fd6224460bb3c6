"""Which units go so that a forward pass costs no more than a share of what it did.

A posterior that factorises says what it costs to set weights to zero: ½ Σ (μ/σ)² nats, the quadratic loss of Optimal
Brain Damage (LeCun et al. 1990) with the posterior's precision for the curvature.  A unit is gone when all that it
reads is, or all that reads it, so it costs the lesser of the two.  Units leave one by one, those first that cost the
fewest nats per multiply-add that their going saves; both sides are counted again after each.

Groups and single weights that the posterior calls noise go by `pruning.prune`, which does not know that a filter of an
early layer costs more to run than a thousand weights of a late one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.pruning import signal_to_noise
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture, BatchNorm, Conv2d, Linear, Weighted
from pyro_compress.network.liveness import is_plain_chain, products_per_link
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def prune_units(posterior: Posterior, architecture: Architecture, *, multiply_adds: float) -> Decision:
    """Zero bits for all weights, biases and batch norms of the units that go.

    Units are output channels of convolutions, units of dense layers, and single inputs of dense layers that read the
    network's input or a flattened one.  Outputs of the network stay.

    Args:
        posterior: moments of the network's parameters.
        architecture: as traced; a chain of layers without grouped or transposed convolutions.
        multiply_adds: share of the products of a forward pass that may stay, above 0 and at most 1.

    Raises:
        DecisionError: a share outside that range or below what one unit in every layer costs, another kind of
            network, or a layer whose weights are point estimates.
    """
    if not 0 < multiply_adds <= 1:
        raise DecisionError(f"multiply_adds is the share that may stay, above 0 and at most 1; found {multiply_adds}")
    if not is_plain_chain(architecture):
        raise DecisionError(
            "multiply_adds needs a chain of layers without grouped or transposed convolutions, and this network is "
            "none: prune it with group_threshold, snr or remove_percent"
        )
    weighted = zip(architecture.weighted(), products_per_link(architecture), strict=True)
    chain = _Chain([_Links(layer, products, posterior) for layer, products in weighted])
    chain.shrink(multiply_adds)
    return _without(posterior, architecture, chain.kept(), {"multiply_adds": multiply_adds})


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
    found: dict[str, np.ndarray] = {}
    before = np.ones(1, bool)
    for layer in architecture.weighted():
        outputs, inputs = posterior.parameters[f"{layer.name}.weight"].mean.shape[:2]
        stays = kept.get(layer.name, np.ones(outputs, bool))
        # behind a flattening every unit is several inputs
        found[f"{layer.name}.weight"] = stays[:, None] & np.repeat(before, inputs // len(before))
        found[f"{layer.name}.bias"] = before = stays
    return _without(posterior, architecture, found, made_by)


def _without(
    posterior: Posterior, architecture: Architecture, kept: dict[str, np.ndarray], made_by: Mapping[str, object]
) -> Decision:
    """The decision of weights (outputs, inputs) and biases (outputs,) that stay; batch norms go with their channels."""
    last = ""
    for layer in architecture.layers:
        if isinstance(layer, Linear | Conv2d):
            last = layer.name
        elif isinstance(layer, BatchNorm) and last:
            # a batch norm with a shift would keep a channel that nothing reaches; behind a flattening each has several
            made = kept[f"{last}.bias"]
            stays = np.repeat(made, layer.channels // made.size)
            kept |= dict.fromkeys((f"{layer.name}.weight", f"{layer.name}.bias"), stays)
    sites = {name: _site(site, kept.get(name)) for name, site in posterior.parameters.items()}
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
    """The weights of one layer as a matrix (outputs, inputs) of nats.

    Attributes:
        layer: whose.
        products: of one forward pass, per entry of the matrix.
        nats: float64, what it costs to lose each entry.
        outputs, inputs: boolean, which are still there.
        by_output, by_input: float64, nats over all that is still there.
    """

    def __init__(self, layer: Weighted, products: int, posterior: Posterior) -> None:
        site = posterior.parameters[f"{layer.name}.weight"]
        if site.is_point:
            raise DecisionError(
                f"multiply_adds weighs units by their posterior, and {layer.name}.weight is a point estimate: give "
                "that layer a prior"
            )
        self.layer, self.products = layer, products
        self.nats = (0.5 * signal_to_noise(site) ** 2).reshape(*site.mean.shape[:2], -1).sum(axis=2)
        self.outputs, self.inputs = (np.ones(size, bool) for size in self.nats.shape)
        self.by_output, self.by_input = self.nats.sum(axis=1), self.nats.sum(axis=0)

    def multiply_adds(self) -> int:
        return self.products * int(self.outputs.sum()) * int(self.inputs.sum())

    def drop_output(self, number: int) -> None:
        self.outputs[number] = False
        self.by_input -= self.nats[number]

    def drop_inputs(self, numbers: np.ndarray) -> None:
        numbers = numbers[self.inputs[numbers]]
        self.inputs[numbers] = False
        self.by_output -= self.nats[:, numbers].sum(axis=1)


@dataclass(frozen=True)
class _Candidate:
    """What could go next: an output of a layer, or an input of its own."""

    price: float
    position: int
    number: int
    is_output: bool


class _Chain:
    """All layers; the outputs of each are inputs of the next, several apiece behind a flattening."""

    def __init__(self, links: list[_Links]) -> None:
        self._links = links

    def shrink(self, share: float) -> None:
        """Let units go until no more than that share of the products is left."""
        whole = self._multiply_adds()
        while self._multiply_adds() > share * whole:
            found = min(self._candidates(), key=lambda candidate: candidate.price, default=None)
            if found is None:
                least = self._multiply_adds() / whole
                raise DecisionError(
                    f"one unit in every layer costs {least:.2g} of the multiply-adds: multiply_adds={share:g} is out "
                    "of reach"
                )
            self._drop(found)

    def kept(self) -> dict[str, np.ndarray]:
        """Per weight boolean (outputs, inputs), per bias (outputs,)."""
        found = {}
        for links in self._links:
            found[f"{links.layer.name}.weight"] = links.outputs[:, None] & links.inputs
            found[f"{links.layer.name}.bias"] = links.outputs
        return found

    def _multiply_adds(self) -> int:
        return sum(links.multiply_adds() for links in self._links)

    def _candidates(self) -> Iterator[_Candidate]:
        for position, (links, after) in enumerate(zip(self._links, self._links[1:], strict=False)):
            if links.outputs.sum() > 1:
                each = len(after.inputs) // len(links.outputs)
                read = after.by_input.reshape(-1, each), after.inputs.reshape(-1, each)
                nats = np.minimum(links.by_output, (read[0] * read[1]).sum(axis=1))
                saved = links.products * links.inputs.sum() + after.products * after.outputs.sum() * read[1].sum(axis=1)
                yield self._cheapest(nats, saved, links.outputs, position, is_output=True)
        for position, links in enumerate(self._links):
            before = len(self._links[position - 1].outputs) if position else 0
            if isinstance(links.layer, Linear) and len(links.inputs) != before and links.inputs.sum() > 1:
                saved = np.full(len(links.inputs), links.products * links.outputs.sum())
                yield self._cheapest(links.by_input, saved, links.inputs, position, is_output=False)

    @staticmethod
    def _cheapest(
        nats: np.ndarray, saved: np.ndarray, there: np.ndarray, position: int, *, is_output: bool
    ) -> _Candidate:
        price = np.where(there, np.maximum(nats, 0) / np.maximum(saved, 1), math.inf)
        number = int(price.argmin())
        return _Candidate(float(price[number]), position, number, is_output)

    def _drop(self, found: _Candidate) -> None:
        links = self._links[found.position]
        if not found.is_output:
            links.drop_inputs(np.array([found.number]))
            return
        links.drop_output(found.number)
        after = self._links[found.position + 1]
        each = len(after.inputs) // len(links.outputs)
        after.drop_inputs(np.arange(found.number * each, (found.number + 1) * each))
