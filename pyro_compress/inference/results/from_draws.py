"""From a sampler's draws to a posterior: moments of every parameter, groups, the weights that follow from sites."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from pyro import poutine

from pyro_compress.errors import PriorError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.gradient_method import as_array, buffer_arrays
from pyro_compress.inference.results.judged import unscaled_site, with_criterion, with_stored
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import Moments, Prior
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def derived_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's parameters that are no site of their own but follow from some, as w = z·w̃ does."""
    if not isinstance(model, BayesianNetwork):
        return {}
    sites = {site.name for site in model.latents()} | set(model.free_values()) | set(model.frozen_values())
    return {name: tuple(p.shape) for name, p in model.network.named_parameters() if name not in sites}


def derived_values(model: Model, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those parameters, from one value of every site."""
    if not isinstance(model, BayesianNetwork):
        return {}
    with torch.no_grad():
        weights = poutine.condition(model.sample_weights, data=dict(values))({})
    return {name: weights[name] for name in derived_shapes(model)}


def posterior_from_draws(model: Model, draws: Draws, kind: str) -> Posterior:
    """Moments of every parameter from its draws.

    Of several Markov chains only one is taken, that of the highest mean log joint: chains of a network lie in modes
    that are copies of one another (permuted units), between which a mean means nothing.

    Moments have the precision of the draws.

    Args:
        model: that was sampled.
        draws: of its sites, and of the parameters that follow from them.
        kind: 'chains' or 'iid'.
    """
    chosen, note = draws, "all draws"
    if kind == "chains" and draws.chains > 1 and isinstance(model, BayesianNetwork):
        best = best_chain(draws)
        chosen, note = draws.select(best), f"chain {best} of {draws.chains}, which has the highest mean log joint"
    moments = chosen.moments()
    parameters = (
        _network_parameters(model, chosen, moments)
        if isinstance(model, BayesianNetwork)
        else {
            name: ParameterPosterior(mean.astype(draws.flat.dtype), variance.astype(draws.flat.dtype), "site")
            for name, (mean, variance) in moments.items()
        }
    )
    buffers = buffer_arrays(model) if isinstance(model, BayesianNetwork) else {}
    return Posterior(parameters, {}, buffers, kind, {"moments": note}, {}, draws)


def best_chain(draws: Draws) -> int:
    """The chain whose log joint is highest in the weighted mean over its draws."""
    if "lp" not in draws.statistics:
        return 0
    weights, found = draws.weights(), np.where(np.isfinite(draws.statistics["lp"]), draws.statistics["lp"], -1e300)
    return int(np.argmax((weights * found).sum(1) / np.maximum(weights.sum(1), math.ulp(0.0))))


def _network_parameters(
    model: BayesianNetwork, draws: Draws, moments: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, ParameterPosterior]:
    priors = {parameter.name: (parameter, prior) for parameter, prior in model.parameters_covered}
    found, frozen = {}, model.frozen_values()
    for name, _ in model.network.named_parameters():
        if name in frozen:
            found[name] = ParameterPosterior.point(as_array(frozen[name]), frozen=True)
            continue
        mean, variance = (part.astype(draws.flat.dtype) for part in moments[name])
        if name not in priors:
            found[name] = ParameterPosterior.point(mean)
            continue
        parameter, prior = priors[name]
        # draws lie in memory, whatever device surrounds this
        with torch.device("cpu"):
            made = ParameterPosterior(mean, variance, type(prior).__name__)
            made = with_stored(made, parameter, prior, torch.from_numpy(mean))
            found[name] = _judged(made, parameter, prior, draws, moments)
    return found


def _judged(
    made: ParameterPosterior,
    parameter: Parameter,
    prior: Prior,
    draws: Draws,
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> ParameterPosterior:
    """With what the prior says of its sites' moments; where ln z is a sum over sites, of ln z itself.

    A guide's factors are independent and their variances add; those of a posterior are not.
    """
    own = [name for name in draws.shapes if name == parameter.name or name.startswith(f"{parameter.name}.")]
    sites = {name: Moments("", *(torch.from_numpy(np.asarray(part)).float() for part in moments[name])) for name in own}
    criterion = prior.criterion
    if criterion is None or criterion.of != "log_scale":
        return with_criterion(made, parameter, prior, sites)
    large = {parameter.name, unscaled_site(parameter, prior)}
    small = {name: torch.from_numpy(draws.site(name).astype(np.float64)) for name in own if name not in large}
    log_scale = prior.log_scale(parameter, small)
    if log_scale is None:
        raise PriorError(f"{type(prior).__name__} is judged by ln z: draws need its log_scale(parameter, values)")
    weights = torch.from_numpy(draws.weights())[..., None]
    mean = (weights * log_scale).sum((0, 1))
    variance = (weights * (log_scale - mean).square()).sum((0, 1))
    return with_criterion(made, parameter, prior, sites, (mean, variance))


def point_estimates(model: Model) -> dict[str, ParameterPosterior]:
    """The parameters that a Pyro model trains; those of a network stand among its posterior's already."""
    if isinstance(model, BayesianNetwork):
        return {}
    arrays = {name: as_array(value) for name, value in model.free_values().items()}
    return {name: ParameterPosterior.point(value) for name, value in arrays.items()}


def point_posterior(model: Model, values: Mapping[str, torch.Tensor]) -> Posterior:
    """One value of every site as a point estimate of the parameters."""
    names, frozen = list(values), {}
    if isinstance(model, BayesianNetwork):
        frozen = model.frozen_values()
        values = dict(values) | derived_values(model, values) | frozen
        names = [name for name, _ in model.network.named_parameters()]
    found = {name: ParameterPosterior.point(as_array(values[name]), frozen=name in frozen) for name in names}
    return Posterior(found, kind="point")
