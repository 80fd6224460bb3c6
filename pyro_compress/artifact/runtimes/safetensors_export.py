"""Stored network → safetensors: every tensor as float32 under its own name, and the layers as JSON in the metadata."""

import json
from dataclasses import asdict

from safetensors.numpy import save

from pyro_compress.network.stored import StoredNetwork


def to_safetensors(network: StoredNetwork) -> bytes:
    """The content of a safetensors file: NAME.weight, NAME.bias, NAME.scale, NAME.shift, dequantised.

    The metadata has one entry, `architecture`: `{"input_shape": [...], "layers": [{"layer": "Linear", "name": "fc1",
    "in_features": 784, ...}, ...]}`, with the classes and fields of `pyro_compress/network/layers.py`.  The same
    network gives the same bytes.
    """
    architecture = network.architecture
    layers = [{"layer": type(layer).__name__, **asdict(layer)} for layer in architecture.layers]
    text = json.dumps({"input_shape": architecture.input_shape, "layers": layers}, ensure_ascii=False)
    # One entry only: the library writes several in an order of its own, another one each time.
    return save({name: tensor.dense() for name, tensor in network.tensors.items()}, {"architecture": text})
