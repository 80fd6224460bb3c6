"""What an example costs a network that is not trained, by how many go through it at once and how its filters lie.

    python -m benchmarks.passes           # one thread; processor time, side by side

Rows are networks, columns are examples per pass.  `data/splits.py` (`EXAMPLES_PER_PASS`) rests on it.
"""

import time

import torch
from torch import nn

from pyro_compress.models.layouts import lay_filters_last
from pyro_compress.models.networks import NETWORKS, build

NAMED = ("lenet-300-100", "lenet-5", "resnet-20")
SIZES = (1000, 256, 128, 64, 32)
EXAMPLES = 1024
ROUNDS = 5


def microseconds(network: nn.Module, x: torch.Tensor, size: int) -> float:
    """Of processor time per example, with so many at once."""
    start = time.process_time()
    for part in x.split(size):
        network(part)
    return (time.process_time() - start) / len(x) * 1e6


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | filters | " + " | ".join(f"{size}" for size in SIZES) + " |")
    print("| --- | --- |" + " ---: |" * len(SIZES))
    for name in NAMED:
        x = torch.randn(EXAMPLES, *NETWORKS[name].input_shape)
        for layout in ("as they are", "channels last"):
            network = build(name).eval()
            if layout != "as they are":
                lay_filters_last(network)
            found: dict[int, list[float]] = {size: [] for size in SIZES}
            with torch.no_grad():
                for _ in range(ROUNDS):
                    for size in SIZES:
                        found[size].append(microseconds(network, x, size))
            medians = [f"{sorted(found[size])[ROUNDS // 2]:.0f}" for size in SIZES]
            print(f"| {name} | {layout} | " + " | ".join(medians) + " |", flush=True)


if __name__ == "__main__":
    main()
