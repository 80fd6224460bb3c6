"""From the prior to the posterior: log p_β(u) = log p(u) + β log p(y | u), with the Jacobian, 0 ≤ β ≤ 1."""

from typing import ClassVar

import torch
from torch import Tensor

from pyro_compress.inference.log_joint.log_joint import LogJoint
from pyro_compress.inference.log_joint.whole_data import WholeData
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.program import Program


class PoweredLogJoint(LogJoint):
    """A log joint whose batch ends with β, so that one record serves them all; data and prior are reported whole."""

    def _terms(self, parts: tuple[Tensor, ...], *batch: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        *given, power = batch
        value, (data, prior) = super()._terms(parts, *given)
        return value + (power - 1) * data, (data, prior)


class Tempered(WholeData):
    """All the data to the power of β; arguments and errors as `WholeData`.

    `at(β)` decides what the next evaluations are of.
    """

    kind: ClassVar[type[LogJoint]] = PoweredLogJoint

    def __init__(self, model: Program, batch: Batch, size: int) -> None:
        super().__init__(model, (*batch, torch.ones(())), size)

    def at(self, power: float) -> None:
        """β from here on."""
        self.batch = (*self.batch[:-1], torch.tensor(power, dtype=self.log_joint.dtype))
