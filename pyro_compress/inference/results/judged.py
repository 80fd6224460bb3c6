"""Moments of a parameter together with what its prior declares to be judged by."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from pyro_compress.errors import PriorError
from pyro_compress.inference.gradient.gradient_method import as_array
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import Moments, Prior
from pyro_compress.posterior.posterior import Groups, ParameterPosterior

TensorMoments = tuple[torch.Tensor, torch.Tensor]


def unscaled_site(parameter: Parameter, prior: Prior) -> str | None:
    """Name of the site of w̃ where the weight is w = z·w̃."""
    sites = prior.latents(parameter, torch.zeros(parameter.shape))
    return next((site.name for site in sites if site.role == "weight" and site.name != parameter.name), None)


def with_stored(
    moments: ParameterPosterior, parameter: Parameter, prior: Prior, mean: torch.Tensor
) -> ParameterPosterior:
    """The values that may be stored under a prior and those that are, added to the moments of a parameter."""
    with torch.no_grad():
        found = prior.stored(parameter, mean)
    if found is None:
        return moments
    quantizer, value = found
    return replace(moments, quantizer=quantizer, value=None if value is mean else as_array(value))


def with_all_stored(
    moments: Mapping[str, ParameterPosterior],
    covered: Iterable[tuple[Parameter, Prior]],
    means: Mapping[str, torch.Tensor],
) -> dict[str, ParameterPosterior]:
    """The same for all parameters that priors cover, by name; others stay."""
    pairs = ((parameter, prior, means[parameter.name].detach()) for parameter, prior in covered)
    return {**moments, **{one.name: with_stored(moments[one.name], one, prior, mean) for one, prior, mean in pairs}}


def with_criterion(
    moments: ParameterPosterior,
    parameter: Parameter,
    prior: Prior,
    sites: Mapping[str, Moments],
    scale_moments: TensorMoments | None = None,
) -> ParameterPosterior:
    """What a prior says of its weights or groups, added to their moments.

    Args:
        moments: of the parameter.
        parameter, prior: which, and what covers it.
        sites: moments of the prior's sites.
        scale_moments: in place of those that the prior makes of `sites`.

    Raises:
        PriorError: the prior declares a criterion and doesn't give what its statistic is computed from.
    """
    criterion = prior.criterion
    if criterion is None or (criterion.per_group and parameter.group_axis is None):
        return moments
    name, statistic, scale = type(prior).__name__, None, None
    if criterion.of in ("scale", "log_scale"):
        found = prior.scale_moments(parameter, sites) if scale_moments is None else scale_moments
        if found is None:
            raise PriorError(f"{name} is judged by its '{criterion.of}': it needs scale_moments(parameter, sites)")
        mean, variance = (as_array(part) for part in found)
        statistic = as_array(torch.as_tensor(criterion.value(mean, variance)))
        scale = as_array(found[0].exp() if criterion.of == "log_scale" else found[0].abs())
    elif not criterion.follows_from_moments:
        own = prior.statistic(parameter, sites)
        expected = (parameter.groups,) if criterion.per_group else tuple(parameter.shape)
        if own is None or tuple(own.shape) != expected:
            shape = None if own is None else tuple(own.shape)
            raise PriorError(
                f"{name} is judged by '{criterion.statistic}', a statistic of its own: statistic(parameter, sites) "
                f"must return a tensor of shape {expected} for '{parameter.name}', found {shape}"
            )
        statistic = as_array(own)
    groups = None
    if criterion.per_group:
        assert parameter.group_axis is not None
        groups = Groups(parameter.group_axis, scale, unscaled_site(parameter, prior))
    return replace(moments, groups=groups, criterion=criterion, statistic=statistic)
