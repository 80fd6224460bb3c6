"""The step `uncertainty`: is the decoded file as sure as it is right, and the posterior it came from?

Writes uncertainty.json and figures/uncertainty/*.png.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import generator_for
from pyro_compress.data.named import load as load_named_data
from pyro_compress.errors import DataError
from pyro_compress.files import write_atomically
from pyro_compress.pipeline.predictors import (
    ENTROPY,
    INFORMATION,
    PREDICTIVE,
    Predicted,
    measures_of,
    of_draws,
    predictors_of,
)
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.steps import RunDirectory, prepare
from pyro_compress.posterior.error_unit import ErrorUnit, unit_of
from pyro_compress.report.calibration import detection_auroc, rejection_curve, reliability
from pyro_compress.report.calibration_figures import out_of_distribution_figure, rejection_figure, reliability_diagram
from pyro_compress.report.figures import save_all
from pyro_compress.report.measure import brier_score, expected_calibration_error

NOISE = "noise"


def uncertainty_of_run(
    run: RunDirectory,
    settings: RunSettings,
    data: DataSet,
    *,
    draws: int = 100,
    other: str | None = None,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Measure on the test part: decoded file (its samples too if it keeps deviations), posterior mean, predictive.

    Args:
        run: with a posterior.
        settings, data: of the run.
        draws: that the predictive averages.
        other: data set of inputs of another kind, or 'noise'; None leaves that out.
        data_dir: where its files lie.

    Raises:
        PyroCompressError: no posterior there, or other inputs of another shape.
    """
    prepare(settings)
    if settings.reconstructs:
        raise DataError(
            f"{settings.network} is an autoencoder, which predicts no targets to be sure of: `pyro-compress evaluate` "
            "says what its bound is"
        )
    outside = None if other is None else other_inputs(other, data, data_dir, settings.seed)
    predictors, (x, y) = predictors_of(run, settings, data, draws), data.part("test")
    averaged = {name: predictive(x, y) for name, predictive in predictors.averaged.items()}
    found = {name: predictors.of_network(network, x, y) for name, network in predictors.networks.items()}
    found |= {name: of_draws(one, data) for name, one in averaged.items()}
    unit = settings.build_likelihood().error_unit
    results: dict[str, Any] = {
        "error_unit": unit.name,
        "data": data.name,
        "examples": len(x),
        "draws": averaged[PREDICTIVE].draws,
        "effective_draws": averaged[PREDICTIVE].effective_draws,
        "predictors": {name: _scores(predicted, y, unit) for name, predicted in found.items()},
    }
    drawn = _figures(found, y)
    if outside is not None and other is not None:
        here = {name: measures_of(predicted.entropy, predicted.information) for name, predicted in found.items()}
        there = predictors.measures(outside)
        aurocs = {name: _aurocs(here[name], there[name]) for name in found}
        results["out_of_distribution"] = {"data": other, "examples": len(outside), "auroc": aurocs}
        if here[PREDICTIVE]:
            figure = out_of_distribution_figure(here[PREDICTIVE], there[PREDICTIVE], (data.name, other))
            drawn["out_of_distribution"] = figure
    write_atomically(run.uncertainty, json.dumps(results, indent=2, allow_nan=False) + "\n")
    save_all(run.figures / "uncertainty", drawn)
    return results


def other_inputs(name: str, data: DataSet, data_dir: Path | None, seed: int) -> Tensor:
    """Inputs of another kind than the run's: the test part of a data set, or 'noise'.

    Noise is uniform between the least and the largest value of the training inputs, whole numbers where these are
    tokens, as many as there are test examples.

    Raises:
        DataError: another shape than the run's inputs, or the run's own data.
    """
    if name == data.name:
        raise DataError(f"--out-of-distribution {name}: that is what the run learned from; name another data set")
    if name == NOISE:
        shape = data.part("test")[0].shape
        low, high = float(data.train_x.min()), float(data.train_x.max())
        if data.train_x.dtype == torch.int64:
            generator = generator_for(seed, len(data.train_x))
            return torch.randint(int(low), int(high) + 1, shape, generator=generator)
        return low + (high - low) * torch.rand(shape, generator=generator_for(seed, len(data.train_x)))
    x, _ = load_named_data(name, data_dir).part("test")
    if tuple(x.shape[1:]) != data.input_shape:
        raise DataError(
            f"--out-of-distribution {name}: its inputs have the shape {tuple(x.shape[1:])}, the run's have "
            f"{data.input_shape}: name a data set of that shape, or '{NOISE}'"
        )
    return x


