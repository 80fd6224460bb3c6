"""`pc.score`: what a network or a compressed file would have scored in the MicroNet Challenge."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from torch import nn

from pyro_compress.artifact.writing.artifact import Artifact, load
from pyro_compress.errors import NetworkError
from pyro_compress.pipeline.as_layers import as_it_is
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
