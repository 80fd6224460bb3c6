"""Two networks with a code between them, and three that know of labels too."""

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


class LabelledEncoderDecoder(nn.Module):
    """x ↦ classifier(x): what a `SemiSupervisedVAE` is made of.

    Args:
        classifier: from inputs, (examples, *input shape), to logits, (examples, classes).
        encoder: from inputs and labels side by side, (examples, numbers of an input + classes), to
            (examples, codes.outputs); a label is one-hot, or of positive numbers of the sum 1.
        decoder: from codes and labels side by side, (examples, codes.width + classes), to the likelihood's outputs.
        codes: what a code is.
    """

    classifier: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    codes: Codes

    def __init__(self, classifier: nn.Module, encoder: nn.Module, decoder: nn.Module, codes: Codes) -> None:
        super().__init__()
        self.classifier, self.encoder, self.decoder, self.codes = classifier, encoder, decoder, codes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.classifier(x)
        return output
