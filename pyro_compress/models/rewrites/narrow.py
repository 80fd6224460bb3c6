"""Without the units that make no difference: a pruned network as a narrower dense one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from pyro_compress.errors import NetworkError
from pyro_compress.models.narrowing import can_narrow, folded, follows_sizes
from pyro_compress.models.rewrites.base import Rewrite
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.liveness import Signal, signals
from pyro_compress.network.numbers import Numbers
from pyro_compress.network.units import Units, units_of


@dataclass(frozen=True)
class Narrow(Rewrite):
    """The network without its dead units: those that nothing reads, or that give the same number for every example.

    What a constant unit gave goes into the biases of those that read it, so the outputs are those of before up to
    rounding.  Units leave at all places or at none, and inputs and outputs of the network stay, as they are its user's.
    A network under a group prior, decided on, becomes one whose single weights another prior can be put on, at the cost
    of what is left.

    Raises:
        NetworkError: the network has layers that cannot lose units, or sizes written into its forward pass.
    """

    def rewrite(self, network: nn.Module, input_shape: tuple[int, ...] | None) -> nn.Module:
        if input_shape is None:
            raise NetworkError("narrow looks at what an input makes of the network: give it the shape of one example")
        architecture = trace(network, input_shape)
        if not can_narrow(architecture):
            raise NetworkError(
                "narrow: the network has layers that lose no units (grouped convolutions, norms over groups, "
                "attention, recurrence, modules or weights that are used again, sums with the input): leave it out"
            )
        if not follows_sizes(network, architecture):
            raise NetworkError(
                "narrow: the network's forward pass has sizes written into it, so that its layers cannot become "
                "narrower: write x.flatten(1) in place of x.view(-1, 800)"
            )
        values = {name: parameter.detach().cpu().numpy() for name, parameter in network.named_parameters()}
        buffers = {name: buffer.cpu().numpy() for name, buffer in network.named_buffers()}
        numbers = Numbers(values, buffers, adds_biases=False)
        flow = _whole_units(units_of(architecture), signals(architecture, numbers))
        return folded(network, architecture, flow, numbers).network


def _whole_units(units: Units, flow: Sequence[Signal]) -> list[Signal]:
    """The same, but that a unit is kept as a whole where any entry of it is, and where it may not go."""
    stays = ~units.free
    for entries, signal in zip(units.of, flow, strict=True):
        stays[entries[signal.kept]] = True
    return [replace(signal, kept=np.asarray(stays[of])) for of, signal in zip(units.of, flow, strict=True)]
