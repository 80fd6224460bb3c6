"""A network trained as people train theirs, in plain torch: the weights that a run is given with `--weights`.

    python -m benchmarks.train_plainly resnet-20 --data cifar10 --epochs 36 --out resnet-20.safetensors

Stochastic gradient descent with Nesterov momentum and weight decay, the rate up over a fifth of the steps and then
linearly to 0, random crops and mirror images, convolutions in bfloat16 and channels last.  The examples are those
that a run with the same split trains on: its validation examples are not among them.  Goes on from OUT.checkpoint.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import pyro_compress as pc
from pyro_compress.data.augmentation import Augmentation
from pyro_compress.data.splits import batch_sizes, batches
from pyro_compress.models.networks import build
from pyro_compress.models.precision import called, networks_in


def main() -> None:
    """Train, print error and seconds of every epoch, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--rate", type=float, default=0.2, help="the largest")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--shift", type=int, default=4)
    parser.add_argument("--no-flip", dest="flip", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    data = pc.data.load(options.data)
    change = Augmentation(shift=options.shift, flip=options.flip)
    network = build(options.network).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=options.weight_decay
    )
    steps_per_epoch = len(batch_sizes(data.N, options.batch_size))
    total = options.epochs * steps_per_epoch
    kept, start = options.out.with_suffix(".checkpoint"), 0
    if kept.exists():
        state = torch.load(kept)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]
    for epoch in range(start, options.epochs):
        began, wrong = time.process_time(), 0
        network.train()
        shuffled = batches(data.train_x, data.train_y, options.batch_size, options.seed, epoch)
        for number, (images, y) in enumerate(shuffled):
            done = (epoch * steps_per_epoch + number) / total
            optimizer.param_groups[0]["lr"] = options.rate * min(done / 0.2, (1 - done) / 0.8)
            x = change.draw(images, options.seed, epoch, number)
            optimizer.zero_grad()
            with networks_in("bfloat16"):
                outputs = called(partial(network, x.contiguous(memory_format=torch.channels_last)), x.device)
            F.cross_entropy(outputs, y).backward()
            optimizer.step()
            wrong += int((outputs.argmax(1) != y).sum())
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, kept)
        print(
            f"epoch {epoch + 1} of {options.epochs}: training {100 * wrong / data.N:.2f} % wrong, "
            f"validation {error(network, data.validation_x, data.validation_y):.2f} %, "
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, options.out)
    print(f"test {error(network, data.test_x, data.test_y):.2f} % wrong; weights in {options.out}")


@torch.no_grad()
def error(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Percent of examples that are wrong, in float32."""
    network.eval()
    wrong = sum(int((network(a).argmax(1) != b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return 100 * wrong / len(x)


if __name__ == "__main__":
    main()
