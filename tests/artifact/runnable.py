"""Networks that every runtime is held against torch on: those that the package names, reduced, with 8-bit weights."""

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from pyro_compress.analysis.decisions.decision import Decision, SiteDecision
from pyro_compress.analysis.decisions.structure import remove_dead
from pyro_compress.artifact.runtimes.torch_runtime import to_torch
from pyro_compress.models.networks import NETWORKS
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import (
    ACTIVATIONS,
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Recall,
)
from pyro_compress.network.quantizers import Uniform
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes
from tests.artifact import networks

# Of a float32 forward pass, as a share of the largest output: sums are taken in another order.
TOLERANCE = 1e-5
SLOPES = {"leaky_relu": 0.2, "elu": 0.7, "times": -0.8, "plus": 0.3, "at_least": -0.5, "at_most": 0.6}


def reduced(network: nn.Module, input_shape: tuple[int, ...], seed: int = 0) -> StoredNetwork:
    """About a third of the output units and filters gone, 8 bits for weights, 16 for biases, batch norms that shift.

    Weights are of a size that keeps the outputs of deep networks dependent on their inputs.
    """
    random = np.random.default_rng(seed)
    parameters = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    last = list(parameters)[-1].rpartition(".")[0]
    sites, buffers = {}, {}
    for name, shape in parameters.items():
        weight = len(shape) > 1
        size = (3 / prod(shape[1:])) ** 0.5 if weight else 0.1
        value = random.standard_normal(shape, np.float32) * np.float32(size)
        if not weight and name.endswith("weight"):
            value += 1
        rows = (random.random(shape[0]) > 0.3) | name.startswith(last)
        bits = (8 if weight else 16) * np.broadcast_to(rows.reshape(-1, *(1,) * (len(shape) - 1)), shape)
        step = 2.0 ** np.ceil(np.log2(np.abs(value).max() / (2 ** (bits.max() - 1) - 1)))
        sites[name] = SiteDecision(value, np.zeros_like(value), bits.astype(np.uint8), Uniform(float(step)))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffers[name] = random.normal(0, 0.1, buffer.shape).astype(np.float32)
        elif name.endswith("running_var"):
            buffers[name] = random.uniform(0.5, 1.5, buffer.shape).astype(np.float32)
    return remove_dead(trace(network, input_shape), Decision(sites, buffers))


def normal(architecture: Architecture, seed: int = 0) -> StoredNetwork:
    """Float32 weights of a size that keeps values around one."""
    random = np.random.default_rng(seed)
    tensors = {
        name: StoredTensor(floats=(random.normal(size=shape) / max(1, prod(shape[1:])) ** 0.5).astype(np.float32))
        for name, shape in tensor_shapes(architecture).items()
    }
    return StoredNetwork(architecture, tensors)


def residual() -> StoredNetwork:
    """Two sums, one of them of the input itself, a branch that begins at an earlier output, odd windows."""
    layers = (
        Conv2d("a", 4, 4, (3, 3), (1, 1), (1, 1), (1, 1), 4, True),
        Activation("relu6"),
        Add(0),
        Conv2d("b", 4, 6, (3, 2), (2, 1), (2, 1), (2, 2), 2, False),
        Activation("gelu"),
        Recall(3),
        Conv2d("c", 4, 6, (1, 1), (2, 1), (0, 0), (1, 1), 1, True),
        Add(5),
        MaxPool2d((3, 2), (2, 1), (1, 1)),
        AvgPool2d((2, 3), (1, 2), (1, 0)),
        AdaptiveAvgPool2d((3, 2)),
        Flatten(),
        Linear("d", 36, 5, False),
    )
    return normal(Architecture((4, 9, 8), layers))


def activations(kinds: tuple[str, ...]) -> StoredNetwork:
    """Activations, one after the other, on numbers that stay where they bend."""
    layers: list[Layer] = []
    for number, kind in enumerate(kinds):
        slope = SLOPES.get(kind, 0.0)
        layers += [Linear(f"fc{number}", 32, 32, True), Activation(kind, slope)]
    return normal(Architecture((32,), tuple(layers)))


def _registered(name: str) -> Callable[[], StoredNetwork]:
    entry = NETWORKS[name]
    return lambda: reduced(entry.factory(), entry.input_shape)


RUNNABLE: dict[str, Callable[[], StoredNetwork]] = {
    "every layer": networks.conv,
    "dense, partly float32": networks.dense,
    "step": networks.uniform,
    "steps": networks.per_channel,
    "levels": networks.shared,
    "residual": residual,
    "decoder": networks.decoder,
    "curves": networks.curves,
    "combined": networks.combined,
    "positions": networks.positions,
    "attention": networks.attention,
    "again": lambda: normal(networks.again().architecture),
    "tied": networks.tied,
    "gates": lambda: normal(networks.gates().architecture),
    "single": lambda: normal(networks.single().architecture),
    "softmax": lambda: normal(networks.softmax().architecture),
    # with weights of whatever size the states are all −1 or 1
    "recurrent": lambda: normal(networks.recurrent().architecture),
    "activations": lambda: activations(ACTIVATIONS[:9]),
    "further activations": lambda: activations(ACTIVATIONS[9:]),
    **{name: _registered(name) for name, entry in NETWORKS.items() if entry.classes is not None},
    "resnet18": lambda: reduced(resnet18(num_classes=10), (3, 64, 64)),
    "mobilenet_v2": lambda: reduced(mobilenet_v2(num_classes=10), (3, 64, 64)),
}


@cache
def runnable(name: str) -> StoredNetwork:
    """One of `RUNNABLE`, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RUNNABLE[name]()


def examples(network: StoredNetwork, count: int, seed: int = 1) -> np.ndarray:
    """Standard normal inputs, float32, or tokens."""
    shape = (count, *network.architecture.input_shape)
    if network.architecture.tokens is not None:
        return np.random.default_rng(seed).integers(network.architecture.tokens, size=shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_torch(network: StoredNetwork, x: np.ndarray) -> np.ndarray:
    """The outputs that the torch module of a stored network gives."""
    with torch.no_grad():
        outputs: np.ndarray = to_torch(network)(torch.from_numpy(x)).numpy()
    return outputs


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal up to `TOLERANCE`, float32 both; what is compared depends on the examples."""
    assert found.dtype == expected.dtype == np.float32
    scale = float(np.abs(expected).max())
    assert float(expected.std(axis=0).max()) > 1e-3 * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)
