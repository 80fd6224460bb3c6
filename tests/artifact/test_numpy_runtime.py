"""The forward pass in numpy gives what torch gives, and needs nothing but numpy and the entropy coder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_compress import data
from pyro_compress.artifact.runtimes import numpy_runtime
from pyro_compress.artifact.runtimes.numpy_runtime import averages, forward, load
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, AdaptiveAvgPool2d, Linear
from pyro_compress.network.sequence_layers import Embedding
from tests.analysis.decisions import masked_networks
from tests.artifact import networks
from tests.artifact.runnable import RUNNABLE, TOLERANCE, assert_close, examples, in_torch, normal, runnable
from tests.artifact.test_round_trip import layers_on

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", RUNNABLE)
def test_outputs_are_those_of_torch(name: str) -> None:
    network = runnable(name)
    x = examples(network, 3)
    assert_close(forward(network)(x), in_torch(network, x))


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_outputs_on_mnist_are_those_of_torch(name: str, mnist_dir: Path) -> None:
    network = runnable(name)
    x = data.load("mnist", mnist_dir).test_x[:1000].numpy()
    assert_close(forward(network)(x), in_torch(network, x))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_outputs_of_random_networks_are_those_of_torch(drawn: st.DataObject) -> None:
    shape = drawn.draw(st.sampled_from([(5,), (12,), (2, 6, 5), (1, 9, 9), (3, 1, 1)]))
    network = normal(Architecture(shape, drawn.draw(layers_on(shape))))
    # what is no input is no tokens
    assume(
        sum(isinstance(layer, Embedding) for layer in network.architecture.layers)
        <= (network.architecture.tokens is not None)
    )
    x, shapes = examples(network, 4), network.architecture.shapes()
    found = forward(network)(x)
    assert found.dtype == np.float32 and found.shape == (4, *shapes[-1])
    if any(0 in shape for shape in shapes):
        return  # torch has no pooling and no convolution of nothing
    expected = masked_networks.run(network, torch.from_numpy(x)).numpy()
    scale = float(np.abs(expected).max(initial=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("kind", ["gelu", "sigmoid", "silu", "softplus", "tanh", "elu", "mish", "hardswish"])
def test_activations_far_from_zero(kind: str) -> None:
    network = normal(Architecture((401,), (Activation(kind, 1.0),)))
    x = np.linspace(-100, 100, 401, dtype=np.float32)[None]
    reference = getattr(F, kind, None) or getattr(torch, kind)
    expected = reference(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(forward(network)(x), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize(("extent", "count"), [(7, 3), (4, 4), (3, 5), (8, 1)])
def test_adaptive_averages(extent: int, count: int) -> None:
    expected = F.adaptive_avg_pool1d(torch.eye(extent)[None], count)[0].T
    np.testing.assert_allclose(averages(extent, count), expected.numpy(), rtol=1e-6)
    network = normal(Architecture((2, extent, 6), (AdaptiveAvgPool2d((count, 4)),)))
    x = examples(network, 3)
    assert_close(forward(network)(x), in_torch(network, x))


def test_the_result_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network = runnable("digits-cnn")
    x = examples(network, 7)
    whole = forward(network)(x)
    monkeypatch.setattr(numpy_runtime, "PIECE_NUMBERS", 3 * 16 * 64)  # fewer examples at once than there are
    np.testing.assert_allclose(forward(network)(x), whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(numpy_runtime, "PIECE_NUMBERS", 1)
    np.testing.assert_allclose(forward(network)(x), whole, rtol=1e-5, atol=1e-6)


def test_any_numbers_and_no_examples_are_taken() -> None:
    run = forward(networks.dense())
    x = np.arange(128).reshape(2, 1, 8, 8) % 5
    np.testing.assert_array_equal(run(x), run(x.astype(np.float32)))
    np.testing.assert_array_equal(run(x.tolist()), run(x.astype(np.float64)))
    assert run(np.zeros((0, 1, 8, 8))).shape == (0, 5)


def test_the_input_and_the_network_stay_as_they_are() -> None:
    network = networks.conv()
    x = examples(network, 2)
    before, first = x.copy(), forward(network)(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(forward(network)(x), first)
    networks.assert_same(network, networks.conv())


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 64), (2, 1, 8, 9), ()])
def test_inputs_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"takes an array of shape \(batch, 1, 8, 8\), but .* was given"):
        forward(networks.dense())(np.zeros(shape))


@pytest.mark.parametrize("name", ["conv", "residual", "combined"])
def test_torch_takes_no_other_size(name: str) -> None:
    network = getattr(networks, name)()
    shape, module = network.architecture.input_shape, to_torch(network)
    for other in ((2, *shape[:-1], 2 * shape[-1]), shape, ()):
        with pytest.raises(
            ArtifactError, match=rf"takes an array of shape \(batch, {', '.join(map(str, shape))}\), but"
        ):
            module(torch.zeros(other))
    assert module(torch.zeros(2, *shape)).shape == (2, *network.architecture.shapes()[-1])
    # a part may stand anywhere
    assert len(nn.Sequential(*module)) == len(module)


def test_torch_takes_other_shapes_where_they_are_the_same_examples() -> None:
    network = networks.dense()
    x = torch.from_numpy(examples(network, 3))
    torch.testing.assert_close(to_torch(network)(x.flatten(1)), to_torch(network)(x))
    with pytest.raises(ArtifactError, match=r"takes an array of shape \(batch, 1, 8, 8\), but \(3, 63\) was given"):
        to_torch(network)(torch.zeros(3, 63))
    layers = normal(Architecture((3,), (Linear("a", 3, 4, True), Activation("relu"), Linear("b", 4, 2, True))))
    x = torch.randn(5, 7, 3)
    torch.testing.assert_close(to_torch(layers)(x)[:, 1], to_torch(layers)(x[:, 1]))


def test_loading(tmp_path: Path) -> None:
    path = Artifact.of(networks.dense()).save(tmp_path / "dense.pyrc")
    x = examples(networks.dense(), 2)
    np.testing.assert_array_equal(load(path)(x), forward(networks.dense())(x))
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.pyrc: No such file"):
        load(tmp_path / "none.pyrc")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"dense\.pyrc: the file is truncated"):
        load(str(path))


def test_a_file_runs_where_nothing_but_numpy_and_the_entropy_coder_is_imported() -> None:
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        "import numpy\nfrom pyro_compress.artifact.runtimes.numpy_runtime import load\n"
        f"outputs = load({str(GOLDEN / 'conv.pyrc')!r})(numpy.ones((2, 3, 16, 12)))\n"
        "assert outputs.shape == (2, 3), outputs.shape\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"pyro_compress", "numpy", "constriction"}


def test_tokens_are_whole_numbers_that_there_are() -> None:
    network = normal(Architecture((3,), (Embedding("embed", 5, 2),)))
    assert forward(network)(np.array([[0.0, 4.0, 1.0]])).shape == (1, 2, 1, 3)
    for odd in (1.7, -1.0, 5.0):
        x = np.array([[0.0, 4.0, odd]])
        for run in (forward(network), lambda x: to_torch(network)(torch.from_numpy(x))):
            with pytest.raises(ArtifactError, match=f"tokens are whole numbers from 0 to 4, found .* to {x.max()}"):
                run(x)
