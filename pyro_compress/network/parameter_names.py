"""The parameters of a traced architecture: names and shapes in its layers, and what they are in the module.

Most have one name in both.  A parameter that stands in the forward pass outside of a layer, or in a module of several
matrices, has another one (`Architecture.aliases`), and perhaps axes of extent 1, or more rows than are used.
"""

import numpy as np

from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import BatchNorm, Layer, PReLU, Table, Weighted, outputs_of, table_of, weight_shape
from pyro_compress.network.sequence_layers import Recurrent


def parameter_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Name and shape of the parameters of one layer of a traced network."""
    found: dict[str, tuple[int, ...]] = {}
    if isinstance(layer, Weighted):
        found[f"{layer.name}.weight"] = weight_shape(layer)
        if layer.bias:
            found[f"{layer.name}.bias"] = (outputs_of(layer),)
    elif isinstance(layer, PReLU):
        found[f"{layer.name}.weight"] = (layer.slopes,)
    elif isinstance(layer, BatchNorm) and layer.affine:
        kinds = [kind for kind, there in (("weight", layer.gain), ("bias", layer.bias)) if there]
        found = {f"{layer.name}.{kind}": (1 if layer.one else layer.channels,) for kind in kinds}
    elif isinstance(layer, Table):
        found = dict([table_of(layer)])
    elif isinstance(layer, Recurrent):
        rows = layer.gates * layer.hidden
        found[f"{layer.name}.weight"] = (rows, layer.hidden)
        if layer.bias:
            found[f"{layer.name}.bias"] = (rows,)
    return found


def aliased(architecture: Architecture) -> list[tuple[str, str, tuple[int, ...]]]:
    """Of parameters with another name in the module: name in the layers, name in the module, shape in the layers."""
    if not architecture.aliases:
        return []
    shapes = {name: shape for layer in architecture.layers for name, shape in parameter_shapes(layer).items()}
    return [(name, parameter, shapes[name]) for name, parameter in architecture.aliases]


def in_layer(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of the module as the layer has it: the first rows, of the layer's shape."""
    return numbers.reshape(-1, *shape[1:])[: shape[0]]


def added_bias(layer: Recurrent) -> np.ndarray:
    """Boolean (gates · hidden,): whose bias is added to what the layer in front makes, which can hold it as well."""
    gates = np.arange(layer.gates) != 2 if layer.kind == "gru" else np.ones(layer.gates, dtype=bool)
    return np.repeat(gates, layer.hidden)
