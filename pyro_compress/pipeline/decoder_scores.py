"""What compression costs a variational autoencoder: bounds of test examples before it, and with the decoded decoder.

The encoder is the posterior's in both, and codes are drawn from the same noise, so that differences are paired.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_compress.models.generative.bounds import elbo, log_likelihood
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.generative.vae import VAE
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.report.measure import standard_error

ELBO_SAMPLES = 10
IMPORTANCE_SAMPLES, IMPORTANCE_EXAMPLES = 1000, 1000


@dataclass(frozen=True, eq=False)
class Bounds:
    """In nats per example: ELBO of all, ln 1/K Σ_k w_k of as many as `IMPORTANCE_EXAMPLES`, evenly spaced."""

    elbo: np.ndarray
    log_likelihood: np.ndarray


def bounds_of(network: EncoderDecoder, likelihood: Likelihood, x: Tensor) -> Bounds:
    """Bounds at the parameters that encoder and decoder have."""
    model = VAE(network, {}, likelihood).to(x.device)
    few = torch.linspace(0, len(x) - 1, min(len(x), IMPORTANCE_EXAMPLES), dtype=torch.float64).round().long()
    every = elbo(model, {}, x, samples=ELBO_SAMPLES)
    estimated = log_likelihood(model, {}, x[few.to(x.device)], samples=IMPORTANCE_SAMPLES)
    return Bounds(*(values.double().cpu().numpy() for values in (every, estimated)))


@dataclass(frozen=True, eq=False)
class DecoderScores:
    """Bounds before compression and with the decoder of the file."""

    before: Bounds
    after: Bounds

    def as_dict(self) -> dict[str, Any]:
        """For results.json; what is lost is before − after, with the standard error of the paired difference."""
        lost, likelihood_lost = (
            getattr(self.before, name) - getattr(self.after, name) for name in ("elbo", "log_likelihood")
        )
        return {
            "elbo_before_nats": float(self.before.elbo.mean()),
            "elbo_after_nats": float(self.after.elbo.mean()),
            "nats_lost": float(lost.mean()),
            "nats_lost_standard_error": standard_error(lost),
            "log_likelihood_before_nats": float(self.before.log_likelihood.mean()),
            "log_likelihood_after_nats": float(self.after.log_likelihood.mean()),
            "log_likelihood_nats_lost": float(likelihood_lost.mean()),
            "log_likelihood_nats_lost_standard_error": standard_error(likelihood_lost),
            "log_likelihood_samples": IMPORTANCE_SAMPLES,
            "log_likelihood_examples": len(self.after.log_likelihood),
        }


def decoder_scores(network: EncoderDecoder, decoded: nn.Module, likelihood: Likelihood, x: Tensor) -> DecoderScores:
    """Bounds of `network` as it is, and with `decoded` in the place of its decoder, of the inputs `x`."""
    other = EncoderDecoder(network.encoder, decoded, network.codes)
    return DecoderScores(bounds_of(network, likelihood, x), bounds_of(other, likelihood, x))
