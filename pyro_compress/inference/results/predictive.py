"""The posterior predictive: what the fitted posterior, not one network, says of new inputs.

    p(y | x, D) ≈ Σ_s π_s p(y | x, w_s),   Σ_s π_s = 1

over samples of a guide (π_s = 1/S), a sampler's draws with their weights, or the one value of a point estimate.
Draws are read one at a time and only running moments are kept, so memory does not grow with their number.

What is uncertain splits into two.  For classes (Houlsby et al. 2011; Depeweg et al. 2018), in nats,

    H[E_w p(y | x, w)]  =  E_w H[p(y | x, w)]  +  I(y; w | x, D)
    predictive entropy     expected entropy       mutual information (BALD)

and for any target Var[y | x, D] = E_w Var[y | x, w] (aleatoric) + Var_w E[y | x, w] (epistemic).
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, nn

from pyro_compress.config.keyword_options import whole_number
from pyro_compress.data.sources import as_inputs
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.errors import InferenceError
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.dtypes import in_network_type
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.layouts import filters_last
from pyro_compress.models.module_calls import with_output_of
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior

# samples of a guide that are drawn at once
PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class PosteriorPredictive:
    """What the posterior says of each example; arrays are float64.

    Attributes:
        mean: E[y | x, D], (examples, ...): class probabilities for the categorical likelihood.
        epistemic_variance: Var_w E[y | x, w], in the shape of `mean`: what more data would take away.
        aleatoric_variance: E_w Var[y | x, w], likewise: what no data takes away.
        predictive_entropy: H[y | x, D] in nats, (examples,); None where a mean does not determine the entropy.  Of
            several binary targets it is the sum of each one's own, and so are the next two.
        expected_entropy: E_w H[y | x, w], likewise.
        errors: the likelihood's error of the mean, (examples,), or None without targets.
        nll_nats: −ln p(y | x, D), likewise; None also where the likelihood is no product over examples.
        draws: how many were averaged.
        effective_draws: 1 / Σ π², how many equally weighted ones would know as much.
    """

    mean: np.ndarray
    epistemic_variance: np.ndarray
    aleatoric_variance: np.ndarray
    predictive_entropy: np.ndarray | None
    expected_entropy: np.ndarray | None
    errors: np.ndarray | None
    nll_nats: np.ndarray | None
    draws: int
    effective_draws: float

    @property
    def variance(self) -> np.ndarray:
        """Var[y | x, D], in the shape of `mean`."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def mutual_information(self) -> np.ndarray | None:
        """I(y; w | x, D) in nats, (examples,): zero for a point estimate, never negative."""
        if self.predictive_entropy is None or self.expected_entropy is None:
            return None
        # rounding can leave a difference of two equal entropies below zero
        return np.maximum(0.0, self.predictive_entropy - self.expected_entropy)


@alone()
@in_network_type
def posterior_predictive(
    model: BayesianNetwork,
    posterior: Posterior,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 100,
    seed: int = 0,
    chunk: int = EXAMPLES_PER_PASS,
) -> PosteriorPredictive:
    """Mean, variances and entropies of y for every example, averaged over the posterior.

    Args:
        model: the model that the posterior was fitted to, left as it is; buffers are the posterior's.
        posterior: a guide, draws, or a point estimate.
        x: inputs, (examples, *input shape).
        y: targets, for errors and log-likelihood.
        draws: S, samples of a guide; of a sampler's draws all if there are no more than that, else so many of them,
            taken evenly by weight (systematic resampling).
        seed: of both; neither touches torch's generator.
        chunk: examples per pass; the result does not depend on it.

    Raises:
        InferenceError: the posterior has no value for a parameter of the network, or `draws` is below 1.
        DataError: targets that do not go with the network's outputs.
    """
    model = _ready(model, posterior)
    running = RunningMoments(model.likelihood)
    for weight, values in weighted_values(model, posterior, draws, seed):
        outputs = _outputs(model, values, x, chunk)
        running.add(weight, outputs, values.latent, None if y is None else y.cpu())
    return running.summary(None if y is None else y.cpu())


@alone()
@in_network_type
def predictive_mean(
    model: BayesianNetwork,
    posterior: Posterior,
    x: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
    chunk: int = EXAMPLES_PER_PASS,
) -> Tensor:
    """Mean of y under the posterior predictive; class probabilities for the categorical likelihood.

    Arguments and errors are those of `posterior_predictive`.

    Returns:
        (examples, ...) in the shape of the likelihood's mean.
    """
    model = _ready(model, posterior)
    total = torch.zeros((), dtype=torch.float64)
    for weight, values in weighted_values(model, posterior, draws, seed):
        total = total + weight * model.likelihood.mean(_outputs(model, values, x, chunk))
    return total.float()