def _aurocs(inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: detection_auroc(inside[name], outside[name]) for name in outside}


def _scores(found: Predicted, y: Tensor, unit: ErrorUnit) -> dict[str, float | None]:
    """One row of the table."""
    labels, probabilities = y.numpy(), found.probabilities
    spread = {"epistemic_sd": found.epistemic, "aleatoric_sd": found.aleatoric}
    return {
        unit.key("error"): unit.scale * float(found.errors.mean()),
        "nll_nats_per_example": float(found.nll_nats.mean()),
        "calibration_error": None if probabilities is None else expected_calibration_error(probabilities, labels),
        "brier_score": None if probabilities is None else brier_score(probabilities, labels),
        "predictive_entropy_nats": None if found.entropy is None else float(found.entropy.mean()),
        "mutual_information_nats": None if found.information is None else float(found.information.mean()),
        unit.key("rejection_error"): (
            None if found.uncertainty is None else unit.scale * rejection_curve(found.uncertainty, found.errors).area
        ),
        **{name: None if values is None else float(np.sqrt(values.mean())) for name, values in spread.items()},
    }


def _figures(found: Mapping[str, Predicted], y: Tensor) -> dict[str, Figure]:
    drawn = {}
    labels = y.numpy()
    held = {name: p.probabilities for name, p in found.items() if p.probabilities is not None}
    if held:
        bins = {name: reliability(p, labels) for name, p in held.items()}
        errors = {name: expected_calibration_error(p, labels) for name, p in held.items()}
        drawn["reliability"] = reliability_diagram(bins, errors)
    curves = {name: rejection_curve(p.uncertainty, p.errors) for name, p in found.items() if p.uncertainty is not None}
    if curves:
        drawn["rejection"] = rejection_figure(curves, "%" if held else "the likelihood's error")
    return drawn


# ---- for people


def describe(results: Mapping[str, Any]) -> list[RenderableType]:
    """A row per predictor; rows of another table where inputs of another kind were given."""
    rows = results["predictors"]
    classes = any(row["calibration_error"] is not None for row in rows.values())
    title = (
        f"{results['examples']:,} test examples of {results['data']}; the predictive averages {results['draws']} draws"
    )
    parts: list[RenderableType] = [title, _table(CLASS_COLUMNS if classes else _real_columns(unit_of(results)), rows)]
    other = results.get("out_of_distribution")
    if other is not None:
        parts.append(f"AUROC of telling {results['data']} from {other['examples']:,} inputs of {other['data']}")
        measures = tuple((name, name.replace(" ", "\n"), "{:.3f}", 1.0) for name in (ENTROPY, INFORMATION))
        parts.append(_table(measures, other["auroc"]))
    return parts


Column = tuple[str, str, str, float]
CLASS_COLUMNS: tuple[Column, ...] = (
    ("error_percent", "error\n%", "{:.2f}", 1.0),
    ("nll_nats_per_example", "NLL\nnats", "{:.4f}", 1.0),
    ("calibration_error", "ECE\npoints", "{:.2f}", 100.0),
    ("brier_score", "Brier", "{:.4f}", 1.0),
    ("predictive_entropy_nats", "entropy\nnats", "{:.4f}", 1.0),
    ("mutual_information_nats", "mutual\ninfo", "{:.4f}", 1.0),
    ("rejection_error_percent", "AURC\n%", "{:.3f}", 1.0),
)


def _real_columns(unit: ErrorUnit) -> tuple[Column, ...]:
    return (
        (unit.key("error"), f"error\n{unit.sign}", "{:.4g}", 1.0),
        ("nll_nats_per_example", "NLL\nnats", "{:.4f}", 1.0),
        ("epistemic_sd", "epistemic\nsd", "{:.4g}", 1.0),
        ("aleatoric_sd", "aleatoric\nsd", "{:.4g}", 1.0),
        (unit.key("rejection_error"), f"AURC\n{unit.sign}", "{:.4g}", 1.0),
    )


def _table(columns: tuple[Column, ...], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("", overflow="fold")
    for _, heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        cells = ((row.get(key), form, factor) for key, _, form, factor in columns)
        table.add_row(name, *("–" if value is None else form.format(factor * value) for value, form, factor in cells))
    return table
