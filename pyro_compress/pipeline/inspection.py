"""What a compressed file holds, for people (`inspect`) and for programs (`inspect --json`)."""

from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from pyro_compress.analysis.structure import architecture_left, format_architecture
from pyro_compress.architecture import describe
from pyro_compress.artifact.artifact import load


def as_dict(path: Path) -> dict[str, Any]:
    """Layers, tensors and the bytes of every section.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    artifact = load(path)
    architecture = artifact.network.architecture
    return {
        "file": str(path),
        "file_bytes": len(artifact),
        "input_shape": list(architecture.input_shape),
        "layers": [describe(layer) for layer in architecture.layers],
        "architecture_left": format_architecture(architecture_left(artifact.network)),
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


def describe_file(path: Path) -> list[RenderableType]:
    """The same as printable parts."""
    found = as_dict(path)
    lines = [f"{found['file']}: {found['file_bytes']:,} bytes, architecture left {found['architecture_left']}"]
    lines.append(f"input shape {tuple(found['input_shape'])}")
    lines += [f"  {layer}" for layer in found["layers"]]
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
