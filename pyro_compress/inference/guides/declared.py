"""The guide that a model's priors declare: one independent family per latent site, as a Pyro guide.

`loc` and `log_variance` are module parameters, never entries of the global parameter store, so two fits in one
process cannot touch each other.
"""

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.families.registry import FAMILIES
from pyro_compress.inference.loop.devices import seed_generators
from pyro_compress.inference.results.iid_draws import draws_through
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.layouts import FILTERS, lie_last, may_lie_last
from pyro_compress.models.names import attribute_name
from pyro_compress.models.priors.base import LatentSite, Moments
from pyro_compress.models.program import Program
from pyro_compress.posterior.draws import Draws
from pyro_compress.posterior.posterior import Latent


class DeclaredGuide(PyroModule):
    """q(latents) = Π_site q(site), each family as the model's priors declare.

    What a family makes of loc and log σ² of a site is said in its file under `inference/guides/families/`.

    Args:
        model: whose latent sites it covers; starts from the network's present parameters.

    Raises:
        InferenceError: a site of an unknown family, or with a transform that its family does not take; sites that a
            posterior holds as draws beside others of which it has none.
    """

    def __init__(self, model: BayesianNetwork | Program) -> None:
        super().__init__()
        self.sites: dict[str, LatentSite] = {}
        self.loc, self.log_variance = PyroModule("loc"), PyroModule("log_variance")
        channels_last = may_lie_last(model.network)
        for site in model.latents():
            self._add(site, channels_last)
        families = {site.family: FAMILIES[site.family] for site in self.sites.values()}
        gates = next((name for name, family in families.items() if not family.is_normal), None)
        if gates is not None and not self.is_closed_form:
            raise InferenceError(
                f"a site of family '{gates}' cannot stand beside one of family 'transformed', of which posteriors "
                "hold draws: declare families with a closed form for all sites"
            )

    def _add(self, site: LatentSite, channels_last: bool) -> None:
        if site.family not in FAMILIES:
            known = tuple(FAMILIES)
            raise InferenceError(f"site '{site.name}' asks for guide family '{site.family}': known are {known}")
        if (site.transform is None) == (site.family == "transformed"):
            raise InferenceError(
                f"site '{site.name}' of family '{site.family}' has transform={site.transform}: 'transformed' needs one "
                "from unconstrained space to the site's support, and no other family takes any"
            )
        attribute = attribute_name(site.name)
        self.sites[site.name] = site
        start = site.loc.detach().expand(site.shape).clone()
        if len(site.shape) == FILTERS and channels_last:
            start = lie_last(start)
        setattr(self.loc, attribute, nn.Parameter(start))
        has_scale = FAMILIES[site.family].has_scale
        shape = site.shape if site.tied is None else site.tied
        # of one number, so that what reads every site's log-variance needs no exception
        shape = shape if has_scale else torch.Size([1] * len(site.shape))
        log_variance = float(site.log_variance)
        spread = torch.full_like(start, log_variance) if shape == site.shape else torch.full(shape, log_variance)
        spread = site.bounded(spread)
        if site.learned and has_scale:
            setattr(self.log_variance, attribute, nn.Parameter(spread))
        else:
            self.log_variance.register_buffer(attribute, spread)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The sample statements; arguments are the model's and do not matter."""
        for name, site in self.sites.items():
            FAMILIES[site.family].sample(site, *self.location_and_scale(name))

    def location_and_scale(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(loc, σ) of one site, of x or, for log-normals, of ln x; for transformed ones in unconstrained space."""
        site, attribute = self.sites[name], attribute_name(name)
        loc, spread = getattr(self.loc, attribute), getattr(self.log_variance, attribute)
        return FAMILIES[site.family].location_and_scale(site, loc, spread)

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
            return {
                name: FAMILIES[site.family].moments(site, *self.location_and_scale(name))
                for name, site in self.sites.items()
            }

    def closed_forms(self) -> dict[str, Latent]:
        """What a posterior holds of every site, where it `is_closed_form`."""
        with torch.no_grad():
            return {
                name: FAMILIES[site.family].latent(site, *self.location_and_scale(name))
                for name, site in self.sites.items()
            }

    @property
    def is_closed_form(self) -> bool:
        """Whether a posterior can hold every site without draws."""
        return all(FAMILIES[site.family].kept_as is not None for site in self.sites.values())

    @property
    def width(self) -> int:
        """Latent numbers."""
        return sum(math.prod(site.shape) for site in self.sites.values())

    def draws(self, model: Any, count: int, seed: int) -> Draws:
        """Independent draws, as of `draws_through`, where every family is normal."""
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
            if site.learned and FAMILIES[site.family].has_scale:
                spread = getattr(self.log_variance, attribute)
                multiplier *= rates.get("log_variance", 1.0)
                yield {"params": [spread], "multiplier": multiplier}
