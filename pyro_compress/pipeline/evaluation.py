"""The last step: decode the file, run it on the test set, write results.json and the figures."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.rates import description_length_bits, published_rates, two_part_code_bits
from pyro_compress.analysis.decisions.relative_index import deep_compression_bytes
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.dataset import DataSet, Part
from pyro_compress.data.examples import as_data
from pyro_compress.data.sources import Examples
from pyro_compress.errors import ArtifactError, DataError, RunError
from pyro_compress.files import write_atomically
from pyro_compress.inference.loop.devices import device_named
from pyro_compress.inference.loop.suitability import check_classes, check_targets
from pyro_compress.models import zoo
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import LIKELIHOODS, Categorical, Likelihood, PiecewiseExponential
from pyro_compress.models.likelihoods.fitted import fitted
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import weight_shape
from pyro_compress.network.quantizers import described
from pyro_compress.network.stored import StoredNetwork, architecture_left, format_architecture, tied_weights
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.decoder_scores import decoder_scores
from pyro_compress.pipeline.decoders import at_mean, road_of, shipped
from pyro_compress.pipeline.generating import figures_of_decoder
from pyro_compress.pipeline.kinds import RUNNABLE, WEIGHTS, description_of, kind_of
from pyro_compress.pipeline.kinds import decoded as decoded_by
from pyro_compress.pipeline.position_scores import position_scores
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.starting import build_network, fitted_network, rebuilt_network
from pyro_compress.pipeline.steps import RunDirectory, prepare
from pyro_compress.pipeline.validation import nothing_pruned, place
from pyro_compress.posterior.error_unit import ErrorUnit, unit_of
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report.figures import RatePoint, save_all
from pyro_compress.report.measure import (
    Measurement,
    float32_bytes,
    mcnemar_p_value,
    measure,
    paired_p_value,
    predict,
    standard_error,
)
from pyro_compress.report.run_figures import figures_of_run
from pyro_compress.report.survival import survival_scores
from pyro_compress.report.table import WARNINGS


def evaluate_run(run: RunDirectory, settings: RunSettings, data: DataSet) -> dict[str, Any]:
    """Measure the decoded file on the test set; write results.json and figures.

    Raises:
        PyroCompressError: an earlier step's file is missing or damaged; the sentence names the step to run.
    """
    prepare(settings)
    rests_on = run.moments if run.moments.exists() else run.posterior
    posterior, decision = Posterior.load(rests_on), Decision.load(run.stored_decision)
    if not run.file.exists():
        raise RunError(f"{run.path} has no {run.file.name} yet: run `pyro-compress compress {run.path}`")
    original, network = build_network(settings, data), fitted_network(run, settings, data)
    original, _ = shipped(original, data.input_shape)
    data = data.on(device_named(settings.device))
    own = fitted(settings.build_likelihood(), posterior)
    road = road_of(network, posterior, data, own)
    likelihood, unit = road.likelihood, settings.error_unit
    architecture = description_of(road.network, road.data.input_shape, kind_of(decision))
    matrices = {name: parameter.numel() for name, parameter in original.named_parameters() if parameter.ndim > 1}
    x, y = road.data.part("test")
    given = predict(original, x, y, likelihood) if settings.weights is not None and not settings.reconstructs else None
    place(road.network, nothing_pruned(road.posterior))
    before = predict(road.network, x, y, likelihood).errors
    artifact = run.artifact()
    # the network of the posterior holds more than what the bytes say
    module = rebuilt_network(run, settings, data) if artifact.kind == WEIGHTS else road.network
    measured = measure(artifact, x, y, likelihood, float32_bytes(original), module)
    decoded = decoded_by(artifact, module)
    predicted = predict(decoded, x, y, likelihood)
    after = predicted.errors
    scores = None
    if isinstance(network, EncoderDecoder):
        network = at_mean(network, posterior).to(x.device)
        scores = decoder_scores(network, decoded, own, data.part("test")[0])
        before, after = -scores.before.elbo, -scores.after.elbo
    results = {
        "error_unit": unit.name,
        **_headline(unit, before, after, measured, matrices, artifact, _matrices_of(architecture, decision)),
        **_context(run, settings, posterior, data),
        **_detail(measured, road.posterior, decision, architecture, original, road.data.input_shape, settings),
    }
    if scores is None:
        nats = _training_label_nats(decoded, data, likelihood)
        results["two_part_code_bits"] = two_part_code_bits(measured.file_bytes, nats)
    else:
        results["generative"] = {"binarisation": settings.binarisation, "codes": str(network.codes), **scores.as_dict()}
    results |= _survival(decoded, x, y, likelihood) | position_scores(decoded, x, y, likelihood, predicted)
    results |= {key: decision.made_by[key] for key in WARNINGS if key in decision.made_by}
    if settings.teacher is not None:
        results["teacher"] = {
            "name": settings.teacher, "weight": settings.teacher_weight, "temperature": settings.temperature
        }  # fmt: skip
    if settings.rewrites:
        results["rewrites"] = [dict(rewrite) for rewrite in settings.rewrites]
    if given is not None:
        results[unit.key("error_given")] = unit.scale * float(given.errors.mean())
    if data.classes is not None and y.ndim == 1:
        results["mcnemar_p_value"] = mcnemar_p_value(before, after)
    elif data.classes is not None:
        results["paired_p_value"] = paired_p_value(before, after)
    layers = None
    if isinstance(architecture, Architecture):
        layers = architecture, artifact.network.architecture
    drawn = figures_of_run(road.posterior, decision, layers, _points(results), unit)
    if isinstance(network, EncoderDecoder):
        drawn |= figures_of_decoder(artifact, network, own, data.part("test")[0])
    save_all(run.figures, drawn)
    # last: a run that has results has all of them
    write_atomically(run.results, json.dumps(results, indent=2) + "\n")
    return results


def evaluate(
    artifact: Artifact | str | Path,
    data: DataSet | Examples,
    *,
    likelihood: Likelihood | str = "categorical",
    network: nn.Module | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Length and test error of the network decoded from a compressed file: what `pyro-compress evaluate FILE` prints.

    Args:
        artifact: what `compress` returned, whose bytes are decoded again, or the path of a .pyrc file.
        data: a DataSet, of which the test part is predicted, or the examples to predict themselves, in any form that
            `as_data` takes.
        likelihood: p(y | output), or its name; the file does not say what its outputs mean.
        network: of a file of weights, and of no other, the module that they go into, a copy of which runs.
        device: where it runs.

    Returns:
        By the keys of results.json: `error_after_percent` and its `error_standard_error_percent`, or those of another
        unit of the likelihood's error such as `error_after_nats`, `nll_nats_per_example` (absent of a likelihood whose
        noise is not given, since no file says what a fit inferred of it), `file_bytes` and of a
        runnable file `architecture_left`; of times to an event also `survival`, what
        `report.survival.survival_scores` gives, and of classes per position `positions`, see
        `pipeline.position_scores`.

    Raises:
        ArtifactError: the file is missing or damaged, holds weights and no network is given, or layers and one is.
        DataError: the data's shape is not what the file's network takes, its targets don't go with the outputs or have
            no probability under the likelihood, or a DataSet has no test part.
    """
    where = "the artifact" if isinstance(artifact, Artifact) else str(artifact)
    artifact = Artifact(artifact.data) if isinstance(artifact, Artifact) else load_artifact(artifact)
    chosen = LIKELIHOODS.build(likelihood) if isinstance(likelihood, str) else likelihood
    loaded = as_data(data)
    if network is not None and artifact.kind == RUNNABLE:
        raise ArtifactError(
            f"{where} has layers of its own, and its numbers go into no other network: leave out network"
        )
    if network is None and artifact.kind == WEIGHTS:
        raise ArtifactError(
            f"{where} holds weights and no layers: name the network that they go into, network=module in Python, "
            "--network module:factory on the command line"
        )
    runs = artifact.to_torch() if network is None else decoded_by(artifact, network)
    if isinstance(artifact.held, StoredNetwork):
        shapes, code = artifact.held.architecture.shapes(), artifact.held.architecture.code
        if code is not None:
            raise DataError(
                f"{where} holds a decoder, whose inputs are codes {code}: evaluate its run, which has the encoder, or "
                "look at what `generate` draws"
            )
        if loaded.input_shape != shapes[0]:
            raise DataError(
                f"{where} takes inputs of shape {shapes[0]}, data set {loaded.name} has {loaded.input_shape}"
            )
        output_shape = shapes[-1]
    else:
        about = description_of(runs, loaded.input_shape, artifact.kind)
        assert isinstance(about, Unlayered)
        output_shape = about.output_shape
    if isinstance(chosen, Categorical):
        check_classes(loaded, output_shape, where, chosen)
    part: Part = "test" if isinstance(data, DataSet) else "train"
    x, y = (tensor.to(device_named(device)) for tensor in loaded.part(part))
    runs = runs.to(x.device).eval()
    with torch.no_grad():
        output = runs(x[:1])
        check_targets(chosen, output, y[:1], loaded.name)
        chosen.check_support(output, y, f"{loaded.name}: {part}")
    found = predict(runs, x, y, chosen)
    return {
        **_error_after(chosen.error_unit, found.errors),
        # what a fit inferred of the noise no file says
        **({} if chosen.latents() else {"nll_nats_per_example": float(found.nll_nats.mean())}),
        "file_bytes": len(artifact),
        **_sizes_left(artifact),
        **_survival(runs, x, y, chosen),
        **position_scores(runs, x, y, chosen, found),
    }


