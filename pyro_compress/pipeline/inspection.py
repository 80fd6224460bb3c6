"""What a compressed file holds, for people (`inspect`) and for programs (`inspect --json`)."""

import importlib
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from pyro_compress.artifact.writing.artifact import load
from pyro_compress.network.layers import describe
from pyro_compress.network.stored import (
    StoredNetwork,
    StoredTensor,
    architecture_left,
    format_architecture,
    tied_weights,
)
from pyro_compress.network.stored_weights import StoredWeights, WeightTensor
from pyro_compress.pipeline.packing import stored_as_text
from pyro_compress.pipeline.run_directory import RunDirectory


def as_dict(path: Path) -> dict[str, Any]:
    """Layers, tensors and the bytes of every section.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    artifact = load(path)
    return {
        "file": str(path),
        "file_bytes": len(artifact),
        "kind": artifact.kind,
        **(_layers(artifact.held) if isinstance(artifact.held, StoredNetwork) else _tensors(artifact.held)),
        **({"metadata": dict(artifact.metadata)} if artifact.metadata else {}),
        "other_bytes": other_bytes(artifact.held),
        **description_length(path.parent),
        "sections": [
            {
                "name": section.name,
                "shape": list(section.shape),
                "nonzero": section.nonzero,
                "distinct": section.distinct,
                "file_bytes": round(section.file_bytes, 2),
                "bits_per_nonzero": round(8 * section.file_bytes / section.nonzero, 2) if section.nonzero else None,
                "entropy_bytes": round(section.entropy_bytes, 2),
            }
            for section in artifact.sections()
        ],
    }


def _layers(network: StoredNetwork) -> dict[str, Any]:
    architecture = network.architecture
    return {
        "input_shape": list(architecture.input_shape),
        **({} if architecture.code is None else {"code": str(architecture.code)}),
        "layers": [describe(layer) for layer in architecture.layers],
        "architecture_left": format_architecture(architecture_left(network)),
    }


def _tensors(weights: StoredWeights) -> dict[str, Any]:
    first = {id(tensor): name for name, tensor in reversed(weights.tensors.items())}
    return {
        "tensors": {name: f"{tensor.dtype}, {stored_as_text(tensor)}" for name, tensor in weights.single()},
        "tied": {name: first[id(tensor)] for name, tensor in weights.tensors.items() if first[id(tensor)] != name},
    }


def describe_file(path: Path) -> list[RenderableType]:
    """The same as printable parts."""
    found = as_dict(path)
    lines = _described_layers(found) if "layers" in found else _described_tensors(found)
    lines += [f"{name}: {json.dumps(said, ensure_ascii=False)}" for name, said in found.get("metadata", {}).items()]
    for name, size in found["other_bytes"].items():
        said = "install zstandard to see it" if size is None else f"{size:,} bytes, {size / found['file_bytes']:.2f} ×"
        lines.append(f"the same network as {name}: {said} the file" if size is not None else f"{name}: {said}")
    if "description_length_bits" in found:
        bits = found["description_length_bits"]
        said = "undefined" if bits is None else f"{bits / 8:,.0f} bytes"
        lines.append(f"KL(posterior ‖ prior) / ln 2, its description length: {said}")
    table = Table("section", "shape", title="Bytes by section", title_justify="left")
    for heading in ("nonzero", "bytes", "bits per nonzero", "order-0 entropy, bytes"):
        table.add_column(heading, justify="right")
    for section in found["sections"]:
        shape = "×".join(str(extent) for extent in section["shape"])
        per = "" if section["bits_per_nonzero"] is None else f"{section['bits_per_nonzero']:.2f}"
        nonzero = f"{section['nonzero']:,}" if section["shape"] else ""
        table.add_row(
            section["name"], shape, nonzero, f"{section['file_bytes']:,.1f}", per, f"{section['entropy_bytes']:,.1f}"
        )
    return ["\n".join(lines), table]


def _described_layers(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{found['file']}: {found['file_bytes']:,} bytes, architecture left {found['architecture_left']}"]
    code = f", a code {found['code']}" if "code" in found else ""
    lines.append(f"input shape {tuple(found['input_shape'])}{code}")
    return lines + [f"  {layer}" for layer in found["layers"]]


def _described_tensors(found: Mapping[str, Any]) -> list[str]:
    shapes = {section["name"]: tuple(section["shape"]) for section in found["sections"]}
    lines = [f"{found['file']}: {found['file_bytes']:,} bytes, weights of a module, and no layers"]
    lines += [f"  {name} {shapes[name]}, {stored}" for name, stored in found["tensors"].items()]
    return lines + [f"  {name} is {first}" for name, first in found["tied"].items()]


def other_bytes(network: StoredNetwork | StoredWeights) -> dict[str, int | None]:
    """Bytes of the file's tensors, zeros included and each that several layers share once, without models or headers.

    zstd: one frame at level 19 of all tensors, integers as int8 (int16 or int32 if they are larger), else float32; None
    without the package `zstandard`.
    """
    if isinstance(network, StoredWeights):
        tensors: list[Any] = [tensor for _, tensor in network.single()]
    else:
        again = tied_weights(network)
        tensors = [tensor for name, tensor in network.tensors.items() if name not in again]
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    found: dict[str, int | None] = {"float32": 4 * numbers, "float16": 2 * numbers, "int8 and zstd -19": None}
    if importlib.util.find_spec("zstandard") is not None:
        content = b"".join(_smallest(tensor).tobytes() for tensor in tensors)
        found["int8 and zstd -19"] = len(importlib.import_module("zstandard").compress(content, 19))
    return found


def _smallest(tensor: StoredTensor | WeightTensor) -> np.ndarray:
    if tensor.integers is None:
        return tensor.dense() if isinstance(tensor, StoredTensor) else np.asarray(tensor.held)
    largest = int(np.abs(tensor.integers).max(initial=0))
    return tensor.integers.astype(np.int8 if largest < 128 else np.int16 if largest < 32768 else np.int32)


def description_length(directory: Path) -> dict[str, float | None]:
    """KL / ln 2 of the run that a file lies in, None ('undefined') under an improper prior; nothing without a run."""
    run = RunDirectory(directory)
    if not (run.settings.exists() and run.posterior.exists()):
        return {}
    # whoever installed what reads files, and no more, has no runs
    from pyro_compress.analysis.decisions.rates import description_length_bits
    from pyro_compress.pipeline.settings import RunSettings
    from pyro_compress.posterior.posterior import Posterior

    posterior, settings = Posterior.load(run.posterior), RunSettings.load(run.settings)
    if settings.reconstructs:  # the fit's KL is of codes too
        return {}
    bits = description_length_bits(posterior.kl_nats, proper_prior=settings.prior_is_proper)
    return {"description_length_bits": bits}
