"""`pyro-compress export`: files for other programs, or one sentence."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from pyro_compress.artifact.writing.artifact import Artifact, load
from tests.artifact import networks
from tests.pipeline.conftest import Cli


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    return Artifact.of(networks.dense()).save(tmp_path / "network.pyrc")


def test_onnx(compressed: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "net.onnx"
    called = cli("export", compressed, "--to", "onnx", target)
    assert (called.code, called.out) == (0, f"{target}: {target.stat().st_size:,} bytes\n")
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((3, 1, 8, 8), np.float32)})[0].shape == (3, 5)


def test_safetensors_of_a_run_directory(compressed: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "net.safetensors"
    assert cli("export", tmp_path, "--to", "safetensors", target).code == 0
    found = load_file(target)
    for name, tensor in load(compressed).network.tensors.items():
        np.testing.assert_array_equal(found[name], tensor.dense())


def test_activations_of_8_bits(compressed: Path, tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "net.onnx"
    called = cli("export", compressed, "--to", "onnx", target, "--calibrate", "digits")
    assert called.code == 0
    first, last = called.out.splitlines()
    assert first.startswith("on 512 training examples of digits outputs differ by at most ")
    assert first.endswith("%") and "of the largest, and the largest is the same one in " in first
    assert last == f"{target}: {target.stat().st_size:,} bytes"
    assert b"QuantizeLinear" in target.read_bytes()
    called = cli("export", compressed, "--to", "safetensors", tmp_path / "x.safetensors", "--calibrate", "digits")
    assert called.code == 1 and "--calibrate is for models that compute" in called.err
    assert not (tmp_path / "x.safetensors").exists()
    before = target.read_bytes()
    called = cli("export", compressed, "--to", "onnx", target, "--calibrate", "mnist", "--data-dir", tmp_path)
    assert called.code == 1 and str(tmp_path) in called.err and "Traceback" not in called.err
    called = cli("export", "lenet-5/log-uniform", "--to", "onnx", target, "--calibrate", "digits")
    assert called.code == 1 and "ranges are taken on examples of shape (n > 0, 1, 28, 28), but" in called.err
    assert target.read_bytes() == before


def test_what_cannot_be_exported(compressed: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.pyrc").write_text("hello")
    before = compressed.read_bytes()
    for source, to, target, sentence in (
        (compressed, "onyx", "net.onnx", "unknown export format 'onyx': known are onnx, safetensors."),
        (compressed, "onnx", "network.pyrc", "files of the format onnx end in .onnx, 'network.pyrc' does not"),
        (compressed, "onnx", "none/net.onnx", "No such file or directory"),
        (tmp_path / "empty", "onnx", "net.onnx", "holds no compressed file yet"),
        (tmp_path / "bad.pyrc", "onnx", "net.onnx", "bad.pyrc: not a compressed network"),
    ):
        called = cli("export", source, "--to", to, tmp_path / target)
        assert called.code == 1
        assert sentence in called.err
        assert "Traceback" not in called.err
    assert compressed.read_bytes() == before
    assert not list(tmp_path.glob("net.*"))


def test_the_package_onnx_is_missing(
    compressed: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pyro_compress.artifact.runtimes.onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    called = cli("export", compressed, "--to", "onnx", tmp_path / "net.onnx")
    assert called.code == 1
    assert "export to onnx needs the package onnx: pip install 'pyro-compress[onnx]'" in called.err
