"""What gradient-based methods share: optimizer and schedule, one descent step, its state, the check for NaN."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from pyro_compress.data.splits import batch_sizes
from pyro_compress.errors import InferenceError, unknown_name
from pyro_compress.inference.contract import DefaultFloat, MinibatchMethod, Model, State
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.names import dotted_name
from pyro_compress.models.precision import PRECISIONS, SINGLE, networks_in
from pyro_compress.models.rows import examples_of

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Factor 1 throughout."""
    return 1.0


def hold_then_linear(progress: float) -> float:
    """1 for the first half, then linear to 0: half of the sparsity arrives while the rate decays."""
    return min(1.0, 2.0 * (1.0 - progress))


def linear(progress: float) -> float:
    """Linear from 1 to 0."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """½ (1 + cos π p), from 1 to 0 along half a wave (Loshchilov & Hutter 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "hold-then-linear": hold_then_linear,
    "linear": linear,
}


ADVICE = "the last good state is kept: lower the learning rate, clip gradients or check the inputs"
RUN_AWAY = 1e6
# the base class; one that needs a closure; one for sparse gradients
_NOT_STEPPABLE = ("Optimizer", "LBFGS", "SparseAdam")


def warmed_up(weight: float, progress: float, warmup: float) -> float:
    """β, which rises linearly from 0 to `weight` over the share `warmup` of a run of which `progress` is done."""
    return weight * (min(1.0, progress / warmup) if warmup > 0 else 1.0)


def schedule_named(schedule: str | Schedule) -> Schedule:
    """A schedule by name, or the user's own function of progress in [0, 1].

    Raises:
        InferenceError: no such name.
    """
    if not isinstance(schedule, str):
        return schedule
    if schedule not in SCHEDULES:
        raise InferenceError(unknown_name("learning-rate schedule", schedule, SCHEDULES))
    return SCHEDULES[schedule]


