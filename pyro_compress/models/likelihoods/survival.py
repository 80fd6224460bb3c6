"""Survival: what the likelihoods of times to an event share.

A target is a pair (time, event): event 1 where it happened at that time, 0 where the time is all that is known and the
example was censored there.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch.distributions import constraints

from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.posterior.error_unit import NATS, ErrorUnit


class _TimesAndEvents(constraints.Constraint):
    """Pairs (time, event) along the last axis."""

    is_discrete = False
    event_dim = 1

    def check(self, value: Any) -> Any:
        time, event = value[..., 0], value[..., 1]
        return torch.isfinite(time) & (time >= 0) & ((event == 0) | (event == 1))

    def __str__(self) -> str:
        return "pairs (time, event) of a time from 0 and an event of 0 or 1"


times_and_events = _TimesAndEvents()


class SurvivalLikelihood(Likelihood):
    """p(time, event | output), targets (examples, 2) of times and events.

    The error is −ln p in nats, of each example: what is known of it is a time or that a time has passed, and no
    other error than a score of the whole distribution is proper for both (`report.survival` says how well examples
    are ordered, and how well curves are calibrated).
    """

    error_unit: ClassVar[ErrorUnit] = NATS

    @abstractmethod
    def risk(self, output: torch.Tensor) -> torch.Tensor:
        """(examples,): the larger, the sooner the event is expected; what concordance orders by."""

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """−ln p(time, event | output) in nats."""
        self.check(output, target)
        return -self.log_prob(output, target)

    def error_scale(self, target: torch.Tensor) -> float:
        """1: nats are a scale of their own."""
        return 1.0

    def target_shape(self, output: torch.Tensor) -> tuple[int, ...]:
        return (len(output), 2)
