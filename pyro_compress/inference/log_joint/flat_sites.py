"""Sites of a model in one flat vector of unconstrained numbers: where each lies, and how it gets there and back.

Most supports stay what they are.  One that depends on other sites, as in b ~ Uniform(0, a), is transformed at the
present value of its parents, while the model runs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_compress.errors import InferenceError
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.program import Program, shape_of, transform_of


@dataclass(frozen=True)
class Site:
    """One latent site, or one point-estimated parameter, and its place in the flat vector.

    Attributes:
        name: of the Pyro site or the parameter.
        shape: in the space in which the model declares it.
        unconstrained: shape there.
        where: its slice of the flat vector.
        transform: from unconstrained to declared space; None where they are the same.
    """

    name: str
    shape: torch.Size
    unconstrained: torch.Size
    where: slice
    transform: Any


# guide families of sites that lie in an unconstrained space, or say how to come to one (`LatentSite.to_support`)
UNCONSTRAINED = ("normal", "dropout", "lognormal", "transformed", "point")


def sites_of(model: BayesianNetwork | Program) -> tuple[tuple[Site, ...], slice]:
    """Every site in flat order, latent ones first, and the slice of the point-estimated ones."""
    if isinstance(model, BayesianNetwork):
        if not model.is_proper:
            names = ", ".join(p.name for p, prior in model.parameters_covered if not prior.is_proper)
            raise InferenceError(
                f"the prior of {names} is improper, and sampling needs a proper one: give its bounds `low` and `high`"
            )
        gate = next((site for site in model.latents() if site.family not in UNCONSTRAINED), None)
        if gate is not None:
            raise InferenceError(
                f"site '{gate.name}' declares guide family '{gate.family}' and no way to an unconstrained space, which "
                "samplers and gradients of the log joint need: use SVI(...)"
            )
        declared = {site.name: (site.declared_shape, site.to_support) for site in model.latents()}
        free = {name: value.shape for name, value in model.free_values().items()}
    else:
        declared = {name: (shape_of(fn), transform_of(name, fn)) for name, fn in model.sites.items()}
        free = {}
    found, start = [], 0
    for name, (shape, transform) in declared.items():
        raw = shape if transform is None else transform.inverse_shape(shape)
        found.append(Site(name, shape, raw, slice(start, start + math.prod(raw)), transform))
        start = found[-1].where.stop
    latent = start
    for name, shape in free.items():
        found.append(Site(name, shape, shape, slice(start, start + math.prod(shape)), None))
        start = found[-1].where.stop
    return tuple(found), slice(latent, start)


class AtPresent(Messenger):
    """Sites whose support depends on others: transformed as the model comes to them.

    Attributes:
        raw: unconstrained values by site.
        jacobian: log |dθ/du| of those seen so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw: dict[str, Tensor] = {}
        self.jacobian = torch.zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        raw = self.raw.get(msg["name"])
        if raw is None:
            return
        transform = transform_of(msg["name"], msg["fn"])
        value = raw if transform is None else transform(raw)
        if value.shape != shape_of(msg["fn"]):
            raise InferenceError(
                f"the support of site '{msg['name']}' depends on other sites, and so does the shape of what is free in "
                f"it ({tuple(value.shape)} became {tuple(shape_of(msg['fn']))}): samplers need a fixed number"
            )
        if transform is not None:
            self.jacobian = self.jacobian + transform.log_abs_det_jacobian(raw, value).sum()
        msg["value"], msg["is_observed"] = value, True


class Placing(Messenger):
    """Writes values of some sites into a flat vector, as the model comes to them, and reads the others from it."""

    def __init__(self, sites: tuple[Site, ...], row: Tensor, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.sites, self.row, self.values = {site.name: site for site in sites}, row, values
        self.done: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        site = self.sites.get(msg["name"])
        if site is None:
            return
        transform = transform_of(site.name, msg["fn"])
        if site.name in self.values:
            value = self.values[site.name]
            if not bool(torch.as_tensor(msg["fn"].support.check(value)).all()):
                raise InferenceError(
                    f"the start of '{site.name}' lies outside its support, {msg['fn'].support}: give another"
                )
            place(self.row, site, transform, value)
            self.done.add(site.name)
        else:
            raw = self.row[site.where].reshape(site.unconstrained)
            value = raw if transform is None else transform(raw)
        msg["value"] = value


def place(row: Tensor, site: Site, transform: Any, value: Tensor) -> None:
    """Write a site's value, in the model's space, into a flat vector.

    Raises:
        InferenceError: it is not finite there.
    """
    value = torch.as_tensor(value).to(row.dtype)
    raw = value if transform is None else transform.inv(value)
    if not bool(torch.isfinite(raw).all()):
        raise InferenceError(
            f"the start of '{site.name}' is not finite, or lies outside its support or at the end of it: give another"
        )
    row[site.where] = raw.reshape(-1)


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    """Real tensors in that type, others as they are."""
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
