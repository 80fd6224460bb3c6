"""ONNX models whose activations are 8-bit integers: what they compute, and what runtimes make of them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import pyro_compress as pc
from pyro_compress import data
from pyro_compress.artifact.runtimes.numpy_runtime import forward
from pyro_compress.artifact.runtimes.onnx_int8 import outputs, to_onnx_int8
from pyro_compress.errors import ArtifactError
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, ChannelAffine, Conv2d, Linear
from pyro_compress.network.quantizers import Uniform
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from pyro_compress.pipeline.as_layers import as_it_is
from tests.artifact.runnable import examples, runnable

GENERATOR = np.random.default_rng(0)


def integers(*shape: int, most: int = 20, step: float = 0.25) -> StoredTensor:
    return StoredTensor(GENERATOR.integers(-most, most + 1, shape).astype(np.int32), Uniform(step))


def operators(model: bytes, tmp_path: Path) -> list[str]:
    """What onnxruntime runs, after it has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def constants(model: bytes) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer}


def test_inputs_on_the_grid_give_exact_sums(tmp_path: Path) -> None:
    # of one layer nothing is rounded but the input, and that is on its grid: steps of 1/2 from -20 to 107.5
    network = StoredNetwork(
        Architecture((6,), (Linear("fc", 6, 4, bias=True),)),
        {"fc.weight": integers(4, 6), "fc.bias": StoredTensor(floats=np.array([0.125, -3.5, 7.0, 0.0], np.float32))},
    )
    x = (GENERATOR.integers(0, 256, (300, 6)) / 2 - 20).astype(np.float32)
    x[0] = -20
    x[1] = 107.5
    model = to_onnx_int8(network, x)
    np.testing.assert_array_equal(outputs(model, x), forward(network)(x))
    found = constants(model)
    assert found["input.scale"] == 0.5 and found["input.zero_point"] == 40
    assert found["layer0.bias.integers"].dtype == np.int32
    assert operators(model, tmp_path) == ["QuantizeLinear", "QGemm"]


def test_what_lies_outside_of_the_examples_is_cut_off() -> None:
    network = StoredNetwork(
        Architecture((2,), (Linear("fc", 2, 2, bias=False),)),
        {"fc.weight": StoredTensor(np.eye(2, dtype=np.int32), Uniform(1.0))},
    )
    model = to_onnx_int8(network, np.array([[-1.0, 1.55]], np.float32))
    np.testing.assert_allclose(outputs(model, np.array([[9.0, -9.0]], np.float32)), [[1.55, -1.0]], rtol=1e-6)


@pytest.fixture
def scaled() -> StoredNetwork:
    """Scales of all signs behind a convolution."""
    layers = (
        Conv2d("conv", 2, 3, (3, 3), (1, 1), (0, 0), (1, 1), 1, bias=False),
        ChannelAffine("bn", 3),
        Activation("relu"),
        Conv2d("last", 3, 2, (1, 1), (1, 1), (0, 0), (1, 1), 1, bias=True),
    )
    tensors = {
        "conv.weight": integers(3, 2, 3, 3),
        "bn.scale": StoredTensor(floats=np.array([0.5, -1.25, 0.0], np.float32)),
        "bn.shift": StoredTensor(floats=np.array([0.1, 2.0, 0.75], np.float32)),
        "last.weight": integers(2, 3, 1, 1),
        "last.bias": integers(2),
    }
    return StoredNetwork(Architecture((2, 6, 6), layers), tensors)


def test_scales_and_shifts_go_into_the_layer_before_and_clipping_into_the_grid(
    scaled: StoredNetwork, tmp_path: Path
) -> None:
    x = examples(scaled, 200)
    model = to_onnx_int8(scaled, x)
    expected, found = forward(scaled)(x), outputs(model, x)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert {"Mul", "Add", "Relu"}.isdisjoint(operators(model, tmp_path))
    held = constants(model)
    np.testing.assert_array_equal(held["conv.weight.step"], np.array([0.125, 0.3125, 1.0], np.float32))
    signs = np.array([1, -1, 0]).reshape(3, 1, 1, 1)
    given = scaled.tensors["conv.weight"].integers
    assert given is not None
    np.testing.assert_array_equal(held["conv.weight.integers"], given * signs)


@pytest.mark.parametrize(
    "name", ["every layer", "residual", "combined", "steps", "levels", "curves", "attention", "again"]
)
def test_models_of_all_layers_are_near_those_of_float32(name: str) -> None:
    network = runnable(name)
    x = examples(network, 64)
    expected, found = forward(network)(x), outputs(to_onnx_int8(network, x), x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_scales_are_single_numbers_as_average_pooling_wants_them() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 2)).eval()
    network, x = as_it_is(module, (2, 6, 6)), np.random.default_rng(0).normal(size=(64, 2, 6, 6)).astype(np.float32)
    expected, found = forward(network)(x), outputs(to_onnx_int8(network, x), x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_biases_behind_what_is_always_zero_stay_as_they_are() -> None:
    layers = (Linear("first", 3, 4, bias=True), Activation("relu"), Linear("last", 4, 2, bias=True))
    bias = np.array([0.3, -0.4], np.float32)
    tensors = {
        "first.weight": integers(4, 3),
        "first.bias": StoredTensor(floats=np.full(4, -100.0, np.float32)),
        "last.weight": integers(2, 4),
        "last.bias": StoredTensor(floats=bias),
    }
    x = GENERATOR.normal(size=(20, 3)).astype(np.float32)
    model = to_onnx_int8(StoredNetwork(Architecture((3,), layers), tensors), x)
    np.testing.assert_array_equal(outputs(model, x), np.tile(bias, (20, 1)))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4)])
def test_means_that_are_zero_but_for_rounding_can_be_run(pool: nn.Module) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4), pool, nn.Flatten(), nn.Linear(4, 3)).eval()
    network, x = as_it_is(module, (2, 4, 4)), np.random.default_rng(0).normal(size=(64, 2, 4, 4)).astype(np.float32)
    expected, found = forward(network)(x), outputs(to_onnx_int8(network, x), x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["lenet-5/log-uniform", "lenet-300-100/log-uniform"])
def test_error_on_mnist_is_that_of_float32(name: str, mnist_dir: Path, tmp_path: Path) -> None:
    found, network = data.load("mnist", mnist_dir), pc.load(name).network
    model = to_onnx_int8(network, found.train_x[:512].numpy())
    wrong = (outputs(model, found.test_x.numpy()).argmax(1) != found.test_y.numpy()).mean()
    exact = (forward(network)(found.test_x.numpy()).argmax(1) != found.test_y.numpy()).mean()
    assert abs(wrong - exact) <= 0.0015
    run = operators(model, tmp_path)
    assert "QGemm" in run and ("QLinearConv" in run) == name.startswith("lenet-5") and "Gemm" not in run


def test_what_ranges_cannot_be_taken_on() -> None:
    network = runnable("steps")
    with pytest.raises(ArtifactError, match=r"ranges are taken on examples of shape \(n > 0, .*\), but \(3, 99\) was"):
        to_onnx_int8(network, np.zeros((3, 99), np.float32))
    x = examples(network, 2)
    x[0].flat[0] = np.inf
    with pytest.raises(ArtifactError, match="is not finite on the examples"):
        to_onnx_int8(network, x)
