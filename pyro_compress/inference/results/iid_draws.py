"""Independent draws of a fitted distribution, as a posterior carries them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Model
from pyro_compress.inference.results.from_draws import derived_shapes, derived_values
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.posterior.draws import GUIDE_DENSITY, Draws

MOST_DRAWS = 1000
MOST_BYTES = 256 * 2**20


def check_draws(asked: int | None, method: str) -> None:
    """Refuse a number of draws that gives no variance.

    Raises:
        InferenceError: fewer than 2.
    """
    if asked is not None and asked < 2:
        raise InferenceError(f"{method} needs at least 2 draws, found draws={asked}")


def number_of_draws(asked: int | None, width: int) -> int:
    """`asked`, or if that is None 1,000, or as many draws of `width` float32 numbers as 256 MiB hold."""
    return max(2, min(MOST_DRAWS, MOST_BYTES // (4 * max(1, width)))) if asked is None else asked


def precision_of(values: Mapping[str, torch.Tensor]) -> Any:
    """float64 where any of these is, else float32."""
    return np.float64 if any(value.dtype == torch.float64 for value in values.values()) else np.float32


def independent_draws(values: Mapping[str, torch.Tensor], count: int, derived: tuple[str, ...] = ()) -> Draws:
    """Draws of one chain.

    Args:
        values: (count, *shape) by name; (1, *shape) for what is the same in all draws.
        count: S.
        derived: names that are not sites of the model.
    """
    shapes = {name: tuple(value.shape[1:]) for name, value in values.items()}
    rows = [value.reshape(len(value), -1).expand(count, -1) for value in values.values()]
    flat = np.concatenate([row.cpu().numpy() for row in rows], axis=1, dtype=precision_of(values))
    return Draws(flat[None], shapes, derived=derived)


def draws_of_sites(model: Model, values: Mapping[str, torch.Tensor], density: torch.Tensor) -> Draws:
    """Draws of a guide, of what follows from its sites (w = z·w̃) and of a network's point estimates.

    Their statistic 'guide_log_density' is log q(θ).

    Args:
        model: that the guide is of.
        values: (count, *shape) by site, in the model's space.
        density: (count,), log q there, nats.
    """
    count = len(density)
    # those of other models may be large, and are the same in all draws
    points = model.free_values() if isinstance(model, BayesianNetwork) else {}
    fixed = {name: value.detach()[None] for name, value in points.items()}
    following: dict[str, torch.Tensor] = {}
    if derived_shapes(model):
        each = [derived_values(model, {name: v[index] for name, v in values.items()}) for index in range(count)]
        following = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    drawn = independent_draws({**values, **fixed, **following}, count, (*fixed, *following))
    return replace(drawn, statistics={GUIDE_DENSITY: density.double().cpu().numpy()[None]})


def draws_through(
    model: Model, sites: Mapping[str, LatentSite], unconstrained: Mapping[str, torch.Tensor], density: torch.Tensor
) -> Draws:
    """As `draws_of_sites`, of values in the space in which the guide is normal.

    Args:
        model: that the guide is of.
        sites: of the guide, by name.
        unconstrained: (count, *shape) by site, in the space in which the guide is normal.
        density: (count,), its log-density there, nats.
    """
    # draws lie in memory or on disk, whatever device they come from
    count, density, values = len(density), density.double().cpu(), {}
    with torch.no_grad():
        for name, site in sites.items():
            u, transform = unconstrained[name], site.to_support
            values[name] = u if transform is None else transform(u)
            if transform is not None:
                jacobian = transform.log_abs_det_jacobian(u, values[name])
                density = density - jacobian.reshape(count, -1).double().sum(1).cpu()
    return draws_of_sites(model, values, density)