@alone()
@in_network_type
def hidden_mean(
    model: BayesianNetwork, posterior: Posterior, x: Tensor, module: str, *, draws: int = 100, seed: int = 0
) -> Tensor:
    """Mean over the posterior of what a module of the network puts out, (examples, ...).

    Args:
        model, posterior, x, draws, seed: as of `posterior_predictive`.
        module: its dotted name.

    Raises:
        NetworkError: there is no such module, or the forward pass does not call it.
    """
    model = _ready(model, posterior)
    total = torch.zeros((), dtype=torch.float64)
    for weight, values in weighted_values(model, posterior, draws, seed):
        total = total + weight * _outputs(model, values, x, 1000, module)
    return total.float()


@alone()
@in_network_type
def predictive_draws(
    model: BayesianNetwork | Callable[..., Any],
    posterior: Posterior,
    *arguments: Tensor,
    draws: int = 100,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draws of what a model would observe, by site: one for each of `draws` draws from the posterior.

    Args:
        model: a BayesianNetwork, whose site is 'y', or any Pyro model that draws what it is not given.
        posterior: of that model; draws are taken by their weights.
        *arguments: of the model, without what is observed: the inputs x of a network.
        draws: how many.
        seed: of the draws; torch's generator is left as it was.

    Returns:
        (draws, ...) by site.
    """
    if isinstance(model, BayesianNetwork):
        model, (x,) = _ready(model, posterior), arguments
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        if isinstance(model, BayesianNetwork):
            each = [
                model.likelihood.distribution_given(model.call_network(values.parameters, x), values.latent).sample()
                for values in equal_values(model, posterior, draws, seed)
            ]
            return {"y": torch.stack(each).numpy()}
        held = {name: torch.from_numpy(value) for name, value in posterior.sample_latents(draws, seed).items()}
        trained = {name: site.mean for name, site in posterior.parameters.items() if name not in held}
        with _trained_in_place(model, trained) as placed:
            found = Predictive(placed, held)(*arguments)
    return {name: value.numpy() for name, value in found.items() if name not in held}


@contextmanager
def _trained_in_place(model: Callable[..., Any], trained: Mapping[str, np.ndarray]) -> Iterator[Callable[..., Any]]:
    """A Pyro model with what a fit of it has trained: parameters of a module, and of Pyro's store by name."""
    values = {name: torch.as_tensor(value) for name, value in trained.items()}
    with pyro.get_param_store().scope():
        if isinstance(model, nn.Module):
            model = copy.deepcopy(model)
            for name, parameter in model.named_parameters():
                if name in values:
                    parameter.copy_(values.pop(name))
        for name, value in values.items():
            pyro.param(name, value)
        yield model


# ---- values of the network's parameters, one draw at a time


class Values(NamedTuple):
    """One value of every parameter of the network by name, and of the likelihood's own latent site if it has one."""

    parameters: Mapping[str, Tensor]
    latent: Tensor | None


def weighted_values(
    model: BayesianNetwork, posterior: Posterior, draws: int, seed: int
) -> Iterator[tuple[float, Values]]:
    """(weight, values) of every draw; weights sum to one.  Arguments and errors are those of `posterior_predictive`."""
    if whole_number(draws, "draws", InferenceError) < 1:
        raise InferenceError(f"a posterior predictive needs at least 1 draw, found draws={draws}")
    if posterior.draws is not None:
        weights = posterior.draws.weights().ravel()
        if weights.size > draws:
            weights = np.bincount(_systematic(weights, draws, seed), minlength=weights.size) / draws
        for index in np.flatnonzero(weights):
            yield float(weights[index]), _row(model, posterior.draws, int(index))
    elif posterior.is_distribution:
        for values in _from_guide(model, posterior, draws, seed):
            yield 1.0 / draws, values
    else:
        own = {name: latent.loc for name, latent in posterior.latents.items()}
        yield 1.0, _values(model, own | {name: site.mean for name, site in posterior.parameters.items()})


def equal_values(model: BayesianNetwork, posterior: Posterior, draws: int, seed: int) -> Iterator[Values]:
    """`draws` values that count the same: each of a sampler's draws comes as often as its weight says."""
    if posterior.draws is not None:
        for index in _systematic(posterior.draws.weights().ravel(), draws, seed):
            yield _row(model, posterior.draws, int(index))
    elif posterior.is_distribution:
        yield from _from_guide(model, posterior, draws, seed)
    else:
        ((_, values),) = weighted_values(model, posterior, 1, seed)
        yield from (values for _ in range(draws))


def _systematic(weights: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` draws, evenly spaced along the cumulated weights (Kitagawa 1996): equal ones are thinned."""
    marks = (np.random.default_rng(seed).random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), marks, side="right"), np.flatnonzero(weights).max())


def _from_guide(model: BayesianNetwork, posterior: Posterior, draws: int, seed: int) -> Iterator[Values]:
    if posterior.hyperparameters:
        model = model.at(posterior.hyperparameters)
    points = {name: site.mean for name, site in posterior.parameters.items() if site.is_point}
    free = {name: torch.as_tensor(value) for name, value in points.items()}
    row_bytes = 4 * sum(latent.loc.size for latent in posterior.latents.values())
    at_once = max(1, PIECE_BYTES // max(1, row_bytes))
    for piece, start in enumerate(range(0, draws, at_once)):
        count = min(at_once, draws - start)
        own = int(np.random.SeedSequence([seed, piece]).generate_state(1)[0])
        sampled = posterior.sample_latents(count, own)
        for index in range(count):
            latents = {name: torch.as_tensor(value[index]) for name, value in sampled.items()}
            with torch.no_grad():
                weights = poutine.condition(model.sample_weights, data=latents)(free)
            yield Values(weights, next((latents[site.name] for site in model.likelihood.latents()), None))


def _row(model: BayesianNetwork, draws: Draws, index: int) -> Values:
    row = np.array(draws.flat[divmod(index, draws.count)])
    return _values(model, {name: row[where].reshape(draws.shapes[name]) for name, where in draws.slices()})


def _values(model: BayesianNetwork, values: Mapping[str, np.ndarray]) -> Values:
    # draws hold no constants
    values = {name: value.cpu().numpy() for name, value in model.frozen_values().items()} | dict(values)
    names = [name for name, _ in model.network.named_parameters()]
    lacking = [name for name in names if name not in values]
    if lacking:
        raise InferenceError(
            f"the posterior has no value of {', '.join(lacking[:3])}, parameters of this network: give the model that "
            "it was fitted to"
        )
    tensors = {name: torch.as_tensor(value).float() for name, value in values.items()}
    latent = next((tensors[site.name] for site in model.likelihood.latents() if site.name in tensors), None)
    return Values({name: tensors[name] for name in names}, latent)


def _ready(model: BayesianNetwork, posterior: Posterior) -> BayesianNetwork:
    """A copy with the posterior's buffers, in evaluation mode."""
    if not isinstance(model, BayesianNetwork):
        name = getattr(model, "__name__", type(model).__name__)
        raise InferenceError(
            f"means of the posterior predictive are of a BayesianNetwork, found {name}: for draws of what any other "
            "Pyro model observes take pyro_compress.inference.results.predictive.predictive_draws"
        )
    model = model.at(posterior.hyperparameters)
    model.network.eval()
    for name, buffer in model.network.named_buffers():
        if name in posterior.buffers:
            buffer.copy_(torch.from_numpy(np.asarray(posterior.buffers[name])))
    return model


def _outputs(model: BayesianNetwork, values: Values, x: Tensor, chunk: int, module: str | None = None) -> Tensor:
    """float64 on the CPU, (examples, ...): the network's outputs, or those of a module of it."""
    parameters = filters_last(model.network, {name: value.to(x.device) for name, value in values.parameters.items()})

    def output(part: Tensor) -> Tensor:
        if module is None:
            return model.call_network(parameters, part)
        return with_output_of(model.network, module, lambda: model.call_network(parameters, part))[1]

    # as a fit reads them
    x = as_inputs(x)
    with torch.no_grad():
        return torch.cat([output(part) for part in x.split(chunk)]).cpu().double()


class RunningMoments:
    """Weighted moments over draws, merged as they come (West 1979), and the log of the mean density."""

    def __init__(self, likelihood: Any) -> None:
        self.likelihood = likelihood
        self.total = self.squares = 0.0
        self.count = 0
        self.mean: Any = 0.0
        self.spread: Any = 0.0
        self.aleatoric: Any = 0.0
        self.entropy: Any = 0.0
        self.log_density: Tensor | None = None

    def add(self, weight: float, output: Tensor, latent: Tensor | None, y: Tensor | None) -> None:
        mean = self.likelihood.mean(output)
        self.total, self.squares, self.count = self.total + weight, self.squares + weight**2, self.count + 1
        share, change = weight / self.total, mean - self.mean
        self.mean = self.mean + share * change
        self.spread = self.spread + weight * change * (mean - self.mean)
        # a mean over draws so far, so that one draw, whatever its weight, gives its own value to the last bit
        self.aleatoric = self.aleatoric + share * (self.likelihood.variance(output, latent) - self.aleatoric)
        entropy = self.likelihood.entropy(mean)
        self.entropy = None if entropy is None else self.entropy + share * (entropy - self.entropy)
        if y is not None:
            self.likelihood.check(output, y)
            if self.count == 1:
                self.likelihood.check_support(output, y, "posterior predictive")
            if self.likelihood.factorises:
                found = self.likelihood.log_prob(output, y, latent) + np.log(weight)
                self.log_density = found if self.log_density is None else torch.logaddexp(self.log_density, found)

    def summary(self, y: Tensor | None) -> PosteriorPredictive:
        entropy = self.likelihood.entropy(self.mean)
        errors = None if y is None else self.likelihood.error(self.likelihood.link(self.mean), y).double().numpy()
        nll = None if self.log_density is None else (np.log(self.total) - self.log_density).numpy()
        return PosteriorPredictive(
            mean=self.mean.numpy(),
            epistemic_variance=(self.spread / self.total).numpy(),
            aleatoric_variance=(self.aleatoric + torch.zeros_like(self.mean)).numpy(),
            predictive_entropy=None if entropy is None else entropy.numpy(),
            expected_entropy=None if entropy is None else self.entropy.numpy(),
            errors=errors,
            nll_nats=nll,
            draws=self.count,
            effective_draws=self.total**2 / self.squares,
        )
