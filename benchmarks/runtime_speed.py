"""How much faster a compressed network runs than the original: ratios within one runtime, measured side by side.

    python benchmarks/runtime_speed.py runs/lenet5/network.pyrc                      # against the original LeNet-5
    python benchmarks/runtime_speed.py network.pyrc --network lenet-300-100

Both run in torch, in numpy (`artifact/runtimes/numpy_runtime.py`) and in onnxruntime, on one thread of the CPU, on
random images.  They take turns, so that a change of the machine's pace meets both: a round is one timing of each, and
its ratio is original / compressed.  The table has medians over rounds, and the range that holds half of the ratios.
The original is the network as it is before compression, in float32; what is compressed is decoded from the file.
Outputs of all runtimes are compared before anything is timed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnxruntime
import torch

from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.artifact import load
from pyro_compress.models.networks import NETWORKS, build
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.stored import (
    StoredNetwork,
    StoredTensor,
    architecture_left,
    format_architecture,
    tensor_shapes,
)

Run = Callable[[np.ndarray], np.ndarray]
BATCHES = (1, 128)
LEAST_SECONDS = 0.002


def original(name: str) -> StoredNetwork:
    """A registered network without batch norm, with its initial numbers in float32."""
    torch.manual_seed(0)
    network = build(name)
    architecture = trace(network, NETWORKS[name].input_shape)
    state = network.state_dict()
    tensors = {each: StoredTensor(floats=state[each].numpy()) for each in tensor_shapes(architecture)}
    return StoredNetwork(architecture, tensors)


def in_torch(network: StoredNetwork) -> Run:
    """What a user of `to_torch` runs."""
    module = to_torch(network)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            outputs: np.ndarray = module(torch.from_numpy(x)).numpy()
        return outputs

    return run


def in_onnxruntime(network: StoredNetwork) -> Run:
    """The exported model; integers are turned into float32 when it is loaded.

    Input and output are bound to memory, as a program does that runs a network for every frame: for a small one,
    passing dictionaries through Python would be a fifth of the time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(to_onnx(network), options, providers=["CPUExecutionProvider"])
    binding, bound = session.io_binding(), list[Any]()

    def run(x: np.ndarray) -> np.ndarray:
        if not bound or bound[0] is not x:
            shape = (len(x), *network.architecture.shapes()[-1])
            bound[:] = x, onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
            binding.bind_cpu_input("input", x)
            binding.bind_ortvalue_output("output", bound[1])
        session.run_with_iobinding(binding)
        found: np.ndarray = bound[1].numpy()
        return found

    return run


RUNTIMES: dict[str, Callable[[StoredNetwork], Run]] = {
    "torch": in_torch,
    "numpy": forward,
    "onnxruntime": in_onnxruntime,
}


def seconds(run: Run, x: np.ndarray, repeats: int) -> float:
    """Per pass, over `repeats` passes."""
    started = time.perf_counter()
    for _ in range(repeats):
        run(x)
    return (time.perf_counter() - started) / repeats


def side_by_side(first: Run, second: Run, x: np.ndarray, rounds: int) -> list[tuple[float, float]]:
    """Seconds per pass of both, round by round; each timing spans a few passes if one is very short."""
    repeats = [max(1, round(LEAST_SECONDS / seconds(run, x, 3))) for run in (first, second)]
    found = []
    for number in range(rounds):
        if number % 2:
            slow, fast = seconds(first, x, repeats[0]), seconds(second, x, repeats[1])
        else:
            fast, slow = seconds(second, x, repeats[1]), seconds(first, x, repeats[0])
        found.append((slow, fast))
    return found


def check(network: StoredNetwork, what: str) -> None:
    """All runtimes give what torch gives.

    Raises:
        AssertionError: they do not.
    """
    x = images(network, 32)
    expected = in_torch(network)(x)
    for name, make in RUNTIMES.items():
        np.testing.assert_allclose(
            make(network)(x), expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()), err_msg=f"{what} in {name}"
        )


def images(network: StoredNetwork, batch: int) -> np.ndarray:
    """A batch of random numbers in 0…1, float32."""
    return np.random.default_rng(0).random((batch, *network.architecture.input_shape), np.float32)


def rows(small: StoredNetwork, large: StoredNetwork, rounds: int) -> Iterator[str]:
    """Of the table, in Markdown."""
    yield "| runtime | batch | original, ms | compressed, ms | ratio, median | half of the ratios |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, make in RUNTIMES.items():
        for batch in BATCHES:
            pairs = side_by_side(make(large), make(small), images(large, batch), rounds)
            slow, fast = (1e3 * median(column) for column in zip(*pairs, strict=True))
            ratios = [first / second for first, second in pairs]
            low, middle, high = quantiles(ratios, n=4)
            yield f"| {name} | {batch} | {slow:.3f} | {fast:.3f} | {middle:.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a compressed network")
    parser.add_argument("--network", default="lenet-5", help="registered name of what it was before")
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    small, large = load(given.file).network, original(given.network)
    print(f"{given.network}: {format_architecture(architecture_left(large))} against", end=" ")
    print(f"{format_architecture(architecture_left(small))} from {given.file.name}\n")
    check(small, "the compressed network")
    check(large, "the original network")
    for row in rows(small, large, given.rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
