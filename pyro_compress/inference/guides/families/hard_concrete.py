"""Hard-concrete gates (L0 regularisation)."""

from typing import Any

import torch

from pyro_compress.inference.guides.families.family import Family
from pyro_compress.models.gates.hard_concrete import HardConcrete as Distribution
from pyro_compress.models.priors.base import LatentSite


class HardConcrete(Family):
    """x is hard-concrete with ln α = loc."""

    has_scale = False
    per_example = True
    kept_as = "hard-concrete"

    def distribution(self, site: LatentSite, loc: torch.Tensor, scale: torch.Tensor) -> Any:
        return Distribution(loc)
