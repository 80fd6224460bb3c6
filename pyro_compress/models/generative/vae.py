"""The variational autoencoder, Bayesian in its decoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014).

    w_p ~ prior_p                            for every covered parameter p of the decoder
    z_i ~ p(z),  x_i ~ likelihood(decoder(z_i; w))     for i in a plate of N examples: scaled by N/n

and the guide of a code is q(z_i | x_i), which the encoder gives (amortised inference), so that

    ELBO = (N/n) Σ_i [E_q log p(x_i | z_i, w) − KL(q(z_i | x_i) ‖ p(z))] − KL(q(w) ‖ p(w))
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import torch
from torch import nn

from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DataError, NetworkError
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.generative.bounds import elbo
from pyro_compress.models.generative.codes import Codes
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.likelihoods.fitted import own_values
from pyro_compress.models.priors.base import Prior
from pyro_compress.posterior.posterior import Posterior

CODE = "z"
# of the noise that validation sees: the same at every call
_NOISE_SEED = 20131220


class VAE(BayesianNetwork):
    """A Pyro model `model(x, y=None, size=None)` over a copy of `network`; the target is y, or x where there is none.

    The encoder's parameters, and the decoder's that no prior covers, are learned as point estimates.

    Args:
        network: encoder, decoder and what is between them.
        prior: as of `BayesianNetwork`, for the decoder alone, whose names begin with 'decoder.'; {} for none at all.
        likelihood: p(x | decoder's output), or its name; Bernoulli if not given.

    Raises:
        NetworkError, PriorError, RunError: as of `BayesianNetwork`; the network is no `EncoderDecoder`.
    """

    covered: ClassVar[str] = "decoder."
    has_local_sites: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        prior: Prior | str | Mapping[str, Prior | str],
        likelihood: Likelihood | str = "bernoulli",
    ) -> None:
        if not isinstance(network, EncoderDecoder):
            raise NetworkError(
                f"a VAE takes pc.models.EncoderDecoder(encoder, decoder, codes), found a {type(network).__name__}"
            )
        super().__init__(network, prior, likelihood)
        self._encoder_untouched, self._decoder_untouched = Untouched("the encoder"), Untouched("the decoder")

    @property
    def network(self) -> EncoderDecoder:
        """The private copy of the network."""
        network = super().network
        assert isinstance(network, EncoderDecoder)
        return network

    @property
    def codes(self) -> Codes:
        """What a code is."""
        return self.network.codes

    def stored_part(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        return self.network.decoder, self.codes.shape

    def observe(
        self,
        values: Mapping[str, Any],
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        teacher: torch.Tensor | None = None,
        *,
        size: int | None = None,
    ) -> torch.Tensor:
        if teacher is not None:
            raise DataError("a VAE learns from its inputs alone and takes no outputs of a teacher: leave them out")
        latent = self.likelihood.sample_latents()
        with self.rows(x, size):
            output = self.decode(values, pyro.sample(CODE, self.codes.prior()))
            self.likelihood.observe(output, self.target(x, y, output), latent)
        return output

    def local_guide(self, x: torch.Tensor, y: torch.Tensor | None = None, *more: Any, size: int | None = None) -> None:
        with self.rows(x, size):
            pyro.sample(CODE, self.codes.posterior(self.encode(self.free_values(), x)))

    def values_at(self, posterior: Posterior) -> dict[str, torch.Tensor]:
        return super().values_at(posterior) | own_values(self.likelihood, posterior)

    def encode(self, values: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
        """What the encoder puts out, (examples, codes.outputs), with `values` in place of its parameters."""
        with self._placed(self._of_network(values)):
            output: torch.Tensor = self._encoder_untouched(self.network.encoder, x, mode=self.network.training)
        return output

    def decode(self, values: Mapping[str, Any], z: torch.Tensor) -> torch.Tensor:
        """The decoder's outputs given codes, (examples, *codes.shape), with `values` in place of its parameters."""
        with self._placed(self._of_network(values)):
            output: torch.Tensor = self._decoder_untouched(self.network.decoder, z, mode=self.network.training)
        return output

    def _of_network(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without what `values_at` has of the likelihood's own."""
        own = {site.name for site in self.likelihood.latents()}
        return {name: value for name, value in values.items() if name not in own} if own else values

    def target(self, x: torch.Tensor, y: torch.Tensor | None, output: torch.Tensor) -> torch.Tensor:
        """y, or x in its place: as it is, or as one row of numbers per example."""
        if y is not None:
            return y
        return x if x.shape == output.shape else x.flatten(1)

    def errors(self, values: Mapping[str, Any], x: torch.Tensor, y: torch.Tensor, *, chunk: int = 1000) -> torch.Tensor:
        """Negative ELBO in nats per example, (examples,), at given weights, whose own KL is not in it.

        One code is drawn per example, from noise that is the same at every call; torch's generator stays as it is.
        """
        return -elbo(self, values, x, y, seed=_NOISE_SEED, rows=chunk)
