"""Running statistics of batch norms, which a recorded step moves as the program does.

A recording holds what is no argument of it as it was.  So these buffers become arguments, into which the recording
writes what torch's own batch norm writes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_compress.models.bayesian import BayesianNetwork


@dataclass(frozen=True, eq=False)
class Statistics:
    """Buffers of a network's batch norms, by the names of module and buffer."""

    slots: tuple[tuple[str, nn.Module, str], ...]

    @staticmethod
    def of(model: Any) -> "Statistics":
        """Those of torch's own batch norms; none of a model that is no network.

        A batch norm without momentum takes a mean over all batches, whose number is no tensor in it: those stay out.
        """
        if not isinstance(model, BayesianNetwork):
            return Statistics(())
        norms = [
            (name, module)
            for name, module in model.network.named_modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
            and type(module).forward is _BatchNorm.forward
            and module.momentum is not None
        ]
        return Statistics(
            tuple(
                (f"{name}.{buffer}" if name else buffer, module, buffer)
                for name, module in norms
                for buffer, value in module.named_buffers(recurse=False)
                if value is not None
            )
        )

    @property
    def names(self) -> frozenset[str]:
        """Dotted, within the network."""
        return frozenset(name for name, _, _ in self.slots)

    def tensors(self) -> list[Tensor]:
        """As they are."""
        return [module.get_buffer(buffer) for _, module, buffer in self.slots]

    @contextlib.contextmanager
    def placed(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Within this context the batch norms have others."""
        before = self.tensors()
        try:
            self._place(values)
            yield
        finally:
            self._place(before)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What is run within this context moves none of them."""
        with self.placed([one.clone() for one in self.tensors()]):
            yield

    def _place(self, values: Sequence[Tensor]) -> None:
        for (_, module, buffer), value in zip(self.slots, values, strict=True):
            module._buffers[buffer] = value

    def are_all_of(self, buffers: Sequence[Tensor]) -> bool:
        """Whether a network has no other buffers."""
        own = {id(one) for one in self.tensors()}
        return all(id(buffer) in own for buffer in buffers)
