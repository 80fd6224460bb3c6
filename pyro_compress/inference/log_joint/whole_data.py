"""The log joint on all the data at many points, in double precision where the model can run in it."""

import math
import warnings
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.log_joint.at_draws import at_points
from pyro_compress.inference.log_joint.log_joint import Evaluation, LogJoint
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.models.failures import FAILURES
from pyro_compress.models.program import Program

MOST_WIDTH = 200
# points × examples that one evaluation may hold
AT_ONCE = 2**23
LEAST_POINTS, MOST_POINTS = 64, 1024
# of a model that runs at one point at a time
MOST_ALONE = 256


class WholeData:
    """See the head of this module.

    Args:
        model: a Pyro model; not a network.
        batch: all the data.
        size: N.

    Raises:
        InferenceError: the model is too large, its log joint is random or cannot be run at many points at once.
    """

    kind: ClassVar[type[LogJoint]] = LogJoint

    def __init__(self, model: Program, batch: Batch, size: int) -> None:
        self.model, self.size = model, size
        # how the rows come apart is found out here, where no transform of torch runs
        model.refuse_share(batch, size)
        for dtype in (torch.float64, torch.float32):
            self.log_joint = self.kind(model, size, dtype=dtype)
            self.batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
            width = self.log_joint.width
            if self.log_joint.dependent:
                raise InferenceError(
                    f"the support of {', '.join(sorted(self.log_joint.dependent))} moves with other sites"
                )
            if width > MOST_WIDTH:
                raise InferenceError(f"{width} latent numbers are too many to look at all the data at once")
            try:
                # twice the same point, each with random numbers of its own
                found = self._run(self.log_joint.evaluate, torch.zeros(2, width, dtype=torch.float64))
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                continue
            if not bool(torch.equal(found.log_joint[:1].nan_to_num(), found.log_joint[1:].nan_to_num())):
                raise InferenceError(f"the log joint of {model.name} is random")
            most = MOST_ALONE if self.log_joint.alone else MOST_POINTS
            self.points = min(most, AT_ONCE // max(1, size)) // 2 * 2
            if self.points < max(LEAST_POINTS, 2 * width + 2):
                raise InferenceError(
                    f"{width} latent numbers and {size:,} examples are too many to look at all at once"
                )
            return
        raise InferenceError(f"{model.name} cannot be run at many points at once")

    @property
    def is_double(self) -> bool:
        """Whether the model runs in double precision."""
        return self.log_joint.dtype == torch.float64

    def __call__(self, u: Tensor) -> Evaluation:
        """At (S, D); float64."""
        return self._run(self._together, u)

    def _run(self, function: Callable[..., tuple[Tensor, ...]], u: Tensor) -> Evaluation:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            try:
                found = function(u.to(self.log_joint.dtype), *self.batch)
            except FAILURES:
                # a matrix that cannot be factorised at one of the points: they have no probability together
                nowhere = torch.full((len(u),), -math.inf)
                found = (nowhere, torch.full_like(u, math.nan), nowhere, nowhere)
        return Evaluation(*(part.detach().double() for part in found))

    def _together(self, points: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        found = at_points(self.log_joint, points, batch)
        return found.log_joint, found.gradient, found.data, found.prior

    def values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(log joint, its gradient) at (S, D)."""
        found = self(u)
        return found.log_joint, found.gradient


def whole_data_of(model: Model, feed: Feed) -> WholeData | None:
    """Of a fit; None for a network or a model that trains parameters, several processes, another device, and where it
    cannot be had.
    """
    on_cpu = all(part.device.type == "cpu" for part in feed.tensors)
    if not isinstance(model, Program) or model.free.trains or feed.ranks.count > 1 or not on_cpu:
        return None
    try:
        return WholeData(model, feed.tensors, feed.size)
    except InferenceError:
        return None
