"""Products and convolutions of a network in bfloat16 while it trains; likelihoods, priors and guides stay in float32.

bfloat16 has the exponents of float32 and 8 significant bits.  Processors that have it take about half the time for a
convolution.  What torch's autocast lets run so is rounded on the way in, sums are in float32 (Kalamkar et al. 2019).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from pyro_compress.models.layouts import AnyLayout
from pyro_compress.models.small_maps import SmallMaps

SINGLE, BFLOAT16 = PRECISIONS = ("single", "bfloat16")

_present: ContextVar[str] = ContextVar("precision", default=SINGLE)


@contextmanager
def networks_in(precision: str) -> Iterator[None]:
    """Within it networks that are called by `called` run in that precision."""
    token = _present.set(precision)
    try:
        yield
    finally:
        _present.reset(token)


def called(network: Callable[[], Tensor], device: torch.device) -> Tensor:
    """What the network gives, in float32 where the present precision is another; in whatever layout its images lie."""
    if _present.get() == SINGLE:
        with AnyLayout():
            return network()
    with AnyLayout(), SmallMaps(), torch.autocast(device.type, torch.bfloat16):
        output = network()
    return output.float() if isinstance(output, Tensor) and output.dtype == torch.bfloat16 else output
