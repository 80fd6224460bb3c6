"""The state of variational methods: what the next step needs, of a network that may lose parts on the way."""

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.gradient_method import GradientState
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.speed.compiled_adam import Adam
from pyro_compress.inference.speed.flat_parameters import FlatParameters
from pyro_compress.inference.speed.normal_stream import Noise
from pyro_compress.inference.speed.statistics import Statistics
from pyro_compress.inference.variational.recorded_step import TracedTerms
from pyro_compress.inference.variational.score_function import Baseline
from pyro_compress.inference.variational.shrinking import RemainingNetwork, ShrinkingNetwork
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.trained import Trained


class VariationalState(GradientState):
    """The guide and the model's point-estimated parameters are what is trained; the baseline is of score functions.

    `averages` are running means of what is trained, once there are any.

    Args:
        model, size, steps_planned: see `GradientState`.
        guide: of the model.
        build: (model, guide) to the vectors that guide and point estimates are moved into, and their optimizer.
        held: examples that an epoch passes over.
        seed: of the run.

    Attributes:
        compiled: whether steps are compiled: once they are, they stay so, also in a run that is resumed.
        has_moved: whether the step that is being taken has moved what is trained.
        whole: the network as it was given, where it may shrink while it is trained.
        input_shape: of one example, as the last step saw it.
        has_buffers: whether a step may move buffers of the network beside the statistics of batch norms.
        shared: sites that the estimator cannot serve and draws once; None before they have been looked for.
    """

    def __init__(
        self,
        model: Model,
        guide: Any,
        build: Callable[[Model, Any], tuple[FlatParameters, torch.optim.Optimizer]],
        size: int,
        steps_planned: int,
        held: int,
        seed: int,
    ) -> None:
        self.build, (self.flat, optimizer) = build, build(model, guide)
        super().__init__(
            model, {"guide": guide, "free": model.free, "hyper": model.hyper}, optimizer, size, steps_planned
        )
        self.guide, self.held, self.seed = guide, held, seed
        self.noise, self.baseline = Noise(seed), Baseline()
        self.averages: list[torch.Tensor] = []
        self.traced: TracedTerms | None = None
        self._adam: Adam | None = None
        self.compiled = self.has_moved = False
        self.whole: ShrinkingNetwork | None = None
        self.input_shape: tuple[int, ...] = ()
        self.has_buffers = not Statistics.of(self.model).are_all_of(self.moving_buffers())
        self.shared: frozenset[str] | None = None

    @property
    def left_nats(self) -> float:
        """Complexity of what shrinking has left out."""
        return 0.0 if self.whole is None else self.whole.left_nats

    def go_on_with(self, left: RemainingNetwork) -> None:
        """Train a narrower model from now on, with an optimizer that remembers nothing yet."""
        self.model, self.guide, self.traced, self._adam = left.model, left.guide, None, None
        self.flat, self.optimizer = self.build(left.model, left.guide)
        self.modules = {"guide": left.guide, "free": left.model.free, "hyper": left.model.hyper}
        self.has_buffers = not Statistics.of(self.model).are_all_of(self.moving_buffers())

    def check_recordings_again(self) -> None:
        if self.traced is not None:
            self.traced.check_recordings_again()

    def adam(self) -> Adam:
        """What moves the vectors where a compiled step does so."""
        if self._adam is None:
            self._adam = Adam(self.optimizer)
        return self._adam

    def moving_buffers(self) -> list[torch.Tensor]:
        users = (self.model.free, getattr(self.guide, "trained", None))
        own = [buffer for held in users if isinstance(held, Trained) for buffer in held.buffers()]
        return [*super().moving_buffers(), *own]

    def clear_gradients(self) -> None:
        self.flat.clear_gradients()

    def collect_gradients(self) -> None:
        self.flat.collect_gradients()

    def project(self) -> None:
        if isinstance(self.guide, DeclaredGuide):
            self.guide.project()

    def whole_pair(self) -> tuple[Model, Any]:
        """Model and guide of the whole network, up to date."""
        if self.whole is None:
            return self.model, self.guide
        self.whole.write_back()
        return self.whole.model, self.whole.guide

    def capture(self) -> dict[str, Any]:
        own = {**self.capture_of_rank(), "compiled": self.compiled}
        own["averages"] = [tensor.clone() for tensor in self.averages]
        whole = None if self.whole is None else self.whole.capture()
        return {**super().capture(), **own, "whole": copy.deepcopy(whole)}

    def reseed(self, seed: int) -> None:
        self.noise = Noise(seed)

    def capture_of_rank(self) -> dict[str, Any]:
        return {"baseline": asdict(self.baseline), "noise": self.noise.capture()}

    def restore_of_rank(self, captured: dict[str, Any]) -> None:
        self.baseline = Baseline(**captured["baseline"])
        self.noise.restore(captured["noise"])

    def restore(self, captured: dict[str, Any]) -> None:
        if captured["whole"] is not None:
            assert isinstance(self.model, BayesianNetwork) and isinstance(self.guide, DeclaredGuide)
            self.whole = ShrinkingNetwork(self.model, self.guide, tuple(captured["whole"]["input_shape"]))
            left = self.whole.restore(captured["whole"])
            if left is not None:
                self.go_on_with(left)
        super().restore(captured)
        # the optimizer remembers by other tensors now
        self._adam = None
        self.restore_of_rank(captured)
        self.compiled = captured["compiled"]
        # a checkpoint is read onto the CPU
        pairs = zip(captured["averages"], self.trained(), strict=False)
        self.averages = [tensor.to(parameter.device, copy=True) for tensor, parameter in pairs]
