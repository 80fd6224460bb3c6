"""The code z of an example: its prior p(z), and its posterior q(z | x) given what an encoder puts out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from pyro_compress.config.keyword_options import check_options
from pyro_compress.errors import NetworkError
from pyro_compress.network.input_codes import GAUSSIAN, InputCode


class ReparameterizedNormal(dist.Normal):
    """N(loc, scale²), drawn as loc + scale · ε with ε of `torch.randn`, which a run's own stream of noise serves."""

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, noise)


@dataclass(frozen=True)
class Codes(ABC):
    """What codes are.

    Args:
        width: numbers of a code.

    Raises:
        NetworkError: width below 1.
    """

    width: int

    def __post_init__(self) -> None:
        """A kind of codes that checks more calls this first."""
        check_options(self, NetworkError)
        if self.width < 1:
            raise NetworkError(f"{type(self).__name__}: a code has at least one number, found width={self.width}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one code, which the decoder takes."""
        return (self.width,)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the encoder puts out for an example."""

    @abstractmethod
    def prior(self) -> TorchDistribution:
        """p(z) of one code."""

    @abstractmethod
    def posterior(self, output: torch.Tensor) -> TorchDistribution:
        """q(z | x) given the encoder's outputs, (examples, outputs), with the examples as its batch shape."""

    @abstractmethod
    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """E_q[z], (examples, width)."""

    def stored(self) -> InputCode | None:
        """p(z) as a file says it; None where the format has no such codes, so that it says nothing."""
        return None

    def check(self, output: torch.Tensor) -> torch.Tensor:
        """The encoder's outputs, or a sentence where they are not of the shape that goes with these codes.

        Raises:
            NetworkError: says both shapes.
        """
        if output.ndim != 2 or output.shape[1] != self.outputs:
            raise NetworkError(
                f"the encoder returns outputs of shape {tuple(output.shape)}, {self} take (examples, {self.outputs}): "
                "change the encoder's last layer or the codes' width"
            )
        return output


@dataclass(frozen=True)
class GaussianCodes(Codes):
    """p(z) = N(0, I), q(z | x) = N(μ, diag σ²); the encoder puts out (μ, ln σ²) (Kingma & Welling 2014)."""

    @property
    def outputs(self) -> int:
        return 2 * self.width

    def prior(self) -> TorchDistribution:
        return dist.Normal(torch.zeros(self.width), torch.ones(self.width), validate_args=False).to_event(1)

    def posterior(self, output: torch.Tensor) -> TorchDistribution:
        mean, log_variance = self.check(output).split(self.width, 1)
        return ReparameterizedNormal(mean, torch.exp(0.5 * log_variance), validate_args=False).to_event(1)

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        return self.check(output)[:, : self.width]

    def stored(self) -> InputCode:
        return InputCode(GAUSSIAN)
