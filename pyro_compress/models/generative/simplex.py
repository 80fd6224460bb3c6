"""Codes on the simplex: K numbers, none negative, that sum to 1."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import Transform, constraints
from torch.nn.functional import pad, softplus

from pyro_compress.errors import NetworkError, unknown_name
from pyro_compress.models.generative.codes import Codes, ReparameterizedNormal
from pyro_compress.network.input_codes import DIRICHLET, LOGISTIC_NORMAL, InputCode

GRADIENTS = ("implicit", "inverse-cdf")
# below it single-precision draws are all 0 and 1
SMALLEST_CONCENTRATION = 1e-2


class InverseCdfDirichlet(dist.Dirichlet):
    """Dirichlet(α), drawn by an approximate inverse of the Gamma distribution function (Joo et al. 2020).

        g_k = (u_k α_k Γ(α_k))^(1/α_k),   z = g / Σ_k g_k,   u_k uniform on (0, 1)

    The first term of the function's series at 0 is inverted: exact for α → 0, and off for α above 1.  u = Φ(ε) with ε
    of `torch.randn`, which a run's own stream of noise serves.
    """

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        alpha = self.concentration
        shape = self._extended_shape(torch.Size(sample_shape))
        log_uniform = torch.special.log_ndtr(torch.randn(shape, dtype=alpha.dtype, device=alpha.device))
        drawn = torch.softmax((log_uniform + torch.lgamma(alpha + 1)) / alpha, -1)
        # as torch's own draws: where a component is 0, so may be the density
        return drawn.clamp(min=torch.finfo(alpha.dtype).tiny)


@dataclass(frozen=True)
class DirichletCodes(Codes):
    """p(z) = Dirichlet(α₀, …, α₀), q(z | x) = Dirichlet(α(x)), α = 0.01 + softplus(encoder's output) (Joo et al. 2020).

    Args:
        width: K.
        concentration: α₀ > 0.
        gradient: of draws in α: 'implicit' (Figurnov, Mohamed & Mnih 2018; torch's own), exact, or 'inverse-cdf', of
            `InverseCdfDirichlet`, whose draws are approximate too.

    Raises:
        NetworkError: width below 2, a concentration that is not above 0, no such gradient.
    """

    concentration: float = 1.0
    gradient: str = "implicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_one(self)
        if not 0 < self.concentration < float("inf"):
            raise NetworkError(f"DirichletCodes need concentration > 0, found concentration={self.concentration}")
        if self.gradient not in GRADIENTS:
            raise NetworkError(unknown_name("gradient of DirichletCodes", self.gradient, GRADIENTS))

    @property
    def outputs(self) -> int:
        return self.width

    def prior(self) -> TorchDistribution:
        return dist.Dirichlet(torch.full((self.width,), self.concentration), validate_args=False)

    def posterior(self, output: torch.Tensor) -> TorchDistribution:
        kind = InverseCdfDirichlet if self.gradient == "inverse-cdf" else dist.Dirichlet
        return kind(self._concentration(output), validate_args=False)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        alpha = self._concentration(output)
        return alpha / alpha.sum(1, keepdim=True)

    def stored(self) -> InputCode:
        return InputCode(DIRICHLET, float(self.concentration))

    def _concentration(self, output: torch.Tensor) -> torch.Tensor:
        return softplus(self.check(output)) + SMALLEST_CONCENTRATION


class AdditiveLogistic(Transform):
    """h ↦ softmax(h_1, …, h_{K−1}, 0), from K − 1 logarithms of ratios to the last number (Aitchison & Shen 1980)."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogistic)

    def __hash__(self) -> int:
        return hash(AdditiveLogistic)

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(pad(x, (0, 1)), -1).clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        logarithm = y.log()
        return logarithm[..., :-1] - logarithm[..., -1:]

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Σ_k ln z_k over all K numbers."""
        return torch.log_softmax(pad(x, (0, 1)), -1).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))


@dataclass(frozen=True)
class LogisticNormalCodes(Codes):
    """z = softmax(h, 0) with h ~ N(0, s² I) in p(z), h ~ N(μ, diag σ²) in q(z | x); the encoder puts out (μ, ln σ²).

    Args:
        width: K; h has K − 1 numbers (`AdditiveLogistic`).
        scale: s > 0.

    Raises:
        NetworkError: width below 2, a scale that is not above 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_one(self)
        if not 0 < self.scale < float("inf"):
            raise NetworkError(f"LogisticNormalCodes need scale > 0, found scale={self.scale}")

    @property
    def outputs(self) -> int:
        return 2 * (self.width - 1)

    def prior(self) -> TorchDistribution:
        zeros = torch.zeros(self.width - 1)
        return _logistic(dist.Normal(zeros, torch.full_like(zeros, self.scale), validate_args=False))

    def posterior(self, output: torch.Tensor) -> TorchDistribution:
        mean, log_variance = self.check(output).split(self.width - 1, 1)
        return _logistic(ReparameterizedNormal(mean, torch.exp(0.5 * log_variance), validate_args=False))

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """softmax(μ, 0), the code at the mean of h: E_q[z] has no closed form."""
        code: torch.Tensor = AdditiveLogistic()(self.check(output)[:, : self.width - 1])
        return code

    def stored(self) -> InputCode:
        return InputCode(LOGISTIC_NORMAL, float(self.scale))


def _logistic(normal: dist.Normal) -> TorchDistribution:
    return dist.TransformedDistribution(normal, [AdditiveLogistic()], validate_args=False)


def _refuse_one(codes: Codes) -> None:
    if codes.width < 2:
        raise NetworkError(
            f"{type(codes).__name__}: a code on the simplex has at least 2 numbers, found width={codes.width}"
        )
