"""Small networks for what is no image: tables, time series, segmentations and text."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tabular() -> nn.Sequential:
    """26-128-64-1 with ReLU for the columns of `diamonds`, 11,777 parameters."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(26, 128),
            relu1=nn.ReLU(),
            fc2=nn.Linear(128, 64),
            relu2=nn.ReLU(),
            fc3=nn.Linear(64, 1),
        )
    )


def series() -> nn.Sequential:
    """Convolutions over time for `electricity`: (3, 96) to 24, 51,640 parameters."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv1d(3, 24, 5, stride=2, padding=2),
            relu1=nn.ReLU(),
            conv2=nn.Conv1d(24, 48, 5, stride=2, padding=2),
            relu2=nn.ReLU(),
            conv3=nn.Conv1d(48, 48, 3, stride=2, padding=1),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(576, 64),
            relu4=nn.ReLU(),
            fc2=nn.Linear(64, 24),
        )
    )


class UNet(nn.Module):
    """A U-Net of three scales (Ronneberger, Fischer & Brox 2015) for `digit-scenes`: (1, 24, 24) to (11, 24, 24).

    29,571 parameters; a batch norm behind every convolution of 3 × 3, in whose place that has no bias.
    """

    def __init__(self, width: int = 8, classes: int = 11) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = (
            self._block(inputs, outputs) for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.joined2, self.joined1 = self._block(4 * width, 2 * width), self._block(2 * width, width)
        self.classes = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (examples, classes, height, width)."""
        first = self.down1(x)
        second = self.down2(self.pool(first))
        lowest = self.bottom(self.pool(second))
        second = self.joined2(torch.cat([second, self.up2(lowest)], 1))
        first = self.joined1(torch.cat([first, self.up1(second)], 1))
        return self.classes(first)


class CharacterGRU(nn.Module):
    """Characters to logits of the next one at every position: an embedding, a GRU, a dense layer; for `python-topics`.

    A position sees what is before it and nothing behind.  77,825 parameters.
    """

    def __init__(self, tokens: int = 97, features: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, features)
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.next = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (examples, positions, tokens)."""
        hidden, _ = self.gru(self.embed(x))
        return self.next(hidden)


class TransformerBlock(nn.Module):
    """Causal self-attention, then two dense layers, each behind a layer norm and added to its input (as in GPT-2)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = (
            nn.LayerNorm(features),
            nn.Linear(features, 3 * features),
            nn.Linear(features, features),
        )
        self.norm2, self.fc1, self.fc2 = (
            nn.LayerNorm(features),
            nn.Linear(features, 4 * features),
            nn.Linear(4 * features, features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(examples, positions, features), twice."""
        split = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class CharacterTransformer(nn.Module):
    """Characters to logits of the next one at every position, by a decoder-only transformer of two blocks.

    For `python-topics`, with as many positions as its windows have.  116,705 parameters.
    """

    def __init__(
        self, tokens: int = 97, positions: int = 64, features: int = 64, heads: int = 4, blocks: int = 2
    ) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(tokens, features), nn.Parameter(0.02 * torch.randn(positions, features))
        self.blocks = nn.Sequential(*(TransformerBlock(features, heads) for _ in range(blocks)))
        self.norm, self.next = nn.LayerNorm(features), nn.Linear(features, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (examples, positions, tokens)."""
        return self.next(self.norm(self.blocks(self.embed(x) + self.places)))
