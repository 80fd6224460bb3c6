"""Probabilities at temperatures below and above 1: figure of docs/distillation.md.

    python -m benchmarks.sharpening FOLDER

Above, a distribution over ten classes at three temperatures.  Below, test images, what an autoencoder that was fitted
for three epochs makes of them, and the same with every pixel's probability of being black at temperature 0.6.
"""

import sys
from pathlib import Path
from typing import Any

import torch

import pyro_compress as pc
from pyro_compress.report.drawing import COLOURS, label, label_image, new_figure

TEMPERATURE, IMAGES = 0.6, 8


def main(folder: Path) -> None:
    """The figure, and the mean entropy of a pixel before and after."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = pc.data.load("mnist").reconstructing()
    model = pc.BayesianNetwork(pc.models.autoencoder_mnist(), {}, pc.models.Bernoulli(soft_targets=True))
    posterior = pc.fit(model, data, pc.inference.MAP(epochs=3, batch_size=64), seed=0)
    black = pc.inference.predictive_mean(model, posterior, data.test_x)
    pixels = torch.stack([black, 1 - black], -1)
    sharp = pc.models.at_temperature(pixels, TEMPERATURE)
    for name, value in (("as it is", pixels), (f"T = {TEMPERATURE}", sharp)):
        square = float((value[..., 0] - data.test_y).square().mean())
        entropy = float(torch.special.entr(value).sum(-1).mean())
        print(f"{name}: {entropy:.4f} nats of entropy per pixel, squared error {square:.5f}")

    figure = new_figure(7.0, "Softmax at a temperature")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    above, below = parts
    p = torch.tensor([0.02, 0.01, 0.05, 0.22, 0.01, 0.45, 0.03, 0.01, 0.17, 0.03])
    axes = above.subplots()
    for place, (temperature, colour) in enumerate(zip((TEMPERATURE, 1.0, 4.0), COLOURS, strict=False)):
        heights = pc.models.at_temperature(p, temperature)
        axes.bar(torch.arange(10) + 0.28 * (place - 1), heights, 0.26, color=colour, label=f"T = {temperature:g}")
    axes.set_xticks(range(10))
    label(axes, "a distribution over ten classes", "class", "probability")
    axes.legend()
    rows = {"original": data.test_y, "reconstruction": black, f"at T = {TEMPERATURE}": sharp[..., 0]}
    for line, (name, images) in zip(below.subplots(3, IMAGES), rows.items(), strict=True):
        for axes, image in zip(line, images, strict=False):
            label_image(axes, "", name if axes is line[0] else "")
            axes.imshow(image.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
    figure.savefig(folder / "sharpening.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
