"""A likelihood at what a posterior says of its own latent sites, where one network has to do for all draws."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.models.priors.base import LatentSite
from pyro_compress.posterior.posterior import Posterior


def own_values(likelihood: Likelihood, posterior: Posterior) -> dict[str, Tensor]:
    """One value of each latent site of the likelihood that the posterior knows: the mean, exp E ln σ of a scale σ."""
    found = {site.name: _value(site, posterior) for site in likelihood.latents()}
    return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in found.items() if value is not None}


def fitted(likelihood: Likelihood, posterior: Posterior) -> Likelihood:
    """The likelihood with `own_values` in the place of its latent sites; as it is where it has none."""
    return likelihood.at(own_values(likelihood, posterior))


def _value(site: LatentSite, posterior: Posterior) -> Any:
    if posterior.draws is not None and site.name in posterior.draws.shapes:
        drawn, weights = posterior.draws.site(site.name), posterior.draws.weights()
        if site.family == "lognormal":
            return np.exp(np.tensordot(weights, np.log(drawn), 2))
        return np.tensordot(weights, drawn, 2)
    if site.name not in posterior.latents:
        return None
    held = posterior.latents[site.name]
    return np.exp(held.loc) if held.family == "lognormal" else held.loc
