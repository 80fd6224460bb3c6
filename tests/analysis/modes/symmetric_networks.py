"""Small networks with every kind of hidden space, and copies of their weights with other names for the units."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from pyro_compress.analysis.modes.symmetries import HiddenSpace, Renaming, hidden_spaces
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture


def dense(activation: Callable[[], nn.Module]) -> nn.Module:
    layers = {"a": nn.Linear(5, 7), "f": activation(), "b": nn.Linear(7, 4), "g": activation(), "c": nn.Linear(4, 3)}
    return nn.Sequential(OrderedDict(layers))


def conv() -> nn.Module:
    layers = [("a", nn.Conv2d(2, 4, 3)), ("f", nn.ReLU()), ("p", nn.MaxPool2d(2)), ("b", nn.Conv2d(4, 3, 2))]
    layers += [("g", nn.Tanh()), ("q", nn.AvgPool2d(2)), ("flat", nn.Flatten()), ("c", nn.Linear(12, 5))]
    return nn.Sequential(OrderedDict([*layers, ("h", nn.ReLU()), ("d", nn.Linear(5, 2))]))


def batch_norm() -> nn.Module:
    layers = [("a", nn.Conv2d(2, 4, 3, bias=False)), ("n", nn.BatchNorm2d(4)), ("f", nn.ReLU())]
    layers += [("b", nn.Conv2d(4, 3, 3)), ("m", nn.BatchNorm2d(3)), ("g", nn.Tanh()), ("flat", nn.Flatten())]
    return nn.Sequential(OrderedDict([*layers, ("c", nn.Linear(3 * 16, 2))]))


def depthwise() -> nn.Module:
    layers = [("a", nn.Conv2d(2, 4, 3)), ("f", nn.Tanh()), ("w", nn.Conv2d(4, 4, 3, groups=4)), ("g", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("b", nn.Conv2d(4, 2, 2)), ("flat", nn.Flatten())]))


def transposed() -> nn.Module:
    layers = [("a", nn.Conv2d(2, 4, 3)), ("f", nn.Tanh()), ("b", nn.ConvTranspose2d(4, 3, 2)), ("g", nn.ReLU())]
    layers += [("w", nn.ConvTranspose2d(3, 3, 3, groups=3)), ("u", nn.Upsample(scale_factor=2)), ("h", nn.Tanh())]
    layers += [("c", nn.ConvTranspose2d(3, 2, 2)), ("flat", nn.Flatten())]
    return nn.Sequential(OrderedDict(layers))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense relu": (lambda: dense(nn.ReLU), (5,)),
    "dense tanh": (lambda: dense(nn.Tanh), (5,)),
    "dense without activation": (lambda: dense(nn.Identity), (5,)),
    "conv, pool, flatten": (conv, (2, 12, 12)),
    "batch norm": (batch_norm, (2, 8, 8)),
    "depthwise": (depthwise, (2, 8, 8)),
    "transposed": (transposed, (2, 4, 4)),
}


def built(name: str) -> tuple[nn.Module, Architecture]:
    """A network with generic numbers everywhere, buffers included, and its architecture."""
    factory, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(5)
    network = factory().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
                tensor.mul_(1 - 2 * (torch.rand(tensor.shape, generator=generator) < 0.5))
        for key, tensor in network.state_dict().items():
            if key.endswith("running_var"):
                tensor.abs_()
    return network, trace(network, shape)


def tensors_of(network: nn.Module) -> dict[str, np.ndarray]:
    """Parameters and buffers, float64."""
    return {n: t.numpy().astype(np.float64) for n, t in network.state_dict().items() if t.is_floating_point()}


def outputs(network: nn.Module, tensors: Mapping[str, np.ndarray], architecture: Architecture) -> np.ndarray:
    """What the network computes in evaluation mode with these numbers, on the same 16 examples."""
    x = torch.randn(16, *architecture.input_shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    held = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
    return functional_call(network.double(), held, (x,)).detach().numpy()


def any_renamings(architecture: Architecture, generator: np.random.Generator) -> tuple[Renaming, ...]:
    """Random permutations and flips of every space."""
    return tuple(random_renaming(space, generator) for space in hidden_spaces(architecture))


def random_renaming(space: HiddenSpace, generator: np.random.Generator) -> Renaming:
    return Renaming(generator.permutation(space.size), generator.random((len(space.flips), space.size)) < 0.5)
