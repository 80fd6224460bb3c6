"""What units answer to data, and what a network errs when the lowest of one layer at a time are gone."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.unit_ranking import (
    BY_ACTIVATION,
    BY_WEIGHTS,
    UNIT_RANKINGS,
    hidden_layers,
    prune_lowest_units,
    weight_scores,
)
from pyro_compress.artifact.runtimes.torch_runtime import activation_module
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.sources import Examples
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DecisionError, unknown_name
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, BatchNorm, Conv2d, Linear
from pyro_compress.pipeline.validation import Judge, network_and_likelihood, nothing_pruned, place, with_batch_norm
from pyro_compress.posterior.posterior import Posterior

MOST_EXAMPLES = 5120
PERCENTS = (0.0, 25.0, 50.0, 75.0, 90.0)


def unit_scores(
    posterior: Posterior, network: nn.Module, data: DataSet | Examples, *, by: str = "l1"
) -> dict[str, np.ndarray]:
    """Scores of the hidden units by layer, (units,) float64: see `analysis.decisions.unit_ranking`.

    Args:
        posterior: whose values to store the network has.
        network: of the original shape, or the BayesianNetwork that was fitted; not touched.
        data: whose training part the activations are of, at most 5,120 examples.
        by: 'l1', 'l2', 'mean-activation' or 'activation-frequency'.

    Raises:
        DecisionError: an unknown word, or a network that is no chain of layers.
    """
    data, (network, _) = as_data(data), network_and_likelihood(network, None)
    architecture = trace(network, data.input_shape)
    if by in BY_WEIGHTS:
        return weight_scores(posterior, architecture, by)
    if by not in BY_ACTIVATION:
        raise DecisionError(unknown_name("ranking of units", by, UNIT_RANKINGS))
    network = copy.deepcopy(network).to(data.train_x.device)
    place(network, nothing_pruned(posterior))
    return activation_scores(network, architecture, data.train_x[:MOST_EXAMPLES], by)


def activation_scores(
    network: nn.Module, architecture: Architecture, x: torch.Tensor, by: str
) -> dict[str, np.ndarray]:
    """Means over examples and places of |a|, or of a ≠ 0, by layer: a is what follows the layer's activation."""
    totals: dict[str, torch.Tensor] = {}
    hooks = []
    for layer, (module, activation) in _answering(architecture).items():

        def note(
            _: nn.Module,
            __: tuple[torch.Tensor, ...],
            output: torch.Tensor,
            layer: str = layer,
            activation: nn.Module = activation,
        ) -> None:
            answer = activation(output)
            each = answer.abs() if by == BY_ACTIVATION[0] else (answer != 0).double()
            mean = each.double().movedim(1, 0).flatten(1).mean(1) * len(output)
            totals[layer] = totals.get(layer, 0) + mean

        hooks.append(network.get_submodule(module).register_forward_hook(note))
    network.eval()
    with torch.no_grad():
        untouched = Untouched()
        for batch in x.split(EXAMPLES_PER_PASS):
            untouched(network, batch)
    for hook in hooks:
        hook.remove()
    return {layer: (total / len(x)).cpu().numpy() for layer, total in totals.items()}


def _answering(architecture: Architecture) -> dict[str, tuple[str, nn.Module]]:
    """By hidden layer the module whose output its activation takes, and that; the identity where there is none."""
    found: dict[str, tuple[str, nn.Module]] = {}
    hidden, last, answered = hidden_layers(architecture), "", ""
    for layer in architecture.layers:
        # an activation may be a chain of several
        before, answered = answered, ""
        if isinstance(layer, Linear | Conv2d):
            last = layer.name if layer.name in hidden else ""
            if last:
                found[last] = last, nn.Identity()
        elif last and isinstance(layer, BatchNorm) and isinstance(found[last][1], nn.Identity):
            found[last] = layer.name, nn.Identity()
        elif (last or before) and isinstance(layer, Activation):
            last, answered = "", last or before
            module, activation = found[answered]
            found[answered] = module, nn.Sequential(activation, activation_module(layer))
    return found


def unit_sensitivity(
    posterior: Posterior,
    network: nn.Module,
    data: DataSet | Examples,
    *,
    by: str = "l1",
    percents: Sequence[float] = PERCENTS,
    likelihood: Likelihood | str | None = None,
) -> dict[str, list[float]]:
    """Validation errors by layer: of the network from which alone that layer's lowest units are gone, for each share.

    Args:
        posterior, network, data, by: see `unit_scores`.
        percents: shares of the layer's units, each in [0, 100).
        likelihood: p(y | output), or its name; that of a BayesianNetwork, else categorical, if not given.

    Returns:
        In the unit of the likelihood's error, percent for classes, as many as `percents`;
        `report.sensitivity_figure.sensitivity_figure` draws them.
    """
    data, (network, chosen) = as_data(data), network_and_likelihood(network, likelihood)
    scores, architecture = unit_scores(posterior, network, data, by=by), trace(network, data.input_shape)
    judge = Judge(network, data, chosen)

    def error(layer: str, percent: float) -> float:
        pruned = prune_lowest_units(posterior, architecture, scores, remove_percent={layer: percent})
        return judge.error_in_unit(with_batch_norm(judge.network, pruned, data, roughly=True))

    return {layer: [error(layer, percent) for percent in percents] for layer in scores}
