"""Whether a file is the same everywhere: encoded again, and run in torch, numpy and onnxruntime on a whole test set.

    python -m benchmarks.runtimes_agree runs/main/*          # run directories; the made-up VGG-16 is added

Each run's `network.pyrc` is decoded and encoded again, which has to give the same bytes.  Its test images go through
the module that `to_torch` makes, through the numpy runtime, and through the exported ONNX model with float32 weights.
The largest difference is relative to the largest output; a different class is counted.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.artifact import vgg_16
from benchmarks.runtime_speed import in_onnxruntime, in_torch
from pyro_compress import data
from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.artifact.writing.encode import encode

BATCH = 500


def files(runs: list[Path], vgg_images: int) -> Iterator[tuple[str, Artifact, np.ndarray]]:
    """Name, file and test images of each run, and of VGG-16."""
    for directory in runs:
        settings = json.loads((directory / "settings.json").read_text())
        name = settings["entry"] or settings["network"]
        yield name, load(directory / "network.pyrc"), data.load(settings["data"]).test_x.numpy()
    if vgg_images:
        yield "vgg-16, made up", Artifact.of(vgg_16()), data.load("cifar10").test_x[:vgg_images].numpy()


def line(name: str, artifact: Artifact, x: np.ndarray) -> str:
    """Of the table."""
    network = artifact.network
    again = "yes" if encode(decode(artifact.data)) == artifact.data else "NO"
    batches = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
    expected = np.concatenate([run(batch) for run in [in_torch(network)] for batch in batches])
    cells = []
    for run in (forward(network), in_onnxruntime(network)):
        found = np.concatenate([run(batch) for batch in batches])
        difference = float(np.abs(found - expected).max() / np.abs(expected).max())
        cells.append(f"{difference:.1e} | {int((found.argmax(1) != expected.argmax(1)).sum())}")
    return f"| {name} | {len(artifact.data):,} | {again} | {len(x):,} | {' | '.join(cells)} |"


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run directories that hold network.pyrc")
    parser.add_argument("--vgg-images", type=int, default=500, help="test images for VGG-16; 0 leaves it out")
    given = parser.parse_args()
    print("| file | bytes | same bytes again | test images | numpy | other classes | onnxruntime | other classes |")
    print("| --- " * 8 + "|")
    for name, artifact, x in files(given.runs, given.vgg_images):
        print(line(name, artifact, x), flush=True)


if __name__ == "__main__":
    main()
