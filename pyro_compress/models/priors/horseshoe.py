"""Group horseshoe prior with half-Cauchy scales (BC-GHS, Louizos et al. 2017)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch

from pyro_compress.errors import PriorError
from pyro_compress.models.parameters import Parameter, along_axis, scale_groups
from pyro_compress.models.priors.base import LatentSite, Moments, Prior, product_moments
from pyro_compress.models.priors.normal_jeffreys import standard_normal
from pyro_compress.posterior.criterion import Criterion


@dataclass(frozen=True)
class GroupHorseshoe(Prior):
    """w_ij = s z̃_i w̃_ij with s ~ C⁺(0, τ₀), z̃_i ~ C⁺(0, 1), w̃_ij ~ N(0, 1).

    A half-Cauchy C⁺(0, k) is written √(a·b) with a ~ Gamma(½, scale k²) and b ~ inverse-Gamma(½, 1), each with a
    log-normal guide, so every KL is analytic.  One s per layer.  Groups are input units of dense layers and output
    filters of convolutions; a group is pruned where Var(ln z), z = s·z̃, exceeds `threshold`: that statistic does
    not depend on the layer's scale, as the log-mode does.

    Args:
        tau: τ₀, scale of the global half-Cauchy.
        initial_log_variance: log σ² that w̃ starts from.
        initial_scale_log_variance: log σ² that the four log-normals start from.
        threshold: default cut on Var(ln z).
        shrink_threshold: cut for shrinking while training, from which groups don't come back.
    """

    tau: float = 1e-5
    initial_log_variance: float = -9.0
    initial_scale_log_variance: float = -9.0
    threshold: float = 0.5
    shrink_threshold: float | None = 1.0
    elementwise: ClassVar[bool] = False
    has_mode: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau <= 0:
            raise PriorError(f"tau must be positive, found {self.tau}")

    @property
    def criterion(self) -> Criterion:
        return Criterion(
            "variance",
            "log_scale",
            self.threshold,
            label="Var(ln z)",
            shrink_threshold=self.shrink_threshold,
            shrinkage=True,
        )

    def sample(self, parameter: Parameter) -> Any:
        assert parameter.group_axis is not None
        name, groups = parameter.name, (parameter.groups,)
        half = torch.tensor(0.5)
        s_a = pyro.sample(f"{name}.s_a", dist.Gamma(half, torch.tensor(self.tau**-2)))
        s_b = pyro.sample(f"{name}.s_b", dist.InverseGamma(half, torch.tensor(1.0)))
        z_a = pyro.sample(f"{name}.z_a", dist.Gamma(half, torch.tensor(1.0)).expand(groups).to_event(1))
        z_b = pyro.sample(f"{name}.z_b", dist.InverseGamma(half, torch.tensor(1.0)).expand(groups).to_event(1))
        unscaled = pyro.sample(f"{name}.unscaled", standard_normal(parameter.shape))
        # the logarithm first: s_a alone is near 1e-10 and would underflow in a product of four
        scale = ((s_a.log() + s_b.log() + z_a.log() + z_b.log()) * 0.5).exp()
        return scale_groups(unscaled, scale, parameter.group_axis)

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        groups, single = torch.Size((parameter.groups,)), torch.Size(())
        # ln(θ/2), θ = τ₀², is where E[a]'s pull balances the entropy; s_b opposite, so that z starts at 1
        start = torch.tensor(math.log(self.tau**2 / 2))
        zero, spread, along = torch.zeros(()), self.initial_scale_log_variance, (parameter.group_axis,)
        return (
            LatentSite(f"{parameter.name}.s_a", "lognormal", single, start, spread, "scale"),
            LatentSite(f"{parameter.name}.s_b", "lognormal", single, -start, spread, "scale"),
            LatentSite(f"{parameter.name}.z_a", "lognormal", groups, zero, spread, "scale", axes=along),
            LatentSite(f"{parameter.name}.z_b", "lognormal", groups, zero, spread, "scale", axes=along),
            LatentSite(
                f"{parameter.name}.unscaled",
                "normal",
                parameter.shape,
                value,
                self.initial_log_variance,
                "weight",
                axes=tuple(range(len(parameter.shape))),
            ),
        )

    def log_scale(self, parameter: Parameter, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        of_layer, of_group = (
            [values[f"{parameter.name}.{part}"].log() for part in parts] for parts in (("s_a", "s_b"), ("z_a", "z_b"))
        )
        return 0.5 * (sum(of_layer, torch.zeros(())).unsqueeze(-1) + sum(of_group, torch.zeros(())))

    def scale_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        # ln z is half the sum of four independent normals
        parts = [sites[f"{parameter.name}.{part}"] for part in ("s_a", "s_b", "z_a", "z_b")]
        mean = sum((part.mean for part in parts), torch.zeros(()))
        variance = sum((part.variance for part in parts), torch.zeros(()))
        return 0.5 * mean, 0.25 * variance

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        assert parameter.group_axis is not None
        log_mean, log_variance = self.scale_moments(parameter, sites)
        mean = torch.exp(log_mean + 0.5 * log_variance)
        variance = torch.expm1(log_variance) * mean.square()
        place = (len(parameter.shape), parameter.group_axis)
        return product_moments(
            sites[f"{parameter.name}.unscaled"], along_axis(mean, *place), along_axis(variance, *place)
        )
