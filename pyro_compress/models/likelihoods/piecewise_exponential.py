"""Hazards that are constant on intervals: a survival likelihood that is a product over examples."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution

from pyro_compress.errors import DataError, InferenceError
from pyro_compress.models.likelihoods.survival import SurvivalLikelihood, times_and_events


@dataclass(frozen=True)
class PiecewiseExponential(SurvivalLikelihood):
    """Hazard exp(f_j(x)) from τ_{j−1} to τ_j (Holford 1976; Friedman 1982); f_1 … f_J are the outputs, τ_0 = 0.

    ln p(t, e | x) = e f_{j(t)} − Σ_j exp(f_j) |(τ_{j−1}, τ_j] ∩ (0, t]|

    which is Poisson's ln p of the events in each interval, up to a constant.  The last hazard goes on beyond τ_J.
    Outputs are of shape (examples, J); with one interval also (examples,).  With a network of
    `models.hazards.proportional_hazards`, one number added to every interval's baseline, hazards are proportional as
    Cox's are, and the baseline is part of the network and of its file.

    `mean` is the survival curve at τ_1 … τ_J, (examples, J), E[1{time > τ_j}], so an average over draws is the curve of
    the posterior predictive; `survival` gives it at other times.

    Args:
        breaks: τ_1 < … < τ_J, in the unit of the times; `quantile_breaks` takes them from the events.

    Raises:
        InferenceError: they are not positive and ascending.
    """

    breaks: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (0.0, *self.breaks)
        if not self.breaks or any(not a < b < math.inf for a, b in pairwise(ends)):
            raise InferenceError(
                "a piecewise-exponential likelihood needs the ends of its intervals, positive and ascending, found "
                f"breaks={self.breaks}"
            )

    def distribution(self, output: torch.Tensor) -> "PiecewiseExponentialDistribution":
        return PiecewiseExponentialDistribution(output.reshape(len(output), -1), self.breaks)

    def risk(self, output: torch.Tensor) -> torch.Tensor:
        """The cumulative hazard at τ_J: with proportional hazards it orders as the log hazard ratio does."""
        return -self.log_survival(output, self._ends()[-1:])[:, 0]

    def log_survival(self, output: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """ln S(t | x), (examples, times), at `times` of shape (times,)."""
        hazards = output.reshape(len(output), -1).exp()
        return -hazards @ exposures(times.to(hazards), self.breaks).mT

    def survival(self, output: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """S(t | x), (examples, times), at `times` of shape (times,)."""
        return self.log_survival(output, times).exp()

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """S(τ_j | x), (examples, J)."""
        return self.survival(output, self._ends())

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        """The log hazards that lead from each S(τ_{j−1}) to S(τ_j)."""
        log_survival = mean.log()
        hazards = -torch.diff(log_survival, dim=-1, prepend=torch.zeros_like(log_survival[..., :1]))
        return (hazards / self._lengths(mean)).log()

    def variance(self, output: torch.Tensor, latent: torch.Tensor | None = None) -> torch.Tensor:
        """S (1 − S) at each τ_j."""
        mean = self.mean(output)
        return mean * (1 - mean)

    def cross_entropy(
        self, output: torch.Tensor, mean: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """−E ln p over times that follow the curve `mean` and are censored at τ_J.

        Where S falls from S_{j−1} to S_j at a constant hazard h_j, a share S_{j−1} − S_j has its event in the interval,
        and S_{j−1} − S_j over h_j is the mean time spent there.
        """
        falls = -torch.diff(mean, dim=-1, prepend=torch.ones_like(mean[..., :1]))
        spent = falls / self.link(mean).exp()
        log_hazards = output.reshape(len(output), -1)
        return (spent * log_hazards.exp() - falls * log_hazards).sum(-1)

    def check_teacher(self, teacher: torch.Tensor, where: str) -> None:
        falls = -torch.diff(teacher, dim=-1, prepend=torch.ones_like(teacher[..., :1]))
        wrong = ((falls <= 0) | (teacher <= 0)).any(-1)
        if bool(wrong.any()):
            index = int(torch.nonzero(wrong)[0])
            raise DataError(
                f"{where}: {teacher[index].tolist()} at index {index} is no survival curve: it falls from 1 at every "
                "step and stays above 0"
            )

    def check(self, output: torch.Tensor, target: torch.Tensor | None) -> None:
        count = len(self.breaks)
        if output.shape[1:] != (count,) and not (count == 1 and output.ndim == 1):
            raise DataError(
                f"PiecewiseExponential likelihood: outputs of shape {tuple(output.shape)}, expected one log hazard for "
                f"each of {count} intervals, ({len(output)}, {count}): change the network's last layer or the breaks"
            )
        super().check(output, target)

    def _ends(self) -> torch.Tensor:
        return torch.tensor(self.breaks, dtype=torch.float64)

    def _lengths(self, like: torch.Tensor) -> torch.Tensor:
        return torch.diff(torch.tensor((0.0, *self.breaks), dtype=like.dtype, device=like.device))


def quantile_breaks(target: torch.Tensor, intervals: int) -> tuple[float, ...]:
    """Ends of intervals with about as many events each, and the largest time as the last.

    Args:
        target: times and events, (examples, 2).
        intervals: how many, at least 1.

    Raises:
        DataError: there are too few different times of events.
    """
    time, event = target.double().unbind(-1)
    shares = torch.arange(1, intervals, dtype=torch.float64) / intervals
    happened = time[event > 0]
    inner = torch.quantile(happened, shares).tolist() if len(happened) and intervals > 1 else []
    breaks = (*inner, float(time.max()))
    if intervals < 1 or len({0.0, *breaks}) != intervals + 1:
        raise DataError(
            f"{intervals} intervals cannot be told apart by the times of {len(happened)} events: ask for fewer, and at "
            "least 1"
        )
    return breaks


def exposures(time: torch.Tensor, breaks: tuple[float, ...]) -> torch.Tensor:
    """(..., J): the time spent in each interval until `time`, (...); the last one has no end."""
    ends = torch.tensor((0.0, *breaks[:-1], math.inf), dtype=time.dtype, device=time.device)
    return (torch.minimum(time[..., None], ends[1:]) - ends[:-1]).clamp(min=0)


class PiecewiseExponentialDistribution(TorchDistribution):
    """Times (and events, 1 of every draw) under hazards that are constant on intervals; see `PiecewiseExponential`.

    Args:
        log_hazards: (..., J).
        breaks: ends of the intervals.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = times_and_events
    has_rsample = False

    def __init__(self, log_hazards: torch.Tensor, breaks: tuple[float, ...]) -> None:
        self.log_hazards, self.breaks = log_hazards, breaks
        super().__init__(log_hazards.shape[:-1], torch.Size((2,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PiecewiseExponentialDistribution":
        return PiecewiseExponentialDistribution(self.log_hazards.expand(*batch_shape, -1), self.breaks)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        time, event = value[..., 0], value[..., 1]
        spent = exposures(time.to(self.log_hazards.dtype), self.breaks)
        inner = torch.tensor(self.breaks[:-1], dtype=time.dtype, device=time.device)
        where = torch.searchsorted(inner, time.contiguous())
        at_event = self.log_hazards.expand(spent.shape).gather(-1, where[..., None])[..., 0]
        return event * at_event - (self.log_hazards.exp() * spent).sum(-1)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        """By inverting the cumulative hazard at a standard exponential."""
        shape = (*torch.Size(sample_shape), *self.batch_shape)
        hazards = self.log_hazards.exp().expand(*shape, -1)
        starts = torch.tensor((0.0, *self.breaks[:-1]), dtype=hazards.dtype, device=hazards.device)
        passed = torch.cat([torch.zeros_like(hazards[..., :1]), (hazards[..., :-1] * starts.diff()).cumsum(-1)], -1)
        target = torch.empty(shape, dtype=hazards.dtype, device=hazards.device).exponential_()[..., None]
        where = (passed <= target).sum(-1, keepdim=True) - 1
        time = starts[where] + (target - passed.gather(-1, where)) / hazards.gather(-1, where)
        return torch.cat([time, torch.ones_like(time)], -1)
