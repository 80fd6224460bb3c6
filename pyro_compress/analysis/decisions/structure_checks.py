"""Whether a decision is one on a given network, for `structure.py`."""

import numpy as np

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision
from pyro_compress.errors import DecisionError
from pyro_compress.network.activations import applied
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import BatchNorm, ChannelAffine, describe
from pyro_compress.network.parameter_names import parameter_shapes

# From here on float32 cannot tell neighbouring integers apart.
INTEGER_LIMIT = 2**24


def check(architecture: Architecture, decision: Decision) -> None:
    """That a decision is one on this network, sites under the names that they have in it.

    Raises:
        DecisionError: see `structure.remove_dead`.
    """
    sites, buffers = _expected(architecture)
    found = {name: site.value.shape for name, site in decision.sites.items()}
    _check_shapes("site", sites, found, "make the decision from a posterior of this network")
    statistics = {name: buffer.shape for name, buffer in decision.buffers.items() if name in buffers}
    _check_shapes("buffer", buffers, statistics, "put the batch norm's running statistics into decision.buffers")
    for name, site in decision.sites.items():
        if not np.isfinite(site.stored()).all():
            raise DecisionError(f"the decision on {name} stores NaN or infinite values")
        fewest = site.bits[site.kept()].min(initial=FLOAT_BITS)
        if site.quantizer is None and fewest < FLOAT_BITS:
            raise DecisionError(
                f"the decision on {name} says {fewest} bits and no grid: combine it with bit_widths(...), or give it "
                f"{FLOAT_BITS}, which is float32"
            )
        if site.quantizer is not None and np.abs(site.integers().astype(np.int64)).max(initial=0) >= INTEGER_LIMIT:
            raise DecisionError(f"the grid of {name} is too fine: its integers exceed 24 bits")
    for layer in architecture.layers:
        if isinstance(layer, BatchNorm) and layer.function:
            _check_function(layer, decision, architecture)
    for name in buffers:
        if not np.isfinite(decision.buffers[name]).all():
            raise DecisionError(f"buffer {name} holds NaN or infinite values")
        least = float(decision.buffers[name].min(initial=0))
        if name.endswith(".running_var") and least < 0:
            raise DecisionError(
                f"buffer {name} holds {least:g}, and no variance is negative: gather the statistics again"
            )


def _check_function(layer: BatchNorm, decision: Decision, architecture: Architecture) -> None:
    (name,) = parameter_shapes(layer)
    value = decision.sites[name].stored()
    undefined = ~np.isfinite(applied(layer.function, value).astype(np.float32))
    if undefined.any():
        steps = ", ".join(kind for kind, _ in layer.function)
        raise DecisionError(
            f"the decision on {architecture.parameter(name)} stores {value[undefined][0]:g}, and what is made "
            f"of that by the network ({steps}) is not finite: do not prune it"
        )


def _expected(architecture: Architecture) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of the parameters and of the buffers that a traced architecture speaks of."""
    sites: dict[str, tuple[int, ...]] = {}
    buffers: dict[str, tuple[int, ...]] = {}
    for layer in architecture.layers:
        if isinstance(layer, ChannelAffine):
            raise DecisionError(f"{describe(layer)} occurs in compressed networks only: decide on the original network")
        sites |= parameter_shapes(layer)
        if isinstance(layer, BatchNorm) and layer.running:
            buffers |= {f"{layer.name}.{kind}": (layer.channels,) for kind in ("running_mean", "running_var")}
    return sites, buffers


def _fits(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a tensor is the one expected, or that of a Conv1d or dense layer over positions described as an image."""
    if len(expected) == 4 and expected[2] == 1:
        return found in (expected, (*expected[:2], expected[3])) or (found == expected[:2] and expected[3] == 1)
    return found == expected


def _check_shapes(
    kind: str, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], advice: str
) -> None:
    for name in sorted(set(expected) ^ set(found)):
        where = "no parameter of the network" if name in found else "missing from the decision"
        raise DecisionError(f"{kind} {name} is {where}: {advice}")
    for name, shape in expected.items():
        if not _fits(found[name], shape):
            raise DecisionError(f"{kind} {name} has shape {found[name]} in the decision, {shape} in the network")
