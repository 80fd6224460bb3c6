"""Log-uniform scales of groups over log-uniform weights: groups and single weights under one prior."""

from dataclasses import dataclass
from typing import Any

import torch

from pyro_compress.models.distributions import LogUniformDistribution
from pyro_compress.models.priors.normal_jeffreys import GroupNormalJeffreys


@dataclass(frozen=True)
class GroupLogUniform(GroupNormalJeffreys):
    """w_ij = z_i w̃_ij with p(z_i) ∝ 1/|z_i| and p(w̃_ij) ∝ 1/|w̃_ij|, both between the same bounds.

    The scales are those of BC-GNJ (Louizos et al. 2017), the weights those of Sparse Variational Dropout (Molchanov et
    al. 2017), so that units and filters are switched off as by the first, and single weights of those that stay as by
    the second.  Guide: q(z_i) = N(μ, μ²α), q(w̃_ij) = N(μ_ij, σ_ij²); then

        α of w = (1 + α of z)(1 + α of w̃) − 1,

    and every KL is that of a normal from a log-uniform.  Options are those of `GroupNormalJeffreys`.  A group is pruned
    where log α of z exceeds `threshold`, single weights by their signal-to-noise ratio, whose cut validation chooses.
    """

    def of_unscaled(self, shape: torch.Size) -> Any:
        return LogUniformDistribution(self.low, self.high, shape).to_event(len(shape))
