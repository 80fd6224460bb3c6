"""`pc.score`: what a network or a compressed file would have scored in the MicroNet Challenge."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from torch import nn

from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.errors import NetworkError
from pyro_compress.models.tracing import trace
from pyro_compress.network.architecture import Architecture, BatchNorm, ChannelAffine, Layer, PReLU
from pyro_compress.network.liveness import Numbers
from pyro_compress.network.stored import StoredNetwork, StoredTensor, tensor_shapes
from pyro_compress.pipeline.validation import network_and_likelihood
from pyro_compress.report.micronet import FULL_BITS, Reference, Score, micronet_score


def score(
    network: nn.Module | Artifact | str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    reference: Reference | str = "cifar-100",
    activation_bits: int = FULL_BITS,
    freebie: bool = True,
) -> Score:
    """The MicroNet score of a network or a file (`report.micronet` says what is counted): lower is better.

    Args:
        network: a module or BayesianNetwork as it is, an artifact, or the path of a .pyrc file.
        input_shape: of one example, (1, 28, 28); of a module only, as a file says its own.
        reference: 'cifar-100' (WideResNet-28-10), 'imagenet' (MobileNetV2-1.4), 'wikitext-103', or a `Reference`.
        activation_bits: width of inputs and activations, 1 to 32.
        freebie: whether 16 bits may be counted where nothing has fewer.

    Raises:
        NetworkError: a module without a shape, a file with one, or a module that cannot be described.
        ArtifactError: the file is missing or damaged.
        RunError: a width out of range, or an unknown reference.
    """
    if isinstance(network, nn.Module):
        if input_shape is None:
            raise NetworkError("score(...) of a module needs the shape of one example: give input_shape=(1, 28, 28)")
        stored = as_it_is(network_and_likelihood(network, None)[0], input_shape)
    elif input_shape is not None:
        raise NetworkError(f"the file says which shape it takes: leave out input_shape={input_shape}")
    else:
        stored = network.network if isinstance(network, Artifact) else load(network).network
    return micronet_score(stored, reference, activation_bits=activation_bits, freebie=freebie)


def as_it_is(network: nn.Module, input_shape: tuple[int, ...]) -> StoredNetwork:
    """A module's layers and float32 numbers, with nothing removed; a batch norm is its scale and shift."""
    architecture = trace(network, input_shape)
    values: dict[str, np.ndarray] = {name: p.detach().cpu().numpy() for name, p in network.named_parameters()}
    buffers = {name: buffer.cpu().numpy() for name, buffer in network.named_buffers()}
    numbers, layers = Numbers(values, buffers), list[Layer]()
    for layer in architecture.layers:
        if isinstance(layer, BatchNorm):
            values |= zip((f"{layer.name}.scale", f"{layer.name}.shift"), numbers.affine(layer), strict=True)
            layer = ChannelAffine(layer.name, layer.channels)
        if isinstance(layer, PReLU):
            values[f"{layer.name}.slope"] = values[f"{layer.name}.weight"]
        layers.append(layer)
    found = Architecture(architecture.input_shape, tuple(layers))
    # the weight of a Conv1d has no axis for the height
    tensors = {
        name: StoredTensor(floats=values[name].astype(np.float32).reshape(shape))
        for name, shape in tensor_shapes(found).items()
    }
    return StoredNetwork(found, tensors)


def as_dict(found: Score) -> dict[str, Any]:
    """For `score --json`."""
    return {
        "score": found.total,
        "parameters": found.parameters,
        "operations": found.operations,
        "freebie": found.freebie,
        "reference": asdict(found.reference),
        "layers": [asdict(layer) for layer in found.layers],
    }


def describe(found: Score) -> list[RenderableType]:
    """For people."""
    against = found.reference
    bits = "16 bits where there are more" if found.freebie else "as many bits as there are"
    lines = [
        f"MicroNet score {found.total:.3g} relative to {against.network}, counting {bits}",
        f"  parameters {found.parameters:,.1f} of {against.parameters:,.0f}: "
        f"{found.parameters / against.parameters:.3g}",
        f"  operations {found.operations:,.1f} of {against.operations:,.0f}: "
        f"{found.operations / against.operations:.3g}",
    ]
    table = Table("layer", title="In 32-bit parameters and operations", title_justify="left")
    for heading in ("parameters", "multiplies", "additions", "operations"):
        table.add_column(heading, justify="right")
    for layer in found.layers:
        table.add_row(
            layer.layer,
            f"{layer.storage_bits / FULL_BITS:,.1f}",
            f"{layer.multiplies:,}",
            f"{layer.additions:,}",
            f"{layer.operation_bits / FULL_BITS:,.1f}",
        )
    return ["\n".join(lines), table]