def _sizes_left(artifact: Artifact) -> dict[str, str]:
    """Of a runnable file."""
    if not isinstance(artifact.held, StoredNetwork):
        return {}
    return {"architecture_left": format_architecture(architecture_left(artifact.held))}


def _survival(network: nn.Module, x: torch.Tensor, y: torch.Tensor, likelihood: Likelihood) -> dict[str, Any]:
    """Scores of survival curves, under the key `survival`; nothing of other targets."""
    if not isinstance(likelihood, PiecewiseExponential):
        return {}
    with torch.no_grad():
        output = network(x)
    return {"survival": survival_scores(likelihood.risk(output), partial(likelihood.survival, output), y)}


def _error_after(unit: ErrorUnit, errors: np.ndarray) -> dict[str, float]:
    return {
        unit.key("error_after"): unit.scale * float(errors.mean()),
        unit.key("error_standard_error"): unit.scale * standard_error(errors),
    }


def _headline(
    unit: ErrorUnit,
    before_errors: np.ndarray,
    after_errors: np.ndarray,
    measured: Measurement,
    matrices: Mapping[str, int],
    artifact: Artifact,
    others: Collection[str],
) -> dict[str, Any]:
    """What others rely on at the top level of results.json, except where it comes from.

    `matrices` are sizes of the original network's parameters of several axes, and `others` what a layer calls those
    that are no weights of it.
    """
    if isinstance(artifact.held, StoredNetwork):
        again = tied_weights(artifact.held)
        own = {name: held for name, held in artifact.held.tensors.items() if name not in again}
        tensors = [held.dense() for name, held in own.items() if name.endswith(".weight") or name in others]
        sizes = format_architecture(architecture_left(artifact.held))
    else:
        tensors, sizes = [held for name, held in artifact.numbers().items() if name in matrices], None
    kept = sum(map(np.count_nonzero, tensors))
    return {
        unit.key("error_before"): unit.scale * float(before_errors.mean()),
        **_error_after(unit, after_errors),
        "file_bytes": measured.file_bytes,
        "file_rate": measured.file_rate,
        "weights_left_percent": 100 * kept / sum(matrices.values()),
        "architecture_left": sizes,
        "kind": artifact.kind,
    }