def build_optimizer(
    optimizer: str | Callable[..., torch.optim.Optimizer], groups: Iterable[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """An optimizer over groups that each carry a 'multiplier' of the base learning rate.

    Raises:
        InferenceError: torch.optim has no optimizer of that name, or it cannot train these parameters.
    """
    # one group per multiplier: a fused step pays for every group it visits
    merged: dict[float, list[torch.Tensor]] = {}
    for group in groups:
        merged.setdefault(group["multiplier"], []).extend(group["params"])
    groups = [{"params": held, "multiplier": m, "lr": learning_rate * m} for m, held in merged.items()]
    if not isinstance(optimizer, str):
        return optimizer(groups, lr=learning_rate)
    if optimizer.lower() == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, fused=True)
    known = {name.lower(): name for name in torch.optim.__all__ if name[0].isupper() and name not in _NOT_STEPPABLE}
    if optimizer.lower() not in known:
        raise InferenceError(unknown_name("optimizer", optimizer, known))
    try:
        return getattr(torch.optim, known[optimizer.lower()])(groups, lr=learning_rate)
    except (TypeError, ValueError) as error:
        raise InferenceError(f"optimizer '{optimizer}' cannot train these parameters: {error}") from error


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A float32 copy for a posterior."""
    return tensor.detach().float().cpu().numpy().copy()


def buffer_arrays(model: Model) -> dict[str, np.ndarray]:
    """Copies of the network's real-valued buffers, by name."""
    return {name: as_array(b) for name, b in model.network.named_buffers() if b.is_floating_point()}


def check_rates(rates: Mapping[str, float], known: Iterable[str]) -> None:
    """Refuse multipliers of the base rate.

    Raises:
        InferenceError: one of no such role, or that is negative or not finite.
    """
    for name, rate in rates.items():
        if name not in known:
            raise InferenceError(unknown_name("learning rate", name, known))
        if not 0 <= rate < math.inf:
            raise InferenceError(f"rates are multiples of learning_rate, at least 0; found {name}={rate}")


def hyperparameter_groups(model: Model, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Optimizer groups: every hyper-parameter of the priors, with the multiplier of its role."""
    declared = model.hyper.declared.items()
    return [{"params": [model.hyper.tensor(name)], "multiplier": rates.get(one.role, 1.0)} for name, one in declared]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its multiple of the base learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["multiplier"]


def refuse_non_finite(loss: torch.Tensor, where: str, terms: Mapping[str, torch.Tensor]) -> None:
    """Stop a run whose objective is NaN or infinite.

    Raises:
        InferenceError: names the first non-finite term, in the order given.
    """
    if math.isfinite(float(loss.detach())):
        return
    culprit = next((name for name, term in terms.items() if not bool(torch.isfinite(term))), "the objective")
    raise InferenceError(
        f"{where}: the loss is {float(loss.detach())} and '{culprit}' is the first term that is not finite; {ADVICE}"
    )


class GradientState(State):
    """Trained modules, the model's point-estimated parameters and buffers, optimizer and counters.

    Args:
        model: whose buffers move.
        trained: modules by name, each of whose parameters the optimizer moves.
        optimizer: over those parameters.
        size: N.
        steps_planned: of the whole run.
    """

    def __init__(
        self,
        model: Model,
        trained: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        size: int,
        steps_planned: int,
    ) -> None:
        self.model, self.modules, self.optimizer = model, dict(trained), optimizer
        self.size, self.steps_planned, self.steps_done = size, steps_planned, 0
        self.ranks = Ranks()

    def join(self, ranks: Ranks) -> None:
        self.ranks = ranks

    @property
    def progress(self) -> float:
        """Share of the planned steps that is done, in [0, 1]."""
        return min(1.0, self.steps_done / self.steps_planned)

    def clear_gradients(self) -> None:
        """Before a step."""
        self.optimizer.zero_grad(set_to_none=True)

    def collect_gradients(self) -> None:
        """Before they are clipped and used."""
        return

    def project(self) -> None:
        """After what is trained has moved: back into its bounds."""
        return

    def trained(self) -> list[nn.Parameter]:
        """Every parameter that is trained."""
        return [parameter for module in self.modules.values() for parameter in module.parameters()]

    def moved(self) -> list[torch.Tensor]:
        """Every tensor that the optimizer moves: the parameters, or vectors that hold them."""
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]]

    def moving_buffers(self) -> list[torch.Tensor]:
        """The network's buffers: running statistics, of each rank's share."""
        return list(self.model.network.buffers())

    def capture(self) -> dict[str, Any]:
        captured = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "buffers": dict(self.model.network.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
        }
        return copy.deepcopy(captured)

    def restore(self, captured: dict[str, Any]) -> None:
        captured = copy.deepcopy(captured)
        for name, module in self.modules.items():
            module.load_state_dict(captured["modules"][name])
        for name, buffer in self.model.network.named_buffers():
            buffer.copy_(captured["buffers"][name])
        self.optimizer.load_state_dict(captured["optimizer"])
        self.steps_done = captured["steps_done"]


@dataclass(frozen=True)
class GradientMethod(MinibatchMethod):
    """A method that descends an objective with a torch optimizer.

    Args:
        epochs: passes over the training data.
        batch_size: examples per pass.
        learning_rate: base rate.
        optimizer: name of a torch optimizer ('adam' is fused) or a callable (groups, lr=...).
        schedule: 'hold-then-linear', 'linear', 'cosine', 'constant' or a function of progress in [0, 1].
        rate_warmup: share w of the T steps over which the rate rises linearly, (t + 1) / (w T) at step t; the schedule
            has what is left.
        accumulate: k passes of `batch_size` examples make a step, whose gradient is that of all of them at once: memory
            is that of one pass.
        clip: largest gradient norm, or None; of the objective per example.
        precision: of the network's products and convolutions, 'single' or 'bfloat16' (`models.precision`), whose steps
            are not recorded.
    """

    scales: ClassVar[bool] = True
    trains_parameters: ClassVar[bool] = True

    learning_rate: float = DefaultFloat(1e-3)
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adam"
    schedule: str | Schedule = "hold-then-linear"
    rate_warmup: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    precision: str = SINGLE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise InferenceError(
                f"{type(self).__name__} needs epochs and batch_size of at least 1 and learning_rate > 0; found "
                f"epochs={self.epochs}, batch_size={self.batch_size}, learning_rate={self.learning_rate}"
            )
        if self.clip is not None and not self.clip > 0:
            raise InferenceError(f"clip is the largest norm of a gradient, above 0, or None; found {self.clip}")
        if not 0 <= self.rate_warmup < 1 or self.accumulate < 1:
            raise InferenceError(
                f"{type(self).__name__} needs rate_warmup, a share of the run, from 0 to below 1, and accumulate of at "
                f"least 1 pass per step; found rate_warmup={self.rate_warmup}, accumulate={self.accumulate}"
            )
        schedule_named(self.schedule)
        if self.precision not in PRECISIONS:
            raise InferenceError(unknown_name("precision", self.precision, PRECISIONS))

    @property
    def examples_per_step(self) -> int:
        return self.batch_size * self.accumulate

    def passes(self, state: "GradientState", batch: Batch) -> list[tuple[Batch, float]]:
        """A step's batch in parts of at most `batch_size` examples, each with its share of them.

        With the N/n of its own, a part's estimate times that share is its part of the whole batch's.

        Raises:
            InferenceError: several passes of a Pyro model.
        """
        if self.accumulate == 1:
            return [(batch, 1.0)]
        if not isinstance(state.model, BayesianNetwork):
            raise InferenceError(
                f"accumulate={self.accumulate} takes a network's examples in parts, and how the arguments of a Pyro "
                "model come apart is not known: leave it out, or give a smaller batch_size"
            )
        count = examples_of(batch)
        sizes = batch_sizes(count, state.ranks.share_size(self.batch_size))
        parts = zip(*(part.split(sizes) for part in batch), strict=True)
        return [(part, size / count) for part, size in zip(parts, sizes, strict=True)]

    def rate_at(self, progress: float, steps: int) -> float:
        """The learning rate of the step that comes after that share of so many."""
        warm, schedule = self.rate_warmup, schedule_named(self.schedule)
        if not warm:
            return self.learning_rate * schedule(progress)
        rising = min(1.0, (progress + 1 / steps) / warm)
        return self.learning_rate * rising * schedule(max(0.0, (progress - warm) / (1 - warm)))

    def begin(self, state: GradientState) -> float:
        """Clear the gradients and set the learning rate of this step, which is returned."""
        rate = self.rate_at(state.progress, state.steps_planned)
        set_learning_rate(state.optimizer, rate)
        state.clear_gradients()
        return rate

    @abstractmethod
    def terms(self, state: Any, batch: Batch) -> ElboTerms:
        """One estimate of the objective's terms on a batch, total nats."""

    def estimate(self, state: GradientState, batch: Batch) -> ElboTerms:
        """`terms`; a distribution that refuses its NaN parameters becomes a sentence that names them.

        Raises:
            InferenceError: a trained parameter is not finite.
        """
        try:
            with networks_in(self.precision):
                return self.terms(state, batch)
        except ValueError as error:
            trained = (pair for module in state.modules.values() for pair in module.named_parameters())
            # a log-variance that far out is a finite number still, but its scale is zero or infinite
            broken = next((name for name, tensor in trained if not bool((tensor.abs() < RUN_AWAY).all())), None)
            if broken is None:
                raise
            *place, attribute = broken.split(".")
            name = ".".join((*place, dotted_name(attribute)))
            raise InferenceError(
                f"{self.where(state)}: parameter '{name}' is not finite or has run away; {ADVICE}"
            ) from error

    def where(self, state: GradientState) -> str:
        """The step and epoch that come next."""
        return f"step {state.steps_done} (epoch {state.steps_done * self.epochs // state.steps_planned})"

    def descend(self, state: GradientState, loss: torch.Tensor, terms: Mapping[str, torch.Tensor]) -> None:
        """Add the gradient of `loss`, or refuse it where it is not finite and name the first such of `terms`."""
        refuse_non_finite(loss, self.where(state), terms)
        loss.backward()

    def finish(self, state: GradientState) -> None:
        """Move what is trained, and count the step."""
        self.move(state)
        state.steps_done += 1

    def move(self, state: Any) -> None:
        """Average over the ranks, clip, move, and stay within bounds."""
        state.collect_gradients()
        state.ranks.average(state.moved(), state.moving_buffers())
        if self.clip is not None:
            nn.utils.clip_grad_norm_(state.moved(), self.clip)
        state.optimizer.step()
        state.project()
