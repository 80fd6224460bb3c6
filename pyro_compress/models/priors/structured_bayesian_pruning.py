"""Structured Bayesian pruning (Neklyudov et al. 2017): log-uniform scales with truncated log-normal guides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pyro_compress.models.gates.truncated_log_normal import LogUniformBetween, TruncatedLogNormal
from pyro_compress.models.parameters import Parameter
from pyro_compress.models.priors.base import LatentSite, Moments, Prior
from pyro_compress.models.priors.gated import gated_moments, gated_sites, gated_weight
from pyro_compress.posterior.criterion import Criterion


@dataclass(frozen=True)
class StructuredBayesianPruning(Prior):
    """w_ij = θ_i w̃_ij with p(θ_i) ∝ 1/θ_i on [e⁻²⁰, 1] and w̃_ij ~ N(0, 1).

    Guide: ln θ_i ~ N(μ_i, σ_i²) truncated to [−20, 0]; w̃ is a point estimate.  Groups are input units of dense layers
    and output filters of convolutions; a group is pruned where SNR = E θ / sd(θ) falls below `threshold`, and θ is E θ
    in what is stored of the others.

    Args:
        initial_scale_log_variance: log σ² that the guide of θ starts from; μ starts at 0.
        threshold: default cut on the SNR.
        shrink_threshold: cut for shrinking while training, from which groups don't come back.
    """

    initial_scale_log_variance: float = -10.0
    threshold: float = 1.0
    shrink_threshold: float | None = 0.8
    elementwise: ClassVar[bool] = False
    has_mode: ClassVar[bool] = False

    @property
    def criterion(self) -> Criterion:
        return Criterion(
            "signal_to_noise",
            "scale",
            self.threshold,
            off="below",
            label="E θ / sd(θ)",
            shrink_threshold=self.shrink_threshold,
        )

    def sample(self, parameter: Parameter) -> Any:
        return gated_weight(parameter, "theta", LogUniformBetween((parameter.groups,)))

    def latents(self, parameter: Parameter, value: torch.Tensor) -> tuple[LatentSite, ...]:
        zero, spread = torch.zeros(()), torch.tensor(0.5 * self.initial_scale_log_variance).exp()
        # so that E w starts at the network's own value
        start = value / TruncatedLogNormal(zero, spread).mean
        # bounds as in the code of the paper
        bounds = {"min_log_variance": -40.0, "max_log_variance": 10.0}
        family, initial = "truncated-lognormal", self.initial_scale_log_variance
        return gated_sites(parameter, "theta", family, zero, start, log_variance=initial, **bounds)

    def weight_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        return gated_moments(parameter, "theta", sites)

    def scale_moments(self, parameter: Parameter, sites: Mapping[str, Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        scale = sites[f"{parameter.name}.theta"]
        return scale.mean, scale.variance
