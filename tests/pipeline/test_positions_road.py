"""A label per position on the road: from `run` to a file whose results are of positions and of whole examples."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_compress as pc
from pyro_compress.artifact.writing.artifact import load as load_artifact
from pyro_compress.data.labels import IGNORED
from tests.pipeline.conftest import cli, draw_nothing

MODULE = """
import torch
from torch import nn

from pyro_compress.data import as_data


def net():
    return nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 3, 3, padding=1))


def _part(count, seed):
    x = torch.randn(count, 1, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool1d(x, 3, 1, 1, count_include_pad=False)[:, 0]
    y = (smooth > -0.3).long() + (smooth > 0.3).long()
    y[::3, :4] = -100
    return x, y


def data():
    return as_data(_part(300, 0), validation=_part(100, 1), test=_part(200, 2), name="lines", classes=3)
"""


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lines")
    (folder / "lines.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr("pyro_compress.pipeline.evaluation.save_all", draw_nothing)
        called = cli(
            *("run", "--network", "lines:net", "--data", "lines:data", "--prior", "log-uniform", "--epochs", 6),
            *("--set", "method.learning_rate=0.03", "--set", "method.batch_size=30", "--threads", 1),
            *("--set", "decision.fine_tune_epochs=1", "--set", "decision.rate_weights=[1.0]", "--out", folder / "run"),
        )
        assert called.code == 0, called.err
        assert "mean intersection over union" in called.out
        yield folder / "run"
    sys.modules.pop("lines", None)


def test_results_are_of_the_decoded_file_position_by_position(run: Path) -> None:
    found = json.loads((run / "results.json").read_text())
    x, y = sys.modules["lines"]._part(200, 2)
    network = load_artifact(run / "network.pyrc").to_torch().eval()
    with torch.no_grad():
        output = network(x)
    labels, known = output.argmax(1), y != IGNORED
    wrong = (labels != y) & known
    assert found["error_after_percent"] == pytest.approx(100 * float((wrong.sum(1) / known.sum(1)).mean()), rel=1e-5)
    scores = found["positions"]
    nats = float(torch.nn.functional.cross_entropy(output.double(), y, ignore_index=IGNORED))
    assert scores["nll_nats"] == pytest.approx(nats, rel=1e-5)
    assert scores["bits"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert scores["per_example"] == pytest.approx(float(known.sum()) / 200)
    assert scores["error_percent"] == pytest.approx(100 * float(wrong.sum() / known.sum()), rel=1e-5)
    assert scores["error_percent"] != pytest.approx(found["error_after_percent"], rel=1e-3)
    overlaps = [((labels == k) & (y == k)).sum() / (((labels == k) | (y == k)) & known).sum() for k in range(3)]
    assert scores["mean_intersection_over_union"] == pytest.approx(float(np.mean(overlaps)), rel=1e-5)
    assert found["error_after_percent"] < 35 and 0 < found["paired_p_value"] <= 1 and "mcnemar_p_value" not in found
    assert "newly_wrong" not in found["decision"]["validation"]


def test_a_file_alone_is_measured_the_same(run: Path) -> None:
    found = pc.evaluate(run / "network.pyrc", sys.modules["lines"].data())
    of_run = json.loads((run / "results.json").read_text())
    assert found["positions"] == of_run["positions"] and found["file_bytes"] == of_run["file_bytes"]


def test_uncertainty_of_positions_sums_over_an_example(run: Path) -> None:
    called = cli("uncertainty", run, "--draws", 4)
    assert called.code == 0, called.err
    rows = json.loads((run / "uncertainty.json").read_text())["predictors"]
    assert {row["calibration_error"] for row in rows.values()} == {None}
    assert rows["posterior predictive"]["mutual_information_nats"] > 0


TABLES = """
import torch
from torch import nn

from pyro_compress.data import as_data


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places, self.out = nn.Embedding(11, 8), nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.out((self.embed(x) + self.places).mean(1))


def net():
    return Net()


def data():
    x = torch.randint(11, (90, 6), generator=torch.Generator().manual_seed(0))
    y = x[:, 0] % 4
    return as_data((x[:50], y[:50]), validation=(x[50:70], y[50:70]), test=(x[70:], y[70:]), classes=4)
"""


def test_rates_of_a_network_that_is_all_left_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings and positions are weights that are left, and none that the published rates count."""
    (tmp_path / "tokens_in_places.py").write_text(TABLES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pyro_compress.pipeline.evaluation.save_all", draw_nothing)
    called = cli(
        *("run", "--network", "tokens_in_places:net", "--data", "tokens_in_places:data", "--prior", "normal"),
        *("--inference", "map", "--epochs", 1, "--set", "decision.quantizer=float32", "--threads", 1),
        *("--out", tmp_path / "run"),
    )
    assert called.code == 0, called.err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["kind"] == "runnable" and found["weights_left_percent"] == 100
    assert found["rates"]["pruning"] == 1 and found["original_bytes"] == 4 * (88 + 48 + 36)
    sys.modules.pop("tokens_in_places", None)
