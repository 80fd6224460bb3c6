"""Saving, loading and running: files are written whole or not at all, and the module computes what was stored."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.artifact.writing.encode import encode
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import ACTIVATIONS, Activation
from pyro_compress.network.stored import StoredNetwork
from tests.analysis.decisions import masked_networks
from tests.artifact import networks
from tests.artifact.runnable import SLOPES


def test_save_and_load(tmp_path: Path) -> None:
    artifact = Artifact.of(networks.dense())
    path = artifact.save(tmp_path / "dense.pyrc")
    assert path.stat().st_size == len(artifact)
    assert load(path).data == artifact.data
    assert os.listdir(tmp_path) == ["dense.pyrc"]
    networks.assert_same(load(path).network, networks.dense())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Artifact.of(networks.dense()).save(tmp_path / "net.pyrc")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*net\.pyrc: No space left on device"):
        Artifact.of(networks.conv()).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.pyrc"]


def test_saving_under_another_extension(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"end in \.pyrc, 'net\.bin' does not"):
        Artifact.of(networks.dense()).save(tmp_path / "net.bin")


def test_loading_what_is_not_there_or_not_valid(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.pyrc: No such file"):
        load(tmp_path / "none.pyrc")
    (tmp_path / "text.pyrc").write_text("hello")
    with pytest.raises(ArtifactError, match=r"text\.pyrc: not a compressed network"):
        load(tmp_path / "text.pyrc")


def values(network: StoredNetwork, name: str) -> torch.Tensor:
    return torch.from_numpy(network.tensors[name].dense().copy())


def test_the_module_of_a_dense_network() -> None:
    network = networks.dense()
    module = Artifact.of(network).to_torch()
    x = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = [i for i in range(64) if (i * 37) % 64 > 12]
    hidden = F.relu(F.linear(x.flatten(1)[:, kept], values(network, "fc1.weight"), values(network, "fc1.bias")))
    torch.testing.assert_close(module(x), F.linear(hidden, values(network, "fc2.weight")))
    assert not module.training


def test_the_module_of_a_convolutional_network() -> None:
    network = networks.conv()
    module = Artifact.of(network).to_torch()
    x = torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    y = F.conv2d(x[:, [0, 2]], values(network, "features.0.weight"), padding=1)
    y = y * values(network, "features.1.scale")[:, None, None] + values(network, "features.1.shift")[:, None, None]
    y = F.max_pool2d(F.leaky_relu(y, 0.2), 2)
    y = F.conv2d(
        y,
        values(network, "features.4.weight"),
        values(network, "features.4.bias"),
        stride=(2, 1),
        padding=(0, 1),
        dilation=(2, 1),
        groups=2,
    )
    y = F.adaptive_avg_pool2d(F.avg_pool2d(F.elu(y), 2, stride=1, padding=1), (3, 2)).flatten(1)[:, 1::2]
    y = F.softplus(F.linear(y, values(network, "größe.weight"), values(network, "größe.bias")))
    torch.testing.assert_close(module(x), y)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str) -> None:
    slope = SLOPES.get(kind, 0.0)
    module = Artifact(encode(StoredNetwork(Architecture((5,), (Activation(kind, slope),)), {}))).to_torch()
    x = torch.linspace(-2, 2, 5)[None]
    torch.testing.assert_close(module(x), masked_networks.ACTIVATIONS[kind](x, slope))


def test_the_module_can_be_trained_further() -> None:
    module = Artifact.of(networks.dense()).to_torch()
    module(torch.ones(1, 1, 8, 8)).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert gradients and all(gradient is not None for gradient in gradients)


def test_the_decoded_arrays_are_the_callers_own() -> None:
    artifact = Artifact.of(networks.dense())
    module = artifact.to_torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    integers = artifact.network.tensors["fc1.weight"].integers
    assert integers is not None and np.count_nonzero(integers)
