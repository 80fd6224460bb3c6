"""Which numbers of a code say something about the example."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_compress.models.generative.vae import VAE


def code_variances(model: "VAE", values: Mapping[str, Any], x: Tensor, *, chunk: int = 1000) -> Tensor:
    """Var_x E_q[z_j | x] over these examples, (width,), of the mean code as `codes.mean` has it.

    Args:
        model: is put into evaluation mode.
        values: of the encoder's parameters, by name.
        x: inputs, (examples, ...); at least two.
        chunk: examples per pass.
    """
    model.network.eval()
    with torch.no_grad():
        means = [model.codes.mean(model.encode(values, part)).double() for part in x.split(chunk)]
    return torch.cat(means).var(0)


def active_units(
    model: "VAE", values: Mapping[str, Any], x: Tensor, *, threshold: float = 0.01, chunk: int = 1000
) -> Tensor:
    """Which numbers of a code are no constants: Var_x E_q[z_j | x] > threshold, (width,) of bool.

    The others have collapsed to the prior, and the decoder makes nothing of them (Burda, Grosse & Salakhutdinov 2016).
    Their threshold of 0.01 goes with codes of variance 1; a number on a simplex of K varies less, by
    (K − 1) / (K² (K α₀ + 1)) under a Dirichlet prior.
    """
    return code_variances(model, values, x, chunk=chunk) > threshold
