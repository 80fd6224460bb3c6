"""Group lasso: units and filters that the data does not need become exactly zero (Yuan & Lin 2006; Wen et al. 2016).

    minimise over w   −(N/n) Σ_i log p(y_i | x_i, w) − log p(w) + Σ_g λ_g √|g| ‖w_g‖₂

Groups are what group priors take: the inputs of a dense layer, the filters of a convolution.  A gradient step to z is
followed by the proximal step of the penalty in the metric of the optimizer, where weight i has the step size η_i:

    argmin_w   Σ_i (w_i − z_i)² / (2 η_i) + κ ‖w‖₂  =  z_i s / (s + κ η_i),     Σ_i z_i² / (s + κ η_i)² = 1

and 0 where ‖z / η‖₂ ≤ κ.  With one η for all, as for SGD, that is the soft threshold z (1 − κ η / ‖z‖)₊; under Adam
η_i = η / (√v_i + ε), so that both end at the same optimum.

The penalty shrinks what it keeps, too: for the share `retrain` of the run at its end it is gone, and zero groups
stay zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Info, Model
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.point.map import PointState
from pyro_compress.inference.point.masked import MaskedState, MaskedTraining
from pyro_compress.models.parameters import parameters_of
from pyro_compress.network.name_patterns import by_name

STEPPED = ("adam", "sgd")
NEWTON_STEPS = 12


@dataclass(frozen=True)
class GroupLasso(MaskedTraining):
    """MAP, or dropout, with a penalty on the norms of groups of weights.

    Args:
        epochs, batch_size, learning_rate, schedule, rate_warmup, accumulate,
            clip, rate, input_rate: see `MaskedTraining`.
        optimizer: 'adam' or 'sgd', whose step sizes are known.
        strength: λ, in nats of the whole data set; one number, or by patterns of names, {"conv*": 30.0, "fc*": 5.0}, of
            which weights that none names have no penalty.
        retrain: share of the run at its end without the penalty.
    """

    strength: float | Mapping[str, float] = 10.0
    retrain: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in STEPPED:
            raise InferenceError(
                f"the proximal step of the group lasso needs the optimizer's step sizes: take {' or '.join(STEPPED)}, "
                f"found {self.optimizer!r}"
            )
        strengths = self.strength.values() if isinstance(self.strength, Mapping) else (self.strength,)
        if not all(0 <= one < math.inf for one in strengths) or not 0 <= self.retrain < 1:
            raise InferenceError(
                "the group lasso needs strength of at least 0, finite, and retrain of at least 0 and below 1, found "
                f"strength={self.strength}, retrain={self.retrain}"
            )

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "LassoState":
        return LassoState(super().init(model, size, seed, held), self.strength)

    def penalised(self, state: PointState) -> bool:
        """Whether the next step has the penalty."""
        return state.progress < 1 - self.retrain

    def terms(self, state: PointState, batch: Batch) -> ElboTerms:
        found = super().terms(state, batch)
        assert isinstance(state, LassoState)
        if not self.penalised(state):
            return found
        # by its value alone: its gradient is the proximal step's
        return ElboTerms(found.data, found.complexity + self.penalty(state), found.by_site)

    def penalty(self, state: "LassoState") -> float:
        """Σ_g λ_g √|g| ‖w_g‖₂, nats."""
        return sum(
            state.strengths[name]
            * float(weight.detach().movedim(state.axes[name], 0).flatten(1).norm(dim=1).sum())
            * group_size(weight, state.axes[name]) ** 0.5
            for name, weight in state.present().items()
            if name in state.strengths
        )

    def step(self, state: PointState, batch: Batch) -> Info:
        assert isinstance(state, LassoState)
        penalised = self.penalised(state)
        info = super().step(state, batch)
        if not penalised:
            state.apply()
            return info
        with torch.no_grad():
            for name, weight in state.present().items():
                if name not in state.strengths:
                    continue
                axis = state.axes[name]
                kappa = state.strengths[name] * group_size(weight, axis) ** 0.5 / state.size
                weight.copy_(proximal(weight, step_size(state.optimizer, weight), kappa, axis))
                state.masks[name] = weight != 0
        return info


class LassoState(MaskedState):
    """Adds λ, and the axis along which groups are counted, by name."""

    def __init__(self, base: PointState, strength: float | Mapping[str, float]) -> None:
        super().__init__(base, GroupLasso.__name__)
        found = {parameter.name: parameter.group_axis for parameter in parameters_of(self.model.network)}
        self.axes = {name: axis for name in self.masks if (axis := found[name]) is not None}
        self.masks = {name: mask for name, mask in self.masks.items() if name in self.axes}
        if not self.masks:
            raise InferenceError(
                "the group lasso needs weights that come in groups, as those of dense layers and convolutions do"
            )
        self.strengths = by_name("strength", strength, self.masks, "weight", InferenceError)


def group_size(weight: torch.Tensor, axis: int) -> int:
    """|g|."""
    return weight.numel() // weight.shape[axis]


def step_size(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> torch.Tensor:
    """η_i of the step that the optimizer has just made, of a shape that goes with the weight."""
    group = next(group for group in optimizer.param_groups if any(each is weight for each in group["params"]))
    rate = torch.as_tensor(group["lr"], dtype=weight.dtype, device=weight.device)
    if not isinstance(optimizer, torch.optim.Adam):
        return rate
    held = optimizer.state[weight]
    second = held["exp_avg_sq"] / (1 - group["betas"][1] ** held["step"].to(weight.device))
    return rate / (second.sqrt() + group["eps"])


def proximal(weight: torch.Tensor, step: torch.Tensor, kappa: float, axis: int) -> torch.Tensor:
    """argmin_w Σ_i (w_i − z_i)² / (2 η_i) + κ Σ_g ‖w_g‖₂ at z = `weight`, of its shape.

    Args:
        weight: z.
        step: η, at least 0, of a shape that goes with z.
        kappa: κ.
        axis: along which groups are counted.
    """
    groups = weight.movedim(axis, 0)
    z, eta = groups.flatten(1), step.expand_as(weight).movedim(axis, 0).flatten(1)
    if not bool((eta > 0).all()) or kappa == 0:
        return weight
    on = (z / eta).norm(dim=1) > kappa
    threshold = kappa * eta
    s = torch.zeros_like(z[:, :1])
    for _ in range(NEWTON_STEPS):
        # of 1 / √h(s) = 1, nearly linear in s, which is approached from below
        ratio = z / (s + threshold)
        h = ratio.square().sum(1, keepdim=True)
        slope = 2 * (ratio.square() / (s + threshold)).sum(1, keepdim=True)
        s = (s + 2 * (h.sqrt() - 1) * h / slope.clamp_min(1e-38)).clamp_min(0)
    shrunk = torch.where(on[:, None], z * s / (s + threshold), 0)
    return shrunk.view(groups.shape).movedim(0, axis)
