"""The posterior standard deviations of what a file stores, as powers of two."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.norms import norm_grids, stored_on_grids, with_norms_on_grids
from pyro_compress.analysis.decisions.structure import remove_dead_spread
from pyro_compress.errors import DecisionError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.quantizers import STEP_EXPONENTS
from pyro_compress.network.stored import StoredNetwork

OCTAVES = 32


def stored_network(architecture: Architecture, decision: Decision, *, keep_deviations: bool = False) -> StoredNetwork:
    """What a file holds of a decision: batch norms on grids, dead units removed, deviations if they are kept.

    Where a batch norm takes part, it is y = s·x + t with s and t on grids of their own (`analysis.decisions.norms`).
    """
    grids = norm_grids(architecture, decision)
    network, spread = remove_dead_spread(architecture, with_norms_on_grids(architecture, decision, grids))
    network = stored_on_grids(network, grids)
    return with_deviations(network, spread) if keep_deviations else network


def with_deviations(network: StoredNetwork, spread: Mapping[str, np.ndarray]) -> StoredNetwork:
    """The stored network with round(log₂ s) beside each of its non-zero numbers, biases and batch norms too.

    s² is the posterior's spread about the number that is stored (`SiteDecision.spread`): training on the grid and
    targets, which move it away from the mean, widen it.  A factor of two between levels makes s wrong by at most √2,
    either way.  Point estimates get none; deviations more than 31 octaves below a tensor's largest are raised to that.

    Args:
        network: what a decision stores.
        spread: per tensor, from `structure.remove_dead_spread`.

    Raises:
        DecisionError: no number has a variance.
    """
    found = {}
    for name, tensor in network.tensors.items():
        variance, kept = spread[name], tensor.dense() != 0
        if not (variance[kept] > 0).any():
            continue
        with np.errstate(divide="ignore"):
            exponent = np.rint(0.5 * np.log2(variance))
        top = min(exponent[kept].max(), STEP_EXPONENTS[-1])
        exponent = np.clip(exponent, max(top - OCTAVES + 1, STEP_EXPONENTS[0]), top)
        found[name] = np.where(kept, exponent, 0).astype(np.int8)
    # a target may leave none of the numbers that had one, which is no fault of the posterior
    if not found and not any((variance > 0).any() for variance in spread.values()):
        raise DecisionError(
            "no weight has a variance, so there are no deviations to keep: fit with SVI(...) or a sampler"
        )
    return replace(network, deviations=found)
