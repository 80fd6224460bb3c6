"""An autoencoder's codes as a teacher: table and figure of docs/distillation.md.

    python -m benchmarks.autoencoder_distillation --epochs 10 --images FOLDER

The teacher is `autoencoder-mnist-cnn`, the student `autoencoder-mnist`.  A student learns by cross-entropy +
α T² MSE(codes), α = 0.5, T = 4, both averaged: over pixels, and over the numbers of a code.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report.drawing import label_image, new_figure

ALPHA, TEMPERATURE, CODE, PIXELS = 0.5, 4.0, 128, 784
GREY = pc.models.Bernoulli(soft_targets=True)


def main() -> None:
    """Rows of the table as they come, then the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=Path, help="folder of the figure; of the first seed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, labels = pc.data.load("mnist").reconstructing(), pc.data.load("mnist").test_y
    print(f"| {' | '.join(('network', 'seed', 'λ', 'nats per image', 'squared error', 'codes', 'processor s'))} |")
    print("| --- " * 7 + "|")
    for seed in given.seeds:
        drawn = run(data, given.epochs, seed)
        if given.images and seed == given.seeds[0]:
            chosen = [int(torch.nonzero(labels == digit)[0]) for digit in range(10)]
            draw({name: images[chosen] for name, images in drawn.items()}, given.images / "autoencoders.png")


def run(data: DataSet, epochs: int, seed: int) -> dict[str, torch.Tensor]:
    """Reconstructions of the test part by who made them; prints a row for each."""
    drawn = {"original": data.test_y}
    torch.manual_seed(seed)
    model = pc.BayesianNetwork(pc.models.autoencoder_mnist_cnn(), {}, GREY)
    posterior, seconds = fitted(model, data, epochs, seed)
    teacher = network_of(model, posterior)
    encoder = teacher.get_submodule("encoder")
    drawn["teacher"] = row("teacher", seed, None, teacher, encoder, data, seconds)
    both = pc.models.matching_weight(ALPHA, TEMPERATURE, CODE, PIXELS)
    for name, weight in (("alone", 0.0), ("taught", both)):
        torch.manual_seed(seed)
        network = pc.models.autoencoder_mnist()
        student = pc.BayesianNetwork(
            network, {}, GREY, teacher_weight=weight, temperature=math.inf, hint="encoder"
        )  # fmt: skip
        taught = pc.with_teacher(data, (model, posterior), student, hidden="encoder") if weight else data
        found, seconds = fitted(student, taught, epochs, seed)
        drawn[name] = row(name, seed, weight, network_of(student, found), encoder, data, seconds)
    return drawn


def fitted(model: pc.BayesianNetwork, data: DataSet, epochs: int, seed: int) -> tuple[Posterior, float]:
    """Maximum likelihood by Adam from 10⁻³, batches of 64; seconds of processor time."""
    start = time.process_time()
    posterior = pc.fit(model, data, pc.inference.MAP(epochs=epochs, batch_size=64), seed=seed)
    return posterior, time.process_time() - start


def network_of(model: pc.BayesianNetwork, posterior: Posterior) -> nn.Module:
    """The network at the point estimate."""
    model.network.load_state_dict({name: torch.from_numpy(site.mean) for name, site in posterior.parameters.items()})
    return model.network.eval()


def row(
    name: str, seed: int, weight: float | None, network: nn.Module, teacher: nn.Module, data: DataSet, seconds: float
) -> torch.Tensor:
    """Means over test images: cross-entropy, squared error per pixel, and of codes against the teacher's per number."""
    with torch.no_grad():
        output = torch.cat([network(part) for part in data.test_x.split(1000)])
        codes = [
            torch.cat([e(part) for part in data.test_x.split(1000)])
            for e in (network.get_submodule("encoder"), teacher)
        ]
    found: torch.Tensor = output.sigmoid()
    nats = -float(GREY.log_prob(output, data.test_y).mean())
    square = float((found - data.test_y).square().mean())
    share = float((codes[0] - codes[1]).square().mean() / codes[1].square().mean())
    shown = "–" if weight is None else f"{weight:.4f}"
    print(f"| {name} | {seed} | {shown} | {nats:.1f} | {square:.5f} | {share:.3f} | {seconds:.0f} |", flush=True)
    return found


def draw(rows: dict[str, torch.Tensor], path: Path) -> None:
    """One column per image."""
    figure = new_figure(1.1 * len(rows), "Reconstructions of test images")
    grid = figure.subplots(len(rows), 10)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            label_image(axes, "", name if axes is line[0] else "")
            axes.imshow(image.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
