"""Normal distributions seen through a transform, as guides need them for sites with a support of their own."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions.transforms import IndependentTransform

from pyro_compress.models.priors.base import LatentSite, Moments

NODES = 32
DRAWS = 1000


def moments_of(site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Moments:
    """Mean and variance of x = t(u), u ~ N(loc, scale²) elementwise; of u itself for all families but 'transformed'.

    By Gauss-Hermite quadrature where t takes every number by itself, else over draws of a fixed seed.
    """
    if site.family != "transformed":
        return Moments(site.family, loc.clone(), scale.square())
    if _is_elementwise(site.to_support):
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        weights = weights / weights.sum()
        points = [(float(node), float(weight)) for node, weight in zip(nodes, weights, strict=True)]
    else:
        generator = torch.Generator(device="cpu").manual_seed(0)
        noise = torch.randn((DRAWS, *loc.shape), generator=generator, device="cpu", dtype=loc.dtype)
        points = [(one, 1.0 / DRAWS) for one in noise.to(loc.device)]
    values = [(site.to_support(loc + scale * node), weight) for node, weight in points]
    mean = sum((weight * value for value, weight in values), torch.zeros((), device=loc.device))
    variance = sum((weight * (value - mean).square() for value, weight in values), torch.zeros((), device=loc.device))
    return Moments(site.family, mean, variance)


def sample_through(name: str, site: LatentSite, u: torch.Tensor) -> None:
    """The site at the value that u has in its own space, with the density that the change of variables gives it."""
    value, jacobian = u, torch.zeros(())
    if (transform := site.to_support) is not None:
        value = transform(u)
        jacobian = transform.log_abs_det_jacobian(u, value).sum()
    pyro.sample(name, dist.Delta(value, log_density=-jacobian, event_dim=value.ndim, validate_args=False))


def _is_elementwise(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return bool(transform.domain.event_dim == transform.codomain.event_dim == 0)
