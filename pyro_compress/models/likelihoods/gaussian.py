"""Real targets with normal noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.errors import InferenceError
from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.models.priors.base import LatentSite


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """y ~ N(output, σ²).

    Args:
        noise: known σ > 0, or None: σ is then a latent site 'noise' with a log-normal prior.
        noise_log_mean: location of that prior's ln σ.
        noise_log_scale: its scale.
    """

    noise: float | None = None
    noise_log_mean: float = 0.0
    noise_log_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.noise is not None and not 0 < self.noise < math.inf) or not 0 < self.noise_log_scale < math.inf:
            raise InferenceError(
                f"a Gaussian likelihood needs noise > 0 or None, and noise_log_scale > 0; found noise={self.noise}, "
                f"noise_log_scale={self.noise_log_scale}"
            )

    def latents(self) -> tuple[LatentSite, ...]:
        if self.noise is not None:
            return ()
        return (LatentSite("noise", "lognormal", torch.Size(()), torch.tensor(self.noise_log_mean), -4.0),)

    def at(self, values: Mapping[str, torch.Tensor]) -> "Gaussian":
        return self if self.noise is not None or "noise" not in values else replace(self, noise=float(values["noise"]))

    def sample_latents(self) -> torch.Tensor | None:
        if self.noise is not None:
            return None
        return pyro.sample("noise", dist.LogNormal(self.noise_log_mean, self.noise_log_scale))

    def distribution(self, output: torch.Tensor, noise: torch.Tensor | None = None) -> TorchDistribution:
        """N(output, σ²); a learned σ is taken at its prior median where none is given."""
        known = math.exp(self.noise_log_mean) if self.noise is None else self.noise
        scale = torch.tensor(known) if noise is None else noise
        return dist.Normal(output, scale, validate_args=False).to_event(output.ndim - 1)

    def distribution_given(self, output: torch.Tensor, latent: torch.Tensor | None) -> TorchDistribution:
        return self.distribution(output, latent)

    def error(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared error."""
        self.check(output, target)
        return (output - target).square().reshape(len(output), -1).mean(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def link(self, mean: torch.Tensor) -> torch.Tensor:
        return mean
