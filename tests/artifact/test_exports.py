"""ONNX models give what torch gives, in int8 where that is exact; safetensors files hold what was decoded."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.numpy import load

from pyro_compress import data
from pyro_compress.artifact.runtimes.onnx_export import to_onnx
from pyro_compress.artifact.runtimes.safetensors_export import to_safetensors
from pyro_compress.errors import ArtifactError
from pyro_compress.network import layers as kinds
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Activation, Linear, Recall
from pyro_compress.network.quantizers import PerChannel, Uniform, power_of_two
from pyro_compress.network.stored import StoredNetwork, StoredTensor
from tests.artifact import networks
from tests.artifact.runnable import RUNNABLE, assert_close, examples, in_torch, normal, residual, runnable


def in_onnxruntime(model: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: np.ndarray = session.run(["output"], {"input": x})[0]
    return outputs


@pytest.mark.parametrize("name", RUNNABLE)
def test_outputs_in_onnxruntime_are_those_of_torch(name: str) -> None:
    network = runnable(name)
    x = examples(network, 3)
    assert_close(in_onnxruntime(to_onnx(network), x), in_torch(network, x))


@pytest.mark.parametrize("name", ["norms", "attention", "positions", "conv"])
def test_a_batch_of_no_examples_gives_no_outputs(name: str) -> None:
    network = getattr(networks, name)()
    outputs = in_onnxruntime(to_onnx(network), examples(network, 3)[:0])
    assert outputs.shape == (0, *network.architecture.shapes()[-1])


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_outputs_on_mnist_in_onnxruntime_are_those_of_torch(name: str, mnist_dir: Path) -> None:
    network = runnable(name)
    x = data.load("mnist", mnist_dir).test_x[:1000].numpy()
    assert_close(in_onnxruntime(to_onnx(network), x), in_torch(network, x))


@pytest.mark.parametrize("name", ["lenet-5", "mobilenet_v2", "every layer"])
def test_integers_are_stored_in_as_few_bytes_as_hold_them(name: str) -> None:
    network = runnable(name)
    model = onnx.load_from_string(to_onnx(network))
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    behind_integers = set()
    for tensor_name, tensor in network.tensors.items():
        largest = 2**23 if tensor.integers is None else int(np.abs(tensor.integers).max())
        if largest >= 2**15:
            np.testing.assert_array_equal(constants[tensor_name].ravel(), tensor.dense().ravel())
            continue
        behind_integers.add(tensor_name)
        integers, step = constants[f"{tensor_name}.integers"], constants[f"{tensor_name}.step"]
        assert tensor.integers is not None
        spread = largest if largest < 2**7 else int(np.ptp(np.append(tensor.integers, 0)))
        assert integers.dtype == (np.int8 if largest < 2**7 else np.uint8 if spread < 2**8 else np.int16)
        zero = constants.get(f"{tensor_name}.zero_point", np.int8(0)).astype(np.int32)
        assert ((integers - zero).astype(np.float32) * step).tobytes() == tensor.dense().tobytes()
    assert {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"} == behind_integers
    assert len(behind_integers) >= len(network.architecture.weighted())


@pytest.mark.parametrize("name", ["uniform", "per_channel", "ternary", "shared"])
def test_every_quantizer_is_exact_and_small(name: str) -> None:
    network = getattr(networks, name)()
    model = to_onnx(network)
    x = examples(network, 3)
    assert_close(in_onnxruntime(model, x), in_torch(network, x))
    graph = onnx.load_from_string(model).graph
    for tensor_name, tensor in network.tensors.items():
        nodes = {node.output[0]: node for node in graph.node}
        small = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        if tensor_name in nodes and nodes[tensor_name].op_type == "Gather":
            held = small[f"{tensor_name}.levels"][small[f"{tensor_name}.places"]]
        elif tensor_name in nodes:
            integers, step = small[f"{tensor_name}.integers"], small[f"{tensor_name}.step"]
            held = integers * step.reshape(-1, *(1,) * (integers.ndim - 1))
        else:
            assert tensor.integers is None
            continue
        assert held.dtype == np.float32 and held.ravel().tobytes() == tensor.dense().ravel().tobytes()
    kinds = {node.op_type for node in graph.node}
    assert ("Gather" in kinds) == (name in ("ternary", "shared"))
    floats = {name: StoredTensor(floats=tensor.dense()) for name, tensor in network.tensors.items()}
    assert len(model) < 0.75 * len(to_onnx(StoredNetwork(network.architecture, floats)))


@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_about_a_zero_point_are_bytes(per_channel: bool) -> None:
    """−200 … 55 in one tensor, or other 256 integers in every channel."""
    random = np.random.default_rng(0)
    least = np.array([[-200], [-10], [-255]] if per_channel else [[-200]])
    integers = (least + random.integers(0, 256, (3, 20))).astype(np.int32)
    quantizer = PerChannel((0.01, 0.3, 0.02)) if per_channel else Uniform(0.01)
    held = StoredTensor(integers, quantizer)
    network = StoredNetwork(Architecture((20,), (Linear("fc", 20, 3, False),)), {"fc.weight": held})
    model = to_onnx(network)
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer}
    assert constants["fc.weight.integers"].dtype == constants["fc.weight.zero_point"].dtype == np.uint8
    assert constants["fc.weight.zero_point"].shape == constants["fc.weight.step"].shape
    assert_close(in_onnxruntime(model, examples(network, 3)), in_torch(network, examples(network, 3)))


def test_an_int8_model_is_about_a_quarter_of_a_float32_one() -> None:
    network = runnable("lenet-300-100")
    float32 = {name: StoredTensor(floats=tensor.dense()) for name, tensor in network.tensors.items()}
    small, large = to_onnx(network), to_onnx(StoredNetwork(network.architecture, float32))
    assert len(small) < 0.26 * len(large)


def test_integers_of_more_than_16_bits_become_float32() -> None:
    numbers = np.array([[2**15, -5], [3, 2**23]], np.int32)
    network = StoredNetwork(
        Architecture((2,), (Linear("fc", 2, 2, False),)), {"fc.weight": StoredTensor(numbers, power_of_two(-20))}
    )
    (constant,) = onnx.load_from_string(to_onnx(network)).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(constant), np.ldexp(numbers.astype(np.float32), -20))


@pytest.mark.parametrize("layers", [(), (Recall(0),), (Activation("relu"), Recall(0))], ids=str)
def test_a_model_that_gives_its_input(layers: tuple[kinds.Layer, ...]) -> None:
    network = normal(Architecture((3,), layers))
    x = examples(network, 2)
    if layers == (Recall(0),):
        with pytest.raises(ValueError, match="refers to no output before"):
            to_onnx(network)
    else:
        np.testing.assert_array_equal(in_onnxruntime(to_onnx(network), x), x)


def test_an_unknown_activation() -> None:
    with pytest.raises(ArtifactError, match="no ONNX operator for the activation 'swish'"):
        to_onnx(normal(Architecture((3,), (Activation("swish"),))))


@pytest.mark.parametrize("export", [to_onnx, to_safetensors])
def test_the_same_network_gives_the_same_bytes(export: object) -> None:
    assert callable(export)
    assert export(networks.conv()) == export(networks.conv())


@pytest.mark.parametrize("make", [networks.conv, networks.dense, residual])
def test_a_safetensors_file_holds_the_numbers_and_the_layers(make: object, tmp_path: Path) -> None:
    assert callable(make)
    network = make()
    written = to_safetensors(network)
    found = load(written)
    assert sorted(found) == sorted(network.tensors)
    for name, tensor in network.tensors.items():
        np.testing.assert_array_equal(found[name], tensor.dense(), strict=True)
    (tmp_path / "network.safetensors").write_bytes(written)
    with safe_open(tmp_path / "network.safetensors", framework="numpy") as file:
        described = json.loads(file.metadata()["architecture"])
    layers = tuple(rebuilt(layer) for layer in described["layers"])
    assert Architecture(tuple(described["input_shape"]), layers) == network.architecture


def rebuilt(described: dict[str, object]) -> kinds.Layer:
    kind = getattr(kinds, str(described["layer"]))
    names = [field.name for field in dataclasses.fields(kind)]
    assert set(described) == {"layer", *names}
    values = [described[name] for name in names]
    layer: kinds.Layer = kind(*(tuple(value) if isinstance(value, list) else value for value in values))
    return layer


def test_output_padding_that_onnxruntime_does_not_take() -> None:
    sizes = {"kernel_size": (2, 2), "stride": (1, 1), "padding": (0, 0), "output_padding": (1, 0), "dilation": (2, 1)}
    layer = kinds.ConvTranspose2d("up", 1, 1, **sizes, groups=1, bias=False)
    with pytest.raises(ArtifactError, match="whose output padding exceeds padding and stride"):
        to_onnx(normal(Architecture((1, 3, 3), (layer,))))
