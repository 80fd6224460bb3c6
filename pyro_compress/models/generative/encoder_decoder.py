"""Two networks with a code between them."""

import torch
from torch import nn

from pyro_compress.models.generative.codes import Codes


class EncoderDecoder(nn.Module):
    """x ↦ decoder(E[z | encoder(x)]): the reconstruction from the mean code.

    Under `VAE` codes are drawn; under `BayesianNetwork`, with inputs as targets, this is a plain autoencoder.

    Args:
        encoder: from inputs, (examples, *input shape), to (examples, codes.outputs).
        decoder: from codes, (examples, *codes.shape), to the likelihood's outputs.
        codes: what a code is.
    """

    encoder: nn.Module
    decoder: nn.Module
    codes: Codes

    def __init__(self, encoder: nn.Module, decoder: nn.Module, codes: Codes) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = encoder, decoder, codes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.decoder(self.codes.mean(self.encoder(x)))
        return output
