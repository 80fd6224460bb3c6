"""Dropout and MC dropout (Srivastava et al. 2014; Gal & Ghahramani 2016).

    minimise over θ   −(N/n) Σ_i E_m log p(y_i | x_i, θ, m_i) − log p(θ),    m ~ Bernoulli(1 − p) / (1 − p)

where the mask m_i multiplies the inputs of dense layers and convolutions, drawn for every example, and the same at all
places of it.  A mask on the inputs of a layer is one on its weights: column j of a dense weight, or all kernels of
input channel j, times m_j.  So dropout has a posterior over weights, with E w = θ and Var w = θ² p / (1 − p), columns
rigidly together; `MCDropout` returns it.  All its weights have the same ratio |E w| / sd(w) = √((1 − p) / p): it can't
tell which to prune.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Method, Model
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.gradient.gradient_method import as_array, buffer_arrays
from pyro_compress.inference.loop.feed import Batch, Feed
from pyro_compress.inference.point.map import MAP, PointState
from pyro_compress.inference.results.from_draws import derived_shapes
from pyro_compress.inference.results.iid_draws import check_draws, independent_draws, number_of_draws
from pyro_compress.inference.results.judged import with_all_stored
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.parameters import TRANSPOSED, slots_of
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass(frozen=True)
class Dropout(MAP):
    """Bernoulli dropout training of the given network; the point estimate that goes without masks.

    Priors enter as under `MAP`.  Dropout layers of the network's own stay as they are, beside these masks.

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate,
            clip, rates, kl_weight: see `MAP`.
        rate: p, chance that an input unit of a dense layer or an input channel of a convolution is dropped.
        input_rate: p of the first such layer, which reads the data.
    """

    rate: float = 0.5
    input_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.rate < 1 and 0 <= self.input_rate < 1):
            raise InferenceError(
                f"dropout rates must lie in [0, 1), found rate={self.rate}, input_rate={self.input_rate}"
            )

    def for_model(self, model: Model, feed: Feed) -> Method:
        return self

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> PointState:
        if not isinstance(model, BayesianNetwork):
            raise InferenceError(
                f"{type(self).__name__} is of a network's layers, and {model.name} is a Pyro model without layers: "
                "give a BayesianNetwork, or use MAP(...)"
            )
        return super().init(model, size, seed, held)

    def terms(self, state: PointState, batch: Batch) -> ElboTerms:
        """As for MAP, under one mask per example."""
        with dropped_inputs(state.model.network, self.dropout_rates(state.model.network)):
            return super().terms(state, batch)

    def dropout_rates(self, network: nn.Module) -> dict[str, float]:
        """p by the name of the weight that reads what is dropped."""
        rates = {}
        for index, (name, module) in enumerate(_layers(network)):
            # a frozen weight is a constant, and so is what it is times
            frozen = not getattr(module.weight, "requires_grad", True)
            rates[f"{name}.weight" if name else "weight"] = 0.0 if frozen else self.rate if index else self.input_rate
        return rates


@dataclass(frozen=True)
class MCDropout(Dropout):
    """Dropout whose masks stay on when it predicts, as a posterior over weights (Gal & Ghahramani 2016).

    Moments are exact; draws are independent, one mask for all examples.  The fit is that of `Dropout`, and no bound on
    the evidence is claimed: the complexity that is reported is −log p(θ).

    Args:
        epochs, batch_size, learning_rate, optimizer, schedule, rate_warmup, accumulate,
            clip, rate, input_rate: see `Dropout`.
        draws: that the posterior carries; None is 1,000, or as many as 256 MiB hold.
    """

    draws: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_draws(self.draws, "MCDropout")

    def init(self, model: Model, size: int, seed: int, held: int | None = None) -> "MCDropoutState":
        products = derived_shapes(model)
        if products:
            raise InferenceError(
                f"MC dropout draws the weight itself, but the prior of '{next(iter(products))}' declares it as a "
                "product of sites: give it a prior on the weight, such as Normal(...)"
            )
        base = super().init(model, size, seed, held)
        assert isinstance(base.model, BayesianNetwork)
        _refuse_shared(base.model)
        if not base.model.likelihood.factorises:
            raise InferenceError(
                f"MC dropout has a mask for every example, and {type(base.model.likelihood).__name__}'s likelihood is "
                "no product over examples, so that a posterior over weights takes one for all: use SVI(...) or a "
                "sampler"
            )
        return MCDropoutState(base.model, base.points, base.optimizer, base.size, base.steps_planned, seed)

    def draw(self, state: PointState) -> Posterior:
        assert isinstance(state, MCDropoutState)
        network, weights = state.model.network, {n: w.detach() for n, w in state.points.weights().items()}
        width = sum(weight.numel() for weight in weights.values())
        count, rates = number_of_draws(self.draws, width), self.dropout_rates(network)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(state.seed)
            masks = {name: weight_masks(network, name, rate, count) for name, rate in rates.items() if rate > 0}
        values = {name: weight * masks[name] if name in masks else weight[None] for name, weight in weights.items()}
        latents = {name: value.detach()[None] for name, value in state.points.latents().items()}
        draws = independent_draws(values | latents, count, derived=tuple(state.model.free_values()))
        provenance = {"moments": "exact, over masks"}
        return Posterior(
            self._parameters(state, weights), {}, buffer_arrays(state.model), "iid", provenance, draws=draws
        )

    def draw_for_validation(self, state: PointState) -> Posterior:
        weights = {name: weight.detach() for name, weight in state.points.weights().items()}
        return Posterior(self._parameters(state, weights), kind="iid")

    def _parameters(self, state: PointState, weights: Mapping[str, torch.Tensor]) -> dict[str, ParameterPosterior]:
        found, rates = {}, self.dropout_rates(state.model.network)
        for name, weight in weights.items():
            mean, rate = as_array(weight), rates.get(name, 0.0)
            if rate:
                variance = as_array(weight.square() * (rate / (1 - rate)))
                found[name] = ParameterPosterior(mean, variance, "dropout", ratio_ranks=False)
            else:
                found[name] = ParameterPosterior.point(mean, frozen=name in state.points.frozen)
        return with_all_stored(found, state.points.kinds.all, weights)


def _refuse_shared(model: BayesianNetwork) -> None:
    """A draw has one mask for a weight, and layers that share it have masks of their own."""
    dropped = {id(module.weight) for _, module in _layers(model.network)}
    for name, slots in slots_of(model.network).items():
        if len(slots) > 1 and id(model.network.get_parameter(name)) in dropped:
            raise InferenceError(
                f"MC dropout cannot draw {name}, which several modules have as their own: their inputs have masks of "
                "their own, and a draw of a weight has one; Dropout(...) fits such networks, to a point estimate"
            )


class MCDropoutState(PointState):
    """The points are what is trained; the seed is of the draws."""

    def __init__(
        self,
        model: BayesianNetwork,
        points: Any,
        optimizer: torch.optim.Optimizer,
        size: int,
        steps_planned: int,
        seed: int,
    ) -> None:
        super().__init__(model, points, optimizer, size, steps_planned)
        self.seed = seed


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Dense layers and convolutions in the order in which the network registers them."""
    for name, module in network.named_modules():
        # attention reads the weight of its output projection and never calls the module
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and not isinstance(module, NonDynamicallyQuantizableLinear):
            yield name, module


