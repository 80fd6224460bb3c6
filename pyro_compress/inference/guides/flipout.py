"""Flipout as an effect handler around a guide (Wen et al. 2018): one weight sample per batch, its signs per example.

For w = μ + Δ with Δ = σ·ε drawn once, example b sees w_b = μ + Δ ∘ r_b s_bᵀ with random signs s_b over inputs and r_b
over outputs:

    x_b w_b = x_b μ + ((x_b ∘ s_b) Δ) ∘ r_b

Δ is symmetric about zero, so every w_b has the distribution of w, and the noise of two examples is uncorrelated.
Within one example everything is as with weight sampling, the positions of a convolution included.  Any other use of a
value sees one sample, as under local reparameterization.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from pyro_compress.inference.guides.lazy_values import LazyNormal, is_open
from pyro_compress.inference.guides.local_reparameterization import LocalReparameterization


class FlipoutNormal(LazyNormal):
    """x ~ N(loc, scale²) whose examples differ by the signs of one perturbation."""

    def draw_open(self, examples: int) -> torch.Tensor:
        signs = random_signs((examples, *self.loc.shape), self.loc)
        return self.loc + self._perturbation() * signs

    def outputs(self, layer: Callable[..., torch.Tensor], x: torch.Tensor, bias: Any) -> torch.Tensor:
        """As in the module's text; a lazy bias is perturbed with the signs of its output."""
        self.spend()
        perturbed_bias = None
        if is_open(bias):
            bias.spend()
            perturbed_bias, bias = bias._perturbation(), bias.loc
        mean = layer(x, self.loc, bias)
        # channels come last in a dense layer, after examples and maybe positions, and second in a convolution
        axis = -1 if layer is F.linear else 1
        noise = layer(x * signs_per_example(x, axis), self._perturbation(), perturbed_bias)
        return torch.addcmul(mean, noise, signs_per_example(noise, axis))

    def _perturbation(self) -> torch.Tensor:
        return self.scale * torch.randn_like(self.loc)


class Flipout(LocalReparameterization):
    """Replaces samples by lazy values that flip signs per example; see the module's text."""

    lazy_normal: ClassVar[type[LazyNormal]] = FlipoutNormal


def signs_per_example(x: torch.Tensor, axis: int) -> torch.Tensor:
    """±1 for every example and channel, in a shape that broadcasts against `x`, (examples, ...)."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = x.shape[0], x.shape[axis]
    return random_signs(tuple(shape), x)


def random_signs(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """±1 with even chances, in the type and on the device of `like`."""
    # a word of random bits for 32 of them: drawing each by itself would be a tenth of a step
    count = math.prod(shape)
    places = torch.arange(32, dtype=torch.int32, device=like.device)
    words = torch.randint(-(2**31), 2**31, (-(-count // 32), 1), dtype=torch.int32, device=like.device)
    bits = (words >> places).bitwise_and(1).view(-1)[:count].view(shape)
    return bits.to(like.dtype).mul(2).sub(1)