def _matrices_of(architecture: Architecture | Unlayered, decision: Decision) -> set[str]:
    """Tensors of layers that are parameters of several axes, such as positions."""
    if not isinstance(architecture, Architecture):
        return set()
    return {
        tensor
        for tensor, parameter in architecture.aliases
        if parameter in decision.sites and decision.sites[parameter].value.ndim > 1
    }


def _weights_counted(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """What the published rates count of a network: weights of dense layers and convolutions, each once."""
    found = description_of(network, input_shape)
    if not isinstance(found, Architecture):
        return sum(parameter.numel() for parameter in network.parameters() if parameter.ndim > 1)
    own = {found.parameter(f"{layer.name}.weight"): layer for layer in found.weighted()}
    return sum(math.prod(weight_shape(layer)) for layer in own.values())


def _training_label_nats(network: nn.Module, data: DataSet, likelihood: Likelihood) -> float:
    """−Σ ln p(y | x) over the training part: what the network was fitted to is what a two-part code sends.

    Of an example that is there several times it is the mean.
    """
    return float(predict(network, *data.part("train"), likelihood).nll_nats.sum()) / data.repeats


def _seconds(run: RunDirectory, settings: RunSettings) -> dict[str, dict[str, float]]:
    """Of each step, by clock; a teacher that was fitted for this run alone is one."""
    found = run.seconds()
    if settings.teacher in zoo.entries():
        for clock, taught in run.teacher_run.seconds().items():
            # it may have been deleted since
            if "fit" in taught:
                found[clock] = {"teacher": taught["fit"], **found[clock]}
    return found


def _context(run: RunDirectory, settings: RunSettings, posterior: Posterior, data: DataSet) -> dict[str, Any]:
    seconds = _seconds(run, settings)
    return {
        "seed": settings.seed,
        "wall_seconds": round(sum(seconds["wall"].values()), 1),
        "seconds_per_step": {step: round(value, 1) for step, value in seconds["wall"].items()},
        "processor_seconds_per_step": {step: round(value, 1) for step, value in seconds["processor"].items()},
        "kl_weight": posterior.provenance.get("kl_weight", 1.0),
        "entry": settings.entry,
        "network": settings.network,
        "prior": settings.prior,
        "method": settings.method,
        "data": data.name,
        "data_description": data.description,
        "threads": torch.get_num_threads(),
    }


def _detail(
    measured: Measurement,
    posterior: Posterior,
    decision: Decision,
    architecture: Architecture | Unlayered,
    original: nn.Module,
    input_shape: tuple[int, ...],
    settings: RunSettings,
) -> dict[str, Any]:
    bits = {name: int(site.bits.max(initial=0)) for name, site in decision.sites.items() if site.value.ndim > 1}
    rates = None
    if isinstance(architecture, Architecture):
        counted = _weights_counted(original, input_shape) if settings.rewrites else None
        rates = asdict(published_rates(architecture, decision, counted))
    shrinkage = {
        name: [round(float(q), 6) for q in np.quantile(site.groups.shrinkage(), (0.0, 0.5, 1.0))]
        for name, site in posterior.parameters.items()
        if site.groups is not None and site.criterion is not None and site.criterion.shrinkage
    }
    return {
        "original_bytes": measured.original_bytes,
        "bits_per_layer": bits,
        "steps_per_tensor": {name: described(site.quantizer) for name, site in decision.sites.items()},
        "rates": rates,
        "deep_compression_bytes": asdict(deep_compression_bytes(decision)),
        "description_length_bits": description_length_bits(posterior.kl_nats, proper_prior=settings.prior_is_proper),
        "nll_nats_per_example": measured.nll_nats_per_example,
        "calibration_error": measured.calibration_error,
        "brier_score": measured.brier_score,
        "shrinkage_min_median_max": shrinkage,
        "decision": dict(decision.made_by),
        "published": published_rows(settings.entry, measured.original_bytes),
    }


def published_rows(entry: str | None, original_bytes: int) -> list[dict[str, Any]]:
    """The published figures of a zoo entry as the results table takes them; sizes become file rates."""
    if entry is None:
        return []
    rows = []
    for published in zoo.entry(entry).published:
        row = {key: value for key, value in asdict(published).items() if value is not None}
        if published.file_bytes is not None:
            row["file_rate"] = original_bytes / published.file_bytes
        if published.architecture is not None:
            row["architecture_left"] = row.pop("architecture")
        rows.append(row)
    return rows


def _points(results: Mapping[str, Any]) -> list[RatePoint]:
    error = results[unit_of(results).key("error_after")]
    points = [RatePoint("this run", results["file_rate"], error, "file", ours=True)]
    if results["rates"] is not None:
        ours = results["rates"]["maximum_compression"]
        points.append(RatePoint("this run", ours, error, "formula", ours=True))
    for row in results["published"]:
        for key, kind in (("file_rate", "file"), ("maximum_compression", "formula")):
            if row.get(key):
                points.append(RatePoint(row["method"], row[key], row["error_percent"], kind))
    return points
