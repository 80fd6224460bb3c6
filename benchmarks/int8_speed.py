"""How much faster onnxruntime is with activations of 8 bits: ratios to the exact model, measured side by side.

    python -m benchmarks.int8_speed                       # shipped networks, ResNet-18 and MobileNetV2
    python -m benchmarks.int8_speed lenet-5/log-uniform

One thread, random images; the two models take turns as in `runtime_speed`.  ResNet-18 and MobileNetV2 (64 × 64 pixels)
have random weights on grids, so that only their speed means something.
"""

import argparse
from statistics import median

import numpy as np
import onnxruntime

import pyro_compress as pc
from benchmarks.runtime_speed import Run, images, side_by_side
from pyro_compress import shipped
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.runtimes.onnx_int8 import to_onnx_int8
from tests.artifact.runnable import runnable

RANDOM = ("resnet18", "mobilenet_v2")
BATCHES = (1, 64)


def session(model: bytes) -> Run:
    """What runs a model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = made.run(None, {"input": x})[0]
        return found

    return run


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*shipped.names(), *RANDOM])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print("| network | batch | float32, ms | 8 bits, ms | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in arguments.names:
        network = runnable(name) if name in RANDOM else pc.load(name).network
        exact, rounded = session(to_onnx(network)), session(to_onnx_int8(network, images(network, 128)))
        for batch in BATCHES:
            found = side_by_side(exact, rounded, images(network, batch), arguments.rounds)
            slow, fast = (median(column) for column in zip(*found, strict=True))
            ratio = median(slow / fast for slow, fast in found)
            print(f"| {name} | {batch} | {slow * 1e3:.3g} | {fast * 1e3:.3g} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
