"""A network run on every draw of its posterior, one by one: predictions, log-likelihoods, the log joint.

Results keep the draws' axes, (chain, draw, example, ...), so that diagnostics can compare chains.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.func import functional_call

from pyro_compress.data.sources import as_inputs
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import InferenceError
from pyro_compress.inference.loop.alone import alone
from pyro_compress.inference.loop.dtypes import in_network_type
from pyro_compress.inference.results.from_draws import derived_shapes, derived_values
from pyro_compress.inference.results.iid_draws import independent_draws
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.sites import is_deterministic, log_prob, weighted, weighted_total
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Posterior


@alone()
@in_network_type
def draws_of_guide(model: BayesianNetwork, posterior: Posterior, count: int, seed: int) -> Draws:
    """Independent draws of every site of a closed-form guide, of w where it follows from sites, of point estimates.

    Raises:
        InferenceError: the posterior is a point estimate.
    """
    sampled = {name: torch.from_numpy(value) for name, value in posterior.sample_latents(count, seed).items()}
    fixed = {name: torch.from_numpy(posterior.parameters[name].mean)[None] for name in model.free_values()}
    following: dict[str, Tensor] = {}
    if derived_shapes(model):
        at = model.at(posterior.hyperparameters)
        each = [derived_values(at, {name: v[index] for name, v in sampled.items()}) for index in range(count)]
        following = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    return independent_draws(sampled | fixed | following, count, (*fixed, *following))


@alone()
@in_network_type
def predictions(
    model: BayesianNetwork, posterior: Posterior, x: Tensor, *, chunk: int = EXAMPLES_PER_PASS
) -> np.ndarray:
    """float32, (chain, draw, example, ...): the likelihood's mean under every draw; class probabilities.

    Args:
        model: that the posterior was fitted to, left as it is; buffers are the posterior's.
        posterior: with draws; `draws_of_guide` makes them of a guide.
        x: inputs, (examples, *input shape).
        chunk: examples per pass.
    """

    def mean(values: dict[str, Tensor], output: Tensor, where: slice) -> Tensor:
        return model.likelihood.mean(output)

    return _collected(model, posterior, x, mean, chunk)


@alone()
@in_network_type
def log_likelihoods(
    model: BayesianNetwork, posterior: Posterior, x: Tensor, y: Tensor, *, chunk: int = EXAMPLES_PER_PASS
) -> np.ndarray:
    """float32, (chain, draw, example): log p(y_i | x_i, θ) in nats under every draw; arguments as above.

    Raises:
        InferenceError: the likelihood is no product over examples, so that leaving one out is none of its terms.
    """
    if not model.likelihood.factorises:
        raise InferenceError(
            f"{type(model.likelihood).__name__}'s likelihood is no product over examples: none has one of its own to "
            "leave out, as LOO does; take 'piecewise-exponential', or leave log-likelihoods out"
        )

    def score(values: dict[str, Tensor], output: Tensor, where: slice) -> Tensor:
        return _log_likelihood(model, values, output, y[where])

    return _collected(model, posterior, x, score, chunk)


@alone()
@in_network_type
def log_joints(
    model: BayesianNetwork,
    posterior: Posterior,
    x: Tensor,
    y: Tensor,
    *,
    size: int | None = None,
    chunk: int = EXAMPLES_PER_PASS,
) -> np.ndarray:
    """float64, (chain, draw): log p(θ) + (N/n) Σ_i log p(y_i | x_i, θ) under every draw; keeps no row per example.

    Args:
        model, posterior, x, y, chunk: as above.
        size: N; the number of examples given if None.

    Raises:
        PriorError: a prior without a density, because it is improper.
    """
    draws, model = _draws_of(posterior), model.at(posterior.hyperparameters)
    found = np.empty((draws.chains, draws.count))
    scale = 1.0 if size is None else size / len(x)
    chunk = chunk if model.likelihood.factorises else len(x)
    for (chain, draw), values, run in _networks(model, posterior):
        data = 0.0
        for start in range(0, len(x), chunk):
            where = slice(start, start + chunk)
            data += float(_log_likelihood(model, values, run(x[where]), y[where]).double().sum())
        found[chain, draw] = _log_prior(model, values) + scale * data
    return found


def _collected(
    model: BayesianNetwork,
    posterior: Posterior,
    x: Tensor,
    of: Callable[[dict[str, Tensor], Tensor, slice], Tensor],
    chunk: int,
) -> np.ndarray:
    draws = _draws_of(posterior)
    if len(x) == 0:
        raise InferenceError("there are no examples to run the draws on")
    found: np.ndarray | None = None
    for (chain, draw), values, run in _networks(model, posterior):
        for start in range(0, len(x), chunk):
            where = slice(start, min(start + chunk, len(x)))
            part = of(values, run(x[where]), where).numpy()
            if found is None:
                found = np.empty((draws.chains, draws.count, len(x), *part.shape[1:]), np.float32)
            found[chain, draw, where] = part
    assert found is not None
    return found


def _networks(
    model: BayesianNetwork, posterior: Posterior
) -> Iterator[tuple[tuple[int, int], dict[str, Tensor], Callable[[Tensor], Tensor]]]:
    """((chain, draw), values of all sites, the network with them) of every draw."""
    draws = _draws_of(posterior)
    network = copy.deepcopy(model.network).eval()
    buffers = {name: torch.from_numpy(np.array(value)) for name, value in posterior.buffers.items()}
    # draws hold no constants
    names = [name for name, value in network.named_parameters() if value.requires_grad]
    lacking = [name for name in names if name not in draws.shapes]
    if lacking:
        raise InferenceError(f"the draws lack parameters of the network: {', '.join(lacking)}")
    untouched = Untouched()

    def run(held: dict[str, Tensor], part: Tensor) -> Tensor:
        output: Tensor = untouched(lambda x: functional_call(network, held, (x,)), as_inputs(part))
        return output

    places = ((chain, draw) for chain in range(draws.chains) for draw in range(draws.count))
    for place, (_, arrays) in zip(places, draws.rows(), strict=True):
        # a copy: rows of a file are not writable, which torch refuses to share
        values = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
        held = {name: values[name] for name in names} | buffers
        with torch.no_grad():
            yield place, values, partial(run, held)


def _log_likelihood(model: BayesianNetwork, values: dict[str, Tensor], output: Tensor, y: Tensor) -> Tensor:
    """(n,) nats."""
    latent = poutine.condition(model.likelihood.sample_latents, data=values)()
    trace: Any = poutine.trace(model.likelihood.observe).get_trace(output, y, latent)
    nodes = [trace.nodes[name] for name in trace.observation_nodes if not is_deterministic(trace.nodes[name])]
    return torch.stack([weighted(node, log_prob(node)).reshape(len(y), -1).sum(1) for node in nodes]).sum(0)


def _log_prior(model: BayesianNetwork, values: dict[str, Tensor]) -> float:
    """Total nats; point estimates have a flat prior and add nothing."""

    def prior() -> None:
        model.sample_weights()
        model.likelihood.sample_latents()

    latent = {site.name: values[site.name] for site in model.latents()}
    # a draw outside the prior's support has density zero, which validation would refuse
    with pyro.validation_enabled(False):
        trace: Any = poutine.trace(poutine.condition(prior, data=latent)).get_trace()
        nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
        total = sum((weighted_total(node, log_prob(node).double()) for node in nodes), torch.zeros(()))
    return float(total)


def _draws_of(posterior: Posterior) -> Draws:
    if posterior.draws is None:
        raise InferenceError("the posterior has no draws to run the network on: make them with draws_of_guide(...)")
    return posterior.draws
