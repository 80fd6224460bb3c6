"""Sparse tensors in torch: the same outputs, and only for large layers that are mostly zero."""

import numpy as np
import pytest
import torch
from torch import nn

from pyro_compress.artifact.runtimes.torch_modules import SparseLinear
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact.runnable import TOLERANCE, examples, in_torch, normal


def network(share: float, bias: bool) -> StoredNetwork:
    """512 → 300 → 20 with this share of weights that are not zero."""
    made = normal(Architecture((512,), (Linear("a", 512, 300, bias), Activation("tanh"), Linear("b", 300, 20, bias))))
    random = np.random.default_rng(2)
    tensors = {
        name: StoredTensor(floats=tensor.dense() * np.float32(random.random(tensor.shape) < share))
        if name.endswith("weight")
        else tensor
        for name, tensor in made.tensors.items()
    }
    return StoredNetwork(made.architecture, tensors)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.04, 0.5])
def test_outputs_are_those_of_dense_layers(share: float, bias: bool) -> None:
    stored = network(share, bias)
    module, x = to_torch(stored, sparse=True), examples(stored, 5)
    kinds = [type(layer) for layer in module]
    assert kinds == [SparseLinear if share < 0.05 else nn.Linear, nn.Tanh, nn.Linear]
    expected = in_torch(stored, x)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1, float(np.abs(expected).max())))
    assert not [layer for layer in to_torch(stored) if isinstance(layer, SparseLinear)]


def test_a_file_is_run_with_sparse_layers_on_request() -> None:
    artifact = Artifact.of(network(0.03, True))
    x = torch.from_numpy(examples(artifact.network, 5))
    with torch.no_grad():
        torch.testing.assert_close(artifact.to_torch(sparse=True)(x), artifact.to_torch()(x))
    assert isinstance(artifact.to_torch(sparse=True)[0], SparseLinear)
    assert isinstance(artifact.to_torch()[0], nn.Linear)


def test_a_sparse_layer_says_what_it_holds() -> None:
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    layer = SparseLinear(weight, torch.tensor([1.0, -1.0]))
    assert str(layer) == "SparseLinear(in_features=3, out_features=2, nonzero=1)"
    torch.testing.assert_close(layer(torch.ones(4, 3)), torch.tensor([[3.0, -1.0]]).expand(4, 2))
