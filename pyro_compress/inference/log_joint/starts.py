"""Where fits of Pyro models that set nothing themselves start: a few places, of which the best is gone on from."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.program import Program

FROM_PRIOR, UNIFORM = 3, 3


def starts(log_joint: LogJoint, model: Program, batch: Batch, seed: int) -> list[Tensor]:
    """(D,) float64 each, in unconstrained space: zero, draws from the prior, and uniform on (−2, 2) as Stan starts."""
    found = [torch.zeros(log_joint.width, dtype=torch.float64)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # and not those of devices
        found += list(_from_prior(log_joint, model, batch))
        found += [4 * torch.rand(log_joint.width, dtype=torch.float64) - 2 for _ in range(UNIFORM)]
    return [start for start in found if bool(torch.isfinite(start).all())]


def _from_prior(log_joint: LogJoint, model: Program, batch: Batch) -> Iterator[Tensor]:
    for _ in range(FROM_PRIOR):
        try:
            trace: Any = poutine.trace(model.run).get_trace(*batch)
        except (RuntimeError, ValueError, NotImplementedError):
            # a prior that is a density and no distribution
            return
        yield log_joint.unconstrained({site.name: trace.nodes[site.name]["value"] for site in log_joint.sites}).double()
