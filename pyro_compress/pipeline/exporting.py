"""A compressed file for other programs (`export`): decoded, and written in a format that they read."""

import importlib
from pathlib import Path

from pyro_compress.artifact.writing.artifact import load
from pyro_compress.errors import RunError, unknown_name
from pyro_compress.extras import missing
from pyro_compress.files import write_atomically

# Each format's module, which has a function `to_FORMAT`, and is imported only when asked for: onnx is an extra.
FORMATS = {
    "onnx": "pyro_compress.artifact.runtimes.onnx_export",
    "safetensors": "pyro_compress.artifact.runtimes.safetensors_export",
}


def export_file(file: Path, to: str, target: Path) -> int:
    """Write `file` as `target` in the format `to`, whole or not at all; gives the number of bytes.

    Raises:
        ArtifactError: `file` is missing or damaged, or holds what the format cannot say.
        RunError: no such format, or `target` has the extension of another one.
        MissingPackageError: the format's package is not installed.
        OSError: `target` cannot be written.
    """
    if to not in FORMATS:
        raise RunError(unknown_name("export format", to, FORMATS))
    if target.suffix != f".{to}":
        raise RunError(f"files of the format {to} end in .{to}, '{target.name}' does not: rename it")
    network = load(file).network
    try:
        module = importlib.import_module(FORMATS[to])
    except ImportError as error:
        raise missing(f"export to {to}", error) or error from error
    data: bytes = getattr(module, f"to_{to}")(network)
    write_atomically(target, data)
    return len(data)
