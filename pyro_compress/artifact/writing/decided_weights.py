"""From a decision to the weights that a file stores of a module that has no architecture."""

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.artifact.writing.packing import packed
from pyro_compress.errors import DecisionError
from pyro_compress.network.quantizers import Codebook, stored_as
from pyro_compress.network.stored import StoredTensor
from pyro_compress.network.stored_weights import Given, StoredWeights, WeightTensor
from pyro_compress.network.unlayered import Unlayered


def stored_weights(module: Unlayered, decision: Decision) -> StoredWeights:
    """Every tensor of the module's state: parameters as the decision stores them, buffers as they are in it.

    Nothing is removed, as nobody knows what the forward pass does with what is zero.  Numbers without a quantizer, and
    buffers that the decision does not hold, such as counters, come back exactly.  What is one tensor of the module
    under several names is one in the file, and a decision knows it by one of them.

    Raises:
        DecisionError: a parameter of the decision is not in the state dict, or has another shape.
    """
    for name, held in decision.sites.items():
        if name not in module.state or module.state[name].numbers.shape != held.value.shape:
            raise DecisionError(f"the decision has {name} of shape {held.value.shape}, which its module has not")
    decided = {id(module.state[name]): name for name in (*decision.sites, *decision.buffers) if name in module.state}
    on_grids: dict[int, WeightTensor] = {}
    exact: dict[int, Given] = {}
    for given in module.state.values():
        place = id(given)
        known = decided.get(place)
        if place in on_grids or place in exact:
            continue
        site = None if known is None else decision.sites.get(known)
        if site is not None and site.quantizer is not None:
            on_grids[place] = WeightTensor(given.dtype, stored_tensor(site))
        elif known is not None:
            numbers = decision.buffers[known] if site is None else site.stored()
            exact[place] = Given(given.dtype, np.asarray(numbers, np.float32))
        else:
            exact[place] = given
    as_they_are = {name: exact[id(given)] for name, given in module.state.items() if id(given) in exact}
    packed_exactly = packed(as_they_are).tensors
    tensors = {name: on_grids.get(id(given)) or packed_exactly[name] for name, given in module.state.items()}
    return StoredWeights(tensors)


def stored_tensor(site: SiteDecision) -> StoredTensor:
    """Integers and what they stand for; levels that no number has are left out."""
    assert site.quantizer is not None
    integers, quantizer = site.integers(), stored_as(site.quantizer)
    if isinstance(quantizer, Codebook):
        quantizer, integers = quantizer.used(integers)
    return StoredTensor(integers, quantizer)
