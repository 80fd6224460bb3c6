"""Whether a teacher helps at equal bytes: table and figure of docs/distillation.md.

    python -m benchmarks.teacher_bytes digits --image FOLDER
    python -m benchmarks.teacher_bytes mnist --teacher RUN --image FOLDER

One Bayesian student, fitted, pruned, rounded and fine-tuned with a teacher and without; each rate weight gives a file
whose bytes are counted and whose decoded network is tested.  RUN is a folder of `pyro-compress fit mnist-cnn/none`.
"""

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyro_compress as pc
from pyro_compress.data.dataset import DataSet
from pyro_compress.pipeline.teachers import Teacher
from pyro_compress.report.drawing import BLUE, VERMILION, label, new_figure

WEIGHT, TEMPERATURE = 0.9, 4.0


@dataclass(frozen=True)
class Study:
    """What is held fixed: student, prior, the fit's options, the decision's, and the rate weights of the curve."""

    network: str
    prior: str
    method: dict[str, Any]
    decision: dict[str, Any]
    rate_weights: tuple[float, ...]
    seeds: tuple[int, ...]


STUDIES = {
    "digits": Study(
        "digits-mlp",
        "log-uniform",
        {"epochs": 60, "batch_size": 64, "kl_weight": 0.1},
        {"fine_tune_epochs": 10, "fine_tune_batch_size": 64, "tolerance_points": 0.5},
        (0.05, 0.2, 0.5, 1.0),
        (0, 1, 2),
    ),
    "mnist": Study(
        "lenet-300-100",
        "group-horseshoe",
        {"epochs": 10, "batch_size": 128, "kl_weight": 0.1},
        {"fine_tune_epochs": 5, "refine": False},
        (0.02, 0.05, 0.1, 0.2),
        (0,),
    ),
}
Point = tuple[int, float, float]


def main() -> None:
    """A row per file as it comes, then the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=STUDIES)
    parser.add_argument("--teacher", help="of mnist: the run directory of a classifier")
    parser.add_argument("--seeds", type=int, nargs="+", help="the study's own if not given")
    parser.add_argument("--image", type=Path, help="folder of the figure")
    given = parser.parse_args()
    torch.set_num_threads(1)
    study, data = STUDIES[given.data], pc.data.load(given.data)
    teacher = given.teacher or digits_teacher(data)
    print("| taught | seed | γ | bytes | test error, % | nats per example | processor s |\n" + "| --- " * 7 + "|")
    curves: dict[str, list[Point]] = {"alone": [], f"taught, λ = {WEIGHT}, T = {TEMPERATURE:g}": []}
    for seed in given.seeds or study.seeds:
        for (name, points), weight in zip(curves.items(), (0.0, WEIGHT), strict=True):
            points += curve(name, study, data, teacher if weight else None, seed)
    if given.image:
        draw(curves, study, given.data, given.image / f"teacher_bytes_{given.data}.png")


def digits_teacher(data: DataSet) -> Teacher:
    """The convolutional network by maximum likelihood."""
    torch.manual_seed(0)
    model = pc.BayesianNetwork(pc.models.digits_cnn(), {})
    return model, pc.fit(model, data, pc.inference.MAP(epochs=30, batch_size=64), seed=0)


def curve(name: str, study: Study, data: DataSet, teacher: Teacher | None, seed: int) -> list[Point]:
    """(bytes, error in percent, nats per example) of the file at each rate weight; prints them."""
    start = time.process_time()
    torch.manual_seed(seed)
    network = pc.models.build(study.network)
    model = pc.BayesianNetwork(network, study.prior, teacher_weight=WEIGHT, temperature=TEMPERATURE)
    taught = data if teacher is None else pc.with_teacher(data, teacher, model)
    posterior = pc.fit(model, taught, pc.inference.SVI(**study.method), seed=seed)
    points = []
    for gamma in study.rate_weights:
        # every file counts: the last stage is kept whatever it costs
        settings = pc.DecisionSettings(rate_weights=(gamma,), stage_tolerance_points=100.0, **study.decision)
        decision = pc.decide(posterior, copy.deepcopy(model), taught, settings, seed=seed)
        artifact = pc.compress(model, decision, data.input_shape)
        with torch.no_grad():
            output = artifact.to_torch()(data.test_x)
        error = 100 * float((output.argmax(1) != data.test_y).float().mean())
        points.append((len(artifact), error, float(nn.functional.cross_entropy(output, data.test_y))))
        print(f"| {name} | {seed} | {gamma} | {points[-1][0]:,} | {error:.2f} | {points[-1][2]:.4f} | "
              f"{time.process_time() - start:.0f} |", flush=True)  # fmt: skip
        start = time.process_time()
    return points


def draw(curves: dict[str, list[Point]], study: Study, data: str, path: Path) -> None:
    """Error and nats against bytes, one line per seed."""
    figure = new_figure(4.5, f"{study.network} under {study.prior} on {data}: decoded files with and without a teacher")
    for axes, place, title in zip(
        figure.subplots(1, 2), (1, 2), ("test error, %", "test nats per example"), strict=True
    ):
        label(axes, title, "bytes of the file")
        for (name, points), colour, marker in zip(curves.items(), (BLUE, VERMILION), "os", strict=True):
            count = len(study.rate_weights)
            for first in range(0, len(points), count):
                line = sorted(points[first : first + count])
                sizes, heights = [point[0] for point in line], [point[place] for point in line]
                axes.plot(sizes, heights, color=colour, marker=marker, alpha=0.8, label=None if first else name)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
