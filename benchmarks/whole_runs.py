"""Fits and runs of zoo entries from start to end, against as many epochs of plain training: rows of `training_cost`."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.memory import images
from benchmarks.plain import candidates
from benchmarks.timing import Paired, Turns, row
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.named import load
from pyro_compress.data.splits import batches
from pyro_compress.inference.fit import fit
from pyro_compress.inference.loop.records import EpochRecord
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.networks import NETWORKS
from pyro_compress.pipeline.settings import settings_from_entry

SHRINKING = ("lenet-300-100/group-horseshoe", "lenet-300-100/log-uniform")


class PlainTraining:
    """A registered network that is trained plainly, an epoch at a time, in the fastest way of `benchmarks.plain`.

    Attributes:
        how: that way, found by steps on a batch of random images.
        seconds: of every epoch; those that compile come first and are not among them.
    """

    def __init__(self, network: str, data: DataSet) -> None:
        entry, self._data, self._done = NETWORKS[network], data, 0
        ways = dict(candidates(entry.factory))
        batch = images(128, *entry.input_shape)
        self.how = Turns.of({how: partial(way.step, *batch) for how, way in ways.items()}, 10).fastest(ways)
        self._training = ways[self.how]
        self.seconds: list[float] = []
        self.run(1)
        self.seconds.clear()

    def run(self, epochs: int) -> None:
        """Some more epochs, each timed."""
        for _ in range(epochs):
            started = time.perf_counter()
            for x, y in batches(self._data.train_x, self._data.train_y, 128, 0, self._done):
                self._training.step(x, y)
            self._done += 1
            self.seconds.append(time.perf_counter() - started)


def shrinking_row(entry: str) -> str:
    """The fit of an entry, which shrinks as it goes, against as many plain epochs, in turns; compiling counts."""
    settings = settings_from_entry(entry, threads=torch.get_num_threads())
    method, data = settings.build_method(), load(settings.data)
    plain_training = PlainTraining(settings.network, data)
    model = BayesianNetwork(NETWORKS[settings.network].factory(), settings.build_prior())
    units: list[str] = []

    def after_epoch(record: EpochRecord, state: Any) -> None:
        layers = [layer for layer in state.model.network.modules() if isinstance(layer, nn.Linear)]
        units[:] = [str(layer.in_features) for layer in layers]
        plain_training.run(1)

    started = time.perf_counter()
    fit(model, data, method, callbacks=[after_epoch])
    base = sum(plain_training.seconds)
    seconds = time.perf_counter() - started - base
    what = f"{entry}: fit of {method.rounds} epochs that ends at {'-'.join(units)}, compiling included"
    found = Paired(1e3 * seconds, 1e3 * base, seconds / base)
    return row(what, found, f"plain, {plain_training.how}, as many epochs", "≤ 2.0")


def whole_row(entry: str, out: Path) -> Iterable[str]:
    """An entry from start to file, and plain training for as many epochs on the same data.

    Args:
        entry: what is run.
        out: the run's folder; that of the run before is taken away.
    """
    settings = settings_from_entry(entry, threads=torch.get_num_threads())
    method, decision = settings.build_method(), settings.build_decision()
    stages = decision.fine_tune_epochs * len(decision.rate_weights) if decision.fine_tune_epochs else 0
    epochs = settings.pretrain_epochs + method.rounds + stages
    plain_training = PlainTraining(settings.network, load(settings.data))
    plain_training.run(2)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pyro_compress", "run", entry, "--out", str(out)]
    started = time.perf_counter()
    subprocess.run([*command, "--threads", str(torch.get_num_threads())], check=True)
    seconds = time.perf_counter() - started
    plain_training.run(2)
    results = json.loads((out / "results.json").read_text())
    what = (
        f"{entry}, whole run of {epochs} epochs at most, evaluation included: {results['error_after_percent']:.2f} %, "
        f"{results['file_bytes']:,} bytes"
    )
    base = median(plain_training.seconds) * epochs
    found = Paired(1e3 * seconds, 1e3 * base, seconds / base)
    yield row(what, found, f"plain, {plain_training.how}, as many epochs", "≤ 1.0")
