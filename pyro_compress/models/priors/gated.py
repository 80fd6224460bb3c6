"""What priors share under which a weight is w = z·w̃ with a gate z per group and a point estimate w̃ ~ N(0, 1)."""

from collections.abc import Mapping
from typing import Any

import pyro
import torch

from pyro_compress.models.parameters import Parameter, along_axis, scale_groups
from pyro_compress.models.priors.base import LatentSite, Moments, product_moments
from pyro_compress.models.priors.normal_jeffreys import standard_normal


def gated_weight(parameter: Parameter, gate: str, prior: Any) -> Any:
    """The program: a gate of every group from `prior`, w̃, and their product."""
    assert parameter.group_axis is not None
    scale = pyro.sample(f"{parameter.name}.{gate}", prior.to_event(1))
    unscaled = pyro.sample(f"{parameter.name}.unscaled", standard_normal(parameter.shape))
    return scale_groups(unscaled, scale, parameter.group_axis)


def gated_sites(
    parameter: Parameter, gate: str, family: str, loc: torch.Tensor, start: torch.Tensor, **options: Any
) -> tuple[LatentSite, ...]:
    """Sites of the gates, of a guide family, and of w̃.

    Args:
        parameter, gate: as for `gated_weight`.
        family, loc, options: of the gates' site.
        start: of w̃.
    """
    groups, every = torch.Size((parameter.groups,)), tuple(range(len(parameter.shape)))
    along, spread = (parameter.group_axis,), options.pop("log_variance", 0.0)
    return (
        LatentSite(f"{parameter.name}.{gate}", family, groups, loc, spread, "scale", axes=along, **options),
        LatentSite(f"{parameter.name}.unscaled", "point", parameter.shape, start, 0.0, "weight", axes=every),
    )


def gated_moments(parameter: Parameter, gate: str, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the weight."""
    assert parameter.group_axis is not None
    place, found = (len(parameter.shape), parameter.group_axis), sites[f"{parameter.name}.{gate}"]
    mean, variance = along_axis(found.mean, *place), along_axis(found.variance, *place)
    return product_moments(sites[f"{parameter.name}.unscaled"], mean, variance)
