"""The guide that a model's priors declare: one independent family per latent site, as a Pyro guide.

`loc` and `log_variance` are module parameters, never entries of the global parameter store, so two fits in one
process cannot touch each other.
"""

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.through_transforms import moments_of
from pyro_compress.inference.loop.devices import seed_generators
from pyro_compress.inference.results.iid_draws import draws_through
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.names import attribute_name
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.models.program import Program
from pyro_compress.network.architecture import breaks_channels_last
from pyro_compress.posterior.draws import Draws

FAMILIES = ("normal", "dropout", "lognormal", "transformed")


def sample_through(name: str, site: LatentSite, u: torch.Tensor) -> None:
    """The site at the value that u has in its own space, with the density that the change of variables gives it."""
    value, jacobian = u, torch.zeros(())
    if (transform := site.to_support) is not None:
        value = transform(u)
        jacobian = transform.log_abs_det_jacobian(u, value).sum()
    pyro.sample(name, dist.Delta(value, log_density=-jacobian, event_dim=value.ndim, validate_args=False))


class DeclaredGuide(PyroModule):
    """q(latents) = Π_site q(site), each family as the model's priors declare.

    normal: N(loc, σ²); lognormal: ln x ~ N(loc, σ²); both with log σ² learned.
    dropout: N(θ, αθ²) with log α learned or fixed, tied as declared.
    transformed: x = t(u) with u ~ N(loc, σ²), as an auxiliary site 'NAME_unconstrained' and a `Delta` that carries the
    change of variables.

    Args:
        model: whose latent sites it covers; starts from the network's present parameters.
    """

    def __init__(self, model: BayesianNetwork | Program) -> None:
        super().__init__()
        self.sites: dict[str, LatentSite] = {}
        self.loc, self.log_variance = PyroModule("loc"), PyroModule("log_variance")
        convolutions = (module for module in model.network.modules() if isinstance(module, nn.Conv2d))
        channels_last = not any(breaks_channels_last(convolution) for convolution in convolutions)
        for site in model.latents():
            self._add(site, channels_last)

    def _add(self, site: LatentSite, channels_last: bool) -> None:
        if site.family not in FAMILIES:
            raise InferenceError(f"site '{site.name}' asks for guide family '{site.family}': known are {FAMILIES}")
        if (site.transform is None) == (site.family == "transformed"):
            raise InferenceError(
                f"site '{site.name}' of family '{site.family}' has transform={site.transform}: 'transformed' needs one "
                "from unconstrained space to the site's support, and no other family takes any"
            )
        attribute = attribute_name(site.name)
        self.sites[site.name] = site
        start = site.loc.detach().expand(site.shape).clone()
        if len(site.shape) == 4 and channels_last:
            # filters in this layout make convolutions and pooling on CPUs a third faster
            start = torch.empty_like(start, memory_format=torch.channels_last).copy_(start)
        setattr(self.loc, attribute, nn.Parameter(start))
        shape = site.shape if site.tied is None else site.tied
        log_variance = float(site.log_variance)
        spread = torch.full_like(start, log_variance) if shape == site.shape else torch.full(shape, log_variance)
        spread = site.bounded(spread)
        if site.learned:
            setattr(self.log_variance, attribute, nn.Parameter(spread))
        else:
            self.log_variance.register_buffer(attribute, spread)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The sample statements; arguments are the model's and do not matter."""
        for name, site in self.sites.items():
            loc, scale = self.location_and_scale(name)
            if site.family == "transformed":
                normal = dist.Normal(loc, scale, validate_args=False).to_event(len(site.shape))
                u = pyro.sample(f"{name}_unconstrained", normal, infer={"is_auxiliary": True})
                sample_through(name, site, u)
                continue
            family = dist.LogNormal if site.family == "lognormal" else dist.Normal
            pyro.sample(name, family(loc, scale, validate_args=False).to_event(len(site.shape)))

    def location_and_scale(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(loc, σ) of one site, of x or, for log-normals, of ln x; for transformed ones in unconstrained space."""
        site, attribute = self.sites[name], attribute_name(name)
        loc, spread = getattr(self.loc, attribute), getattr(self.log_variance, attribute)
        if site.family == "dropout":
            return loc, torch.exp(0.5 * spread) * loc.abs() + 1e-12
        if site.bounds_log_variance:
            # bounded for every optimizer, with a gradient that never ends: ours come back to the bound by themselves
            spread = spread + (site.bounded(spread) - spread).detach()
        return loc, torch.exp(0.5 * spread)

    def project(self) -> None:
        """Take what a step has carried beyond its bound back to it: there a gradient still says which way to go."""
        with torch.no_grad():
            for name, site in self.sites.items():
                if site.learned and site.bounds_log_variance:
                    spread = getattr(self.log_variance, attribute_name(name))
                    spread.copy_(site.bounded(spread))
                if site.loc_bound is not None:
                    loc, scale = self.location_and_scale(name)
                    bound = site.loc_bound(scale)
                    loc.copy_(loc.clamp(-bound, bound))

    def moments(self) -> dict[str, Moments]:
        """Mean and variance of every site, of x or, for log-normals, of ln x."""
        with torch.no_grad():
            return {name: moments_of(site, *self.location_and_scale(name)) for name, site in self.sites.items()}

    @property
    def is_closed_form(self) -> bool:
        """Whether every site is normal or log-normal, which is what a posterior can hold without draws."""
        return not any(site.family == "transformed" for site in self.sites.values())

    @property
    def width(self) -> int:
        """Latent numbers."""
        return sum(math.prod(site.shape) for site in self.sites.values())

    def draws(self, model: Any, count: int, seed: int) -> Draws:
        """Independent draws, as of `draws_through`."""
        values, density = {}, torch.zeros(count, dtype=torch.float64)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            seed_generators(seed, next(self.parameters()).device)
            for name in self.sites:
                loc, scale = self.location_and_scale(name)
                normal = dist.Normal(loc, scale, validate_args=False)
                values[name] = normal.sample((count,))
                density = density + normal.log_prob(values[name]).reshape(count, -1).double().sum(1)
        return draws_through(model, self.sites, values, density)

    def parameter_groups(self, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
        """Optimizer groups: every site's loc and log-variance with its rate multiplier.

        Args:
            rates: multipliers by role ('weight', 'scale', 'other') and for 'log_variance'.
        """
        for name, site in self.sites.items():
            multiplier = rates.get(site.role, 1.0)
            attribute = attribute_name(name)
            yield {"params": [getattr(self.loc, attribute)], "multiplier": multiplier}
            if site.learned:
                spread = getattr(self.log_variance, attribute)
                multiplier *= rates.get("log_variance", 1.0)
                yield {"params": [spread], "multiplier": multiplier}
