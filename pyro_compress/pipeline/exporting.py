"""A compressed file for other programs (`export`): decoded, and written in a format that they read."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyro_compress.artifact.writing.artifact import load
from pyro_compress.errors import RunError, unknown_name
from pyro_compress.extras import missing
from pyro_compress.files import write_atomically
from pyro_compress.network.stored import StoredNetwork

# Each format's module, which has a function `to_FORMAT`, and is imported only when asked for: onnx is an extra.
FORMATS = {
    "onnx": "pyro_compress.artifact.runtimes.onnx_export",
    "safetensors": "pyro_compress.artifact.runtimes.safetensors_export",
}


# on so many training examples ranges of activations are taken, unless there are fewer
CALIBRATED_ON = 512


def export_file(
    file: Path,
    to: str,
    target: Path,
    *,
    calibrate: str | None = None,
    data_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Write `file` as `target` in the format `to`, whole or not at all; gives the number of bytes.

    Args:
        file: of layers.
        to: a key of `FORMATS`.
        target: ends in the format's name.
        calibrate: a data set, as `pc.data.load` knows it: in 'onnx' activations get 8 bits, by their ranges on its
            first training examples.
        data_dir: where data files lie.
        say: is told how far 8 bits are from float32 on these examples.

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
    if calibrate is not None:
        if to != "onnx":
            raise RunError(
                f"--calibrate is for models that compute, and {to} holds tensors: leave it out, or --to onnx"
            )
        data = _in_8_bits(network, data, calibrate, data_dir, say)
    write_atomically(target, data)
    return len(data)


def _in_8_bits(
    network: StoredNetwork, float_model: bytes, calibrate: str, data_dir: Path | None, say: Callable[[str], None]
) -> bytes:
    """The model with activations of 8 bits, held against the one of float32."""
    from pyro_compress.artifact.runtimes.onnx_int8 import outputs, to_onnx_int8
    from pyro_compress.data.named import load as load_data

    examples = load_data(calibrate, data_dir).train_x[:CALIBRATED_ON].numpy()
    made = to_onnx_int8(network, examples)
    exact, rounded = outputs(float_model, examples), outputs(made, examples)
    off = float(np.abs(exact - rounded).max() / max(float(np.abs(exact).max()), np.finfo(np.float32).tiny))
    line = f"on {len(examples)} training examples of {calibrate} outputs differ by at most {off:.2%} of the largest"
    if exact.ndim == 2 and exact.shape[1] > 1:
        line += f", and the largest is the same one in {(exact.argmax(1) == rounded.argmax(1)).mean():.1%}"
    say(line)
    return made
