"""Every figure of a run, from its posterior and its decision."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.pruning import signal_to_noise
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Linear
from pyro_compress.posterior.criterion import Criterion
from pyro_compress.posterior.error_unit import PERCENT, ErrorUnit
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior
from pyro_compress.report.figures import (
    RatePoint,
    error_against_rate,
    learning_curve,
    pruned_architecture,
    snr_histogram,
    weight_matrices,
)


def figures_of_run(
    posterior: Posterior,
    decision: Decision,
    layers: tuple[Architecture, Architecture] | None,
    points: Sequence[RatePoint],
    unit: ErrorUnit = PERCENT,
) -> dict[str, Figure]:
    """Every figure of a run by the name of its file; those that a point estimate has nothing to show for are left out.

    Args:
        posterior: with the fit's history in its provenance.
        decision: what was stored.
        layers: the network before compression, as traced, and that in the file; None where a file has no layers.
        points: for `error_against_rate`.
        unit: of errors.
    """
    weights = {name: site for name, site in posterior.parameters.items() if site.mean.ndim > 1}
    figures = {}
    history = posterior.provenance.get("history")
    if isinstance(history, list) and history:
        figures["learning_curve"] = learning_curve(history, unit)
    if layers is not None:
        figures["pruned_architecture"] = pruned_architecture(*map(_sizes, layers))
    stored = {name: decision.sites[name].stored() for name in weights}
    figures["weight_matrices"] = weight_matrices({name: site.to_store for name, site in weights.items()}, stored)
    uncertain = {name: site for name, site in weights.items() if not site.is_point}
    if uncertain:
        snr = np.concatenate([signal_to_noise(site).ravel() for site in uncertain.values()])
        kept = np.concatenate([(stored[name] != 0).ravel() for name in uncertain])
        cut, rule = cut_and_rule(list(uncertain.values()), decision)
        figures["snr_histogram"] = snr_histogram(snr, kept, cut, rule)
    figures["error_against_rate"] = error_against_rate(points, unit)
    return figures


def cut_and_rule(sites: Sequence[ParameterPosterior], decision: Decision) -> tuple[float | None, str]:
    """The signal-to-noise ratio below which weights were pruned, None if groups were judged, and the rule in words.

    log α = log Var w − log (E w)², so that a cut on log α is one on the ratio: exp(−½ log α).
    """
    made_by = decision.made_by
    rounded = ", or rounded to zero by their grid" if any(site.quantizer for site in decision.sites.values()) else ""
    snr = made_by.get("snr")
    if isinstance(snr, int | float):
        return float(snr), f"weights are pruned below the cut{rounded}"
    judged = next((site.criterion for site in sites if site.criterion is not None), None)
    if judged is not None and judged.per_group:
        threshold: Any = made_by.get("group_threshold")
        return None, f"weights are pruned in groups, {judged.rule(threshold)}{rounded}"
    log_alpha = made_by.get("log_alpha")
    if isinstance(log_alpha, int | float):
        return math.exp(-0.5 * log_alpha), f"weights are pruned at log α > {log_alpha:g}{rounded}"
    if judged is not None:
        return ratio_at(judged), f"weights are pruned at {judged.rule()}{rounded}"
    return None, f"no weight is pruned{rounded}"


def ratio_at(criterion: Criterion) -> float | None:
    """The signal-to-noise ratio at the threshold of a criterion of weights; None where it is no cut on the ratio."""
    if criterion.statistic == "log_alpha":
        return math.exp(-0.5 * criterion.threshold)
    return criterion.threshold if criterion.statistic == "signal_to_noise" else None


def _sizes(architecture: Architecture) -> dict[str, int]:
    layers = architecture.weighted()
    return {layer.name: layer.in_features if isinstance(layer, Linear) else layer.out_channels for layer in layers}
