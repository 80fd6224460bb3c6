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
    """Every tensor of the module's state dict: parameters as the decision stores them, buffers as they are in it.

    Nothing is removed, as nobody knows what the forward pass does with what is zero.  Numbers without a quantizer, and
    buffers that the decision does not hold, such as counters, come back exactly.

    Raises:
        DecisionError: a parameter of the decision is not in the state dict, or has another shape.
    """
    for name, site in decision.sites.items():
        if name not in module.state or module.state[name].numbers.shape != site.value.shape:
            raise DecisionError(f"the decision has {name} of shape {site.value.shape}, which its module has not")
    plain = {}
    for name, given in module.state.items():
        if name in decision.sites:
            given = Given(given.dtype, decision.sites[name].stored())
        elif name in decision.buffers:
            given = Given(given.dtype, np.asarray(decision.buffers[name], np.float32))
        plain[name] = given
    # of the parameters on grids below
    on_grids = {name: site for name, site in decision.sites.items() if site.quantizer is not None}
    exact = packed({name: given for name, given in plain.items() if name not in on_grids})
    tensors = {
        name: WeightTensor(given.dtype, stored_tensor(on_grids[name])) if name in on_grids else exact.tensors[name]
        for name, given in plain.items()
    }
    return StoredWeights(tensors)


def stored_tensor(site: SiteDecision) -> StoredTensor:
    """Integers and what they stand for; levels that no number has are left out."""
    assert site.quantizer is not None
    integers, quantizer = site.integers(), stored_as(site.quantizer)
    if isinstance(quantizer, Codebook):
        quantizer, integers = quantizer.used(integers)
    return StoredTensor(integers, quantizer)
