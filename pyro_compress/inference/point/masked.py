"""What trainings with masks share: which weights may be off, which are, and that they are zero in the posterior."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.point.dropout import Dropout, dropped_inputs
from pyro_compress.inference.point.map import MAP, PointState
from pyro_compress.posterior.posterior import Posterior


class MaskedState(PointState):
    """Points of which some weights are off.

    Attributes:
        masks: boolean, which weights are on, by name: of all weights of dense layers and convolutions that are trained.
    """

    def __init__(self, base: PointState, method: str) -> None:
        super().__init__(base.model, base.points, base.optimizer, base.size, base.steps_planned)
        self.masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in maskable(base, method).items()}

    def present(self) -> dict[str, torch.Tensor]:
        """The weights that have a mask, by name."""
        weights = self.points.unmade_weights()
        return {name: weights[name] for name in self.masks}

    def apply(self) -> None:
        """Zero what is off."""
        with torch.no_grad():
            for name, weight in self.present().items():
                weight.mul_(self.masks[name])

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "masks": {name: mask.clone() for name, mask in self.masks.items()}}

    def restore(self, captured: dict[str, Any]) -> None:
        super().restore(captured)
        self.masks = self.taken_back(captured["masks"])

    def taken_back(self, captured: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies on the device of the weights; a checkpoint is read on the CPU."""
        present = self.present()
        return {name: tensor.clone().to(present[name].device) for name, tensor in captured.items()}


@dataclass(frozen=True)
class MaskedTraining(Dropout):
    """Plain training, or dropout, of a network some of whose weights are off.

    A layer of which the share d of the weights is left drops its inputs at the rate p √d: fewer of them need less of it
    (Han et al. 2015).

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate, clip: see `GradientMethod`.
        rate, input_rate: of dropout, see `Dropout`; 0 is plain training.
    """

    rate: float = 0.0

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> MaskedState:
        return MaskedState(super().init(model, size, seed, held), type(self).__name__)

    def terms(self, state: PointState, batch: Batch) -> ElboTerms:
        assert isinstance(state, MaskedState)
        with dropped_inputs(state.model.network, self.rates_left(state)):
            return MAP.terms(self, state, batch)

    def rates_left(self, state: MaskedState) -> dict[str, float]:
        """p √d by the name of a layer's weight."""
        rates = self.dropout_rates(state.model.network)
        if any(rates.values()):
            for name in rates.keys() & state.masks.keys():
                rates[name] *= float(state.masks[name].float().mean()) ** 0.5
        return rates

    def draw(self, state: PointState) -> Posterior:
        """What is off is zero, and no decision gives it bits."""
        assert isinstance(state, MaskedState)
        posterior = super().draw(state)
        found = dict(posterior.parameters)
        for name, mask in state.masks.items():
            on = as_array(mask).astype(bool)
            found[name] = replace(found[name], mean=found[name].mean * on, off=~on)
        return replace(posterior, parameters=found)


def maskable(state: PointState, method: str) -> dict[str, torch.Tensor]:
    """The weights of dense layers and convolutions that are trained, by name.

    Raises:
        InferenceError: there are none, or a prior makes one of several sites.
    """
    joint = [parameter.name for parameter, _ in state.points.kinds.joint]
    if joint:
        raise InferenceError(
            f"{method} takes single weights out, and the prior of '{joint[0]}' makes it of several sites: give it a "
            "prior on the weight itself, such as Normal(...)"
        )
    found = {name: w for name, w in state.points.unmade_weights().items() if w.ndim > 1 and w.requires_grad}
    if not found:
        raise InferenceError(
            f"{method} takes weights of dense layers and convolutions out, and here is none that is trained"
        )
    return found
