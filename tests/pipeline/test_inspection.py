"""`pyro-compress inspect`: the file beside other formats and beside the posterior's description length."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Linear
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.pipeline import inspection
from pyro_compress.posterior.posterior import Posterior
from tests.artifact import networks
from tests.pipeline.conftest import Cli


def test_other_formats_are_counted_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.dense()
    found = inspection.other_bytes(network)
    numbers = sum(tensor.dense().size for tensor in network.tensors.values())
    assert (found["float32"], found["float16"]) == (4 * numbers, 2 * numbers)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert inspection.other_bytes(network)["int8 and zstd -19"] is None


def test_weights_that_two_layers_share_are_counted_once() -> None:
    weight = StoredTensor(None, None, np.arange(1, 10, dtype=np.float32).reshape(3, 3))
    layers = (Linear("a", 3, 3, bias=False), Linear("b", 3, 3, bias=False))
    network = StoredNetwork(Architecture((3,), layers), {"a.weight": weight, "b.weight": weight})
    assert inspection.other_bytes(network)["float32"] == 4 * 9


def test_the_description_length_is_that_of_the_run(digits_run: Path, tmp_path: Path, cli: Cli) -> None:
    nats = Posterior.load(digits_run / "posterior.safetensors").statistics["complexity_nats"]
    found = json.loads(cli("inspect", digits_run, "--json").out)
    assert found["description_length_bits"] == pytest.approx(nats / np.log(2))
    assert "its description length: " in cli("inspect", digits_run).out
    alone = shutil.copy(digits_run / "network.pyrc", tmp_path / "alone.pyrc")
    assert "description_length_bits" not in json.loads(cli("inspect", alone, "--json").out)


def test_a_score_is_printed_and_adds_up(digits_run: Path, cli: Cli) -> None:
    found = json.loads(cli("score", digits_run, "--json").out)
    layers, reference = found["layers"], found["reference"]
    assert found["parameters"] == sum(layer["storage_bits"] for layer in layers) / 32
    assert found["operations"] == sum(layer["operation_bits"] for layer in layers) / 32
    parts = (found[part] / reference[part] for part in ("parameters", "operations"))
    assert found["score"] == pytest.approx(sum(parts)) and reference["network"] == "WideResNet-28-10"
    printed = cli("score", digits_run / "network.pyrc", "--activation-bits", "8", "--freebie").out
    assert "MicroNet score" in printed and "Conv2d conv1" in printed
    assert "unknown reference of a score 'mnist'" in cli("score", digits_run, "--reference", "mnist").err
