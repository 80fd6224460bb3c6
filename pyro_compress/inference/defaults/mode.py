"""What MAP does with a Pyro model where nothing is set: the highest mode that is found from a few starts.

    maximise over θ   (N/n) Σ_i log p(y_i | x_i, θ) + log p(θ)

in unconstrained coordinates, without a Jacobian, by L-BFGS on all the data and a few steps of Newton's method.  Where
the density has no maximum, as in a hierarchy whose scale may vanish, it stops somewhere on the way, and
`pyro_compress.fit` says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Method, Model, State
from pyro_compress.inference.guides.newton_guides import REFUSED
from pyro_compress.inference.log_joint.at_draws import jacobian_gradient
from pyro_compress.inference.log_joint.curvature import newton_step
from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.log_joint.starts import starts
from pyro_compress.inference.log_joint.whole_data import WholeData, whole_data_of
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.results.from_draws import point_posterior
from pyro_compress.models.program import Program
from pyro_compress.posterior.posterior import Posterior

ITERATIONS, NEWTON_STEPS = 500, 10


@dataclass(frozen=True)
class Mode(Method):
    """See the head of this module; one round."""

    round_name: ClassVar[str] = "round"
    objective_name: ClassVar[str] = "log joint"

    @property
    def rounds(self) -> int:
        return 1

    def batches(self, feed: Feed, seed: int, round: int) -> Iterator[Batch]:
        return iter([feed.tensors])

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "ModeState":
        assert isinstance(model, Program)
        return ModeState(model, size, seed)

    def step(self, state: "ModeState", batch: Batch) -> Info:
        whole = WholeData(state.model, batch, state.size)
        best, highest = None, -math.inf
        for start in starts(whole.log_joint, state.model, batch, state.seed):
            found = climbed(whole, start)
            height = density(whole, found)[0]
            if height > highest:
                best, highest = found, height
        if best is None:
            raise InferenceError(
                f"the density of {state.model.name} is not finite around any start: check the data against the support "
                "of the likelihood"
            )
        state.place, state.log_joint = best, whole.log_joint
        state.steps_done += 1
        there = whole(best[None])
        return Info(float(there.data), -float(there.prior), 1.0, 0.0)

    def draw(self, state: "ModeState") -> Posterior:
        assert state.place is not None and state.log_joint is not None
        return point_posterior(state.model, state.log_joint.constrained(state.place))


class ModeState(State):
    """Where the mode is, (D,), once it is found."""

    def __init__(self, model: Program, size: int, seed: int) -> None:
        self.model, self.size, self.seed, self.steps_done = model, size, seed, 0
        self.place: Tensor | None = None
        self.log_joint: LogJoint | None = None

    def capture(self) -> dict[str, Any]:
        return {"place": None if self.place is None else self.place.clone(), "steps_done": self.steps_done}

    def restore(self, captured: dict[str, Any]) -> None:
        self.place, self.steps_done = captured["place"], captured["steps_done"]
        self.log_joint = LogJoint(self.model, self.size)


def density(whole: WholeData, place: Tensor) -> tuple[float, Tensor]:
    """(log p(y, θ), its gradient in unconstrained coordinates) at (D,)."""
    there = whole(place[None])
    return float(there.data + there.prior), (there.gradient - jacobian_gradient(whole.log_joint, place[None]))[0]


def climbed(whole: WholeData, start: Tensor) -> Tensor:
    """The mode that is reached from there."""

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        height, gradient = density(whole, torch.from_numpy(point))
        if not (math.isfinite(height) and bool(torch.isfinite(gradient).all())):
            return REFUSED, np.zeros(len(point))
        return -height, -gradient.numpy()

    result = minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "maxcor": 20})
    place = torch.from_numpy(np.array(result.x))
    for _ in range(NEWTON_STEPS):
        dtype = whole.log_joint.dtype
        step = newton_step(whole.log_joint, place.to(dtype), whole.batch, jacobian=False)
        if step is None:
            break
        further = place + step[0]
        # single precision cannot tell the last steps from noise
        if not density(whole, further)[0] > density(whole, place)[0]:
            break
        place = further
    return place


def left_to_find(model: Model, feed: Feed) -> Method | None:
    """The method, or None where it cannot do it, as `best_normal.left_to_choose`."""
    return Mode() if whole_data_of(model, feed) is not None else None
