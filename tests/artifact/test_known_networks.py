"""The table of docs/networks.md is true, and what it says of torchvision's networks holds in every runtime."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from pyro_compress.artifact.format.decode import decode
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.writing.encode import encode
from tests.artifact.known_networks import ALWAYS, HEAD, KNOWN, row, summary
from tests.artifact.runnable import assert_close, examples, in_torch, reduced

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def table() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(HEAD) + len(HEAD) :].partition("\n\n")[0].splitlines()


def test_the_table_has_every_network() -> None:
    assert [line.split(" | ")[0].removeprefix("| ") for line in table()] == list(KNOWN)


def test_readme_sums_it_up() -> None:
    assert summary(table()) in (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ALWAYS)
def test_rows_are_true(name: str) -> None:
    assert row(name).strip() in table()


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(KNOWN.keys() - set(ALWAYS)))
def test_rows_of_large_networks_are_true(name: str) -> None:
    assert row(name).strip() in table()


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mobilenet_v3_large", "densenet121", "googlenet", "inception_v3", "regnet_y_400mf"]
)
def test_reduced_networks_run_alike_everywhere(name: str) -> None:
    make, shape = KNOWN[f"torchvision `{name}`"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = decode(encode(reduced(make(), shape)))
    x = examples(network, 2)
    expected = in_torch(network, x)
    assert_close(forward(network)(x), expected)
    session = onnxruntime.InferenceSession(to_onnx(network), providers=["CPUExecutionProvider"])
    assert_close(session.run(None, {"input": x})[0], expected)
