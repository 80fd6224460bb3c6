"""The posterior that a guide stands for, in closed form."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from pyro_compress.inference.contract import Model
from pyro_compress.inference.gradient.gradient_method import as_array, buffer_arrays
from pyro_compress.inference.guides.declared import DeclaredGuide
from pyro_compress.inference.guides.guide import Guide
from pyro_compress.inference.guides.joint import JointGuide
from pyro_compress.inference.results.judged import with_criterion, with_stored
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import Moments
from pyro_compress.posterior.posterior import ParameterPosterior, Posterior


def exact_moments(model: Model, guide: Guide) -> dict[str, ParameterPosterior]:
    """Of every parameter whose moments under the guide have a closed form.

    Those are sites of their own that are normal; where sites are independent, what priors make of such sites as well.
    """
    if isinstance(model, BayesianNetwork):
        moments = guide.moments()
        closed = set(model.free_values()) if isinstance(guide, DeclaredGuide) else set()
        for parameter, prior in model.parameters_covered:
            sites = prior.latents(parameter, torch.zeros(parameter.shape))
            known = isinstance(guide, DeclaredGuide) or parameter.name in moments
            if known and not any(site.family == "transformed" for site in sites):
                closed.add(parameter.name)
        return {name: found for name, found in parameter_moments(model, moments).items() if name in closed}
    # a guide of the user's own knows none
    moments = guide.moments(closed=True) if isinstance(guide, JointGuide) else {}
    return {
        name: ParameterPosterior(as_array(found.mean), as_array(found.variance), "site")
        for name, found in moments.items()
        if found.family == "normal"
    }


def posterior_from_guide(model: BayesianNetwork, guide: DeclaredGuide) -> Posterior:
    """Closed-form posterior: the moments of every parameter and the guide of every site."""
    with torch.no_grad():
        sites = guide.moments()
        parameters = parameter_moments(model, sites)
    assert guide.is_closed_form
    return Posterior(parameters, guide.closed_forms(), buffer_arrays(model), kind="guide")


def parameter_moments(model: BayesianNetwork, sites: Mapping[str, Moments]) -> dict[str, ParameterPosterior]:
    """Moments of every parameter of the network, in its order, from those of the latent sites."""
    parameters = {}
    for parameter, prior in model.parameters_covered:
        mean, variance = prior.weight_moments(parameter, sites)
        moments = ParameterPosterior(as_array(mean), as_array(variance), type(prior).__name__)
        if (value := prior.at_prediction(parameter, sites)) is not None:
            moments = replace(moments, value=as_array(value))
        moments = with_stored(moments, parameter, prior, mean)
        parameters[parameter.name] = with_criterion(moments, parameter, prior, sites)
    frozen = model.frozen_values()
    for name, value in (model.free_values() | frozen).items():
        parameters[name] = ParameterPosterior.point(as_array(value), frozen=name in frozen)
    return {name: parameters[name] for name, _ in model.network.named_parameters()}
