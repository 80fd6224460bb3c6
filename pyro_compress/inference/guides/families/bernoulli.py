"""Gates that are 0 or 1."""

from typing import Any

import torch

from pyro_compress.inference.guides.families.family import Family
from pyro_compress.models.gates.bernoulli import BernoulliGate
from pyro_compress.models.priors.base import LatentSite


class Bernoulli(Family):
    """x = 1 with probability 1 / (1 + e^(−loc)), else 0."""

    has_scale = False
    per_example = True
    kept_as = "bernoulli"

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return BernoulliGate(loc)