@contextmanager
def dropped_inputs(network: nn.Module, rates: Mapping[str, float]) -> Iterator[None]:
    """Within the context layers see their inputs through masks, one per example.

    Args:
        network: whose layers.
        rates: p by the name of a layer's weight.
    """
    count = [0]
    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(lambda _, inputs: count.__setitem__(0, len(inputs[0]))).remove)
        for name, module in _layers(network):
            rate = rates[f"{name}.weight" if name else "weight"]
            if rate > 0:
                drop = _channels(rate) if isinstance(module, CONVOLUTIONS) else _units(rate, count)
                stack.callback(module.register_forward_pre_hook(drop).remove)
        yield


def _units(rate: float, count: Sequence[int]) -> Any:
    """Masks of the features, which lie last, for as many examples as `count` holds by then."""

    def drop(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0]
        if x.ndim < 3:
            return F.dropout(x, rate), *inputs[1:]
        examples = next((axis for axis in range(x.ndim - 1) if x.shape[axis] == count[0]), 0)
        kept = [size if axis in (examples, x.ndim - 1) else 1 for axis, size in enumerate(x.shape)]
        return x * F.dropout(x.new_ones(kept), rate), *inputs[1:]

    return drop


def _channels(rate: float) -> Any:
    def drop(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0]
        mask = F.dropout(x.new_ones(*x.shape[:2], *[1] * (x.ndim - 2)), rate)
        return x * mask, *inputs[1:]

    return drop


def weight_masks(network: nn.Module, name: str, rate: float, count: int) -> torch.Tensor:
    """Masks in the shape of weight `name`, (count, outputs, inputs, *kernel or ones).

    An input channel of a grouped convolution meets the filters of its group alone.
    """
    module = network.get_submodule(name.rpartition(".")[0])
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    groups = getattr(module, "groups", 1)
    kept = F.dropout(torch.ones(count, groups, 1, weight.shape[1]), rate)
    outputs = weight.shape[0]
    masks = kept.expand(count, groups, outputs // groups, weight.shape[1]).reshape(count, outputs, weight.shape[1])
    return masks.reshape(*masks.shape, *[1] * (weight.ndim - 2))
