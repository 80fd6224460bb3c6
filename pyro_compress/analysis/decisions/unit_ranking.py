"""Which units go for their rank in their layer: by the size of their weights, or by what they answer to data.

    L1                     Σ_i |w_ui|                                     (Li et al. 2017)
    L2                     √ Σ_i w_ui²
    mean activation        mean over examples and places of |a_u|
    activation frequency   share of examples and places at which a_u ≠ 0, 1 − APoZ   (Hu et al. 2016)

Units are outputs of dense layers and filters of convolutions; those of the last layer stay.  The first two follow from
the values to store, the others need data: `pipeline.unit_sensitivity.activation_scores` measures them.
"""

from collections.abc import Mapping

import numpy as np

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.units import without_units
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.liveness import is_plain_chain
from pyro_compress.network.name_patterns import by_name
from pyro_compress.posterior.posterior import Posterior

BY_WEIGHTS = ("l1", "l2")
BY_ACTIVATION = ("mean-activation", "activation-frequency")
UNIT_RANKINGS = (*BY_WEIGHTS, *BY_ACTIVATION)

Scores = Mapping[str, np.ndarray]


def weight_scores(posterior: Posterior, architecture: Architecture, by: str = "l1") -> dict[str, np.ndarray]:
    """Norms of the weights that every hidden unit reads, (units,) float64, by layer.

    Raises:
        DecisionError: an unknown word, or a network that is no chain of layers.
    """
    if by not in BY_WEIGHTS:
        raise DecisionError(unknown_name("norm of units", by, BY_WEIGHTS))
    found = {}
    for layer in hidden_layers(architecture):
        weight = posterior.parameters[f"{layer}.weight"].to_store.astype(np.float64)
        found[layer] = np.linalg.norm(weight.reshape(len(weight), -1), ord=int(by[1]), axis=1)
    return found


def prune_lowest_units(
    posterior: Posterior, architecture: Architecture, scores: Scores, *, remove_percent: float | Mapping[str, float]
) -> Decision:
    """Zero bits for all weights, biases and batch norms of the units that rank lowest in their layer.

    Args:
        posterior: moments of the network's parameters.
        architecture: as traced; a chain of layers without grouped or transposed convolutions.
        scores: by layer, (units,): the lowest go.
        remove_percent: share of the units of every hidden layer, or by patterns of names of layers; at least one
            unit stays in each.

    Raises:
        DecisionError: a share outside [0, 100), a pattern that matches no layer, two that match one, scores that do
            not go with a layer, or another kind of network.
    """
    layers = hidden_layers(architecture)
    kept = {}
    for layer, percent in by_name("remove_percent", remove_percent, layers, "hidden layer", DecisionError).items():
        if not 0 <= percent < 100:
            raise DecisionError(f"remove_percent of units must lie in [0, 100), found {percent} for {layer}")
        units = len(posterior.parameters[f"{layer}.weight"].mean)
        score = scores.get(layer)
        if score is None or score.shape != (units,) or not np.isfinite(score).all():
            shape = "none" if score is None else f"{score.shape}"
            raise DecisionError(f"scores of {layer} must be {units} finite numbers, one per unit; found {shape}")
        gone = min(round(percent / 100 * units), units - 1)
        stays = np.ones(units, bool)
        stays[np.argsort(score, kind="stable")[:gone]] = False
        kept[layer] = stays
    made_by = remove_percent if isinstance(remove_percent, float | int) else dict(remove_percent)
    return without_units(posterior, architecture, kept, {"remove_units_percent": made_by})


def hidden_layers(architecture: Architecture) -> list[str]:
    """Names of the layers with weights, but for the last, whose units are the network's outputs.

    Raises:
        DecisionError: the network is no chain of layers, or has grouped or transposed convolutions.
    """
    if not is_plain_chain(architecture):
        raise DecisionError(
            "units are ranked in chains of layers without grouped or transposed convolutions, and this network is "
            "none: prune it with group_threshold, snr or remove_percent"
        )
    return [layer.name for layer in architecture.weighted()][:-1]
