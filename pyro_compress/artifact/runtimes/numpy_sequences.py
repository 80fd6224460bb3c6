"""Layers over positions for `numpy_runtime.py`: functions of arrays, float32."""

from collections.abc import Callable
from math import prod

import numpy as np

from pyro_compress.errors import ArtifactError
from pyro_compress.network import sequence_layers as seq

Array = np.ndarray
Shape = tuple[int, ...]
Step = Callable[[Array], Array]


def rearrange(layer: seq.Rearrange) -> Step:
    """Seen in one shape, turned, seen in another."""
    order = (0, *(1 + axis for axis in layer.order))
    return lambda x: x.reshape(len(x), *layer.view).transpose(order).reshape(len(x), *layer.size)


def crop(layer: seq.Crop) -> Step:
    """Some rows and columns."""
    (top, left), (height, width) = layer.before, layer.size
    return lambda x: x[:, :, top : top + height, left : left + width]


def attention(layer: seq.Attention, before: Shape, after: Shape) -> Step:
    """softmax(scale · qᵀk) v of every head."""
    keys, places = layer.keys(before[0]), prod(before[1:])
    mask = np.triu(np.full((places, places), -np.inf, np.float32), 1) if layer.causal else np.float32(0)

    def attend(x: Array) -> Array:
        parts = np.split(x.reshape(len(x), before[0], places), (keys, 2 * keys), axis=1)
        q, k, v = (part.reshape(len(x), layer.heads, -1, places) for part in parts)
        scores = (q * np.float32(layer.scale)).swapaxes(2, 3) @ k + mask
        scores = np.exp(scores - scores.max(axis=3, keepdims=True))
        scores /= scores.sum(axis=3, keepdims=True)
        return np.asarray((v @ scores.swapaxes(2, 3)).reshape(len(x), *after))

    return attend


def constant_positions(layer: seq.ConstantPositions, value: Array) -> Step:
    """Positions with numbers of their own beside all others."""
    own = value.T[None, :, None]

    def step(x: Array) -> Array:
        each = np.broadcast_to(own, (len(x), *own.shape[1:]))
        return np.concatenate([x, each] if layer.behind else [each, x], axis=3)

    return step


def embedding(layer: seq.Embedding, weight: Array) -> Step:
    """A row of features for every token."""

    def step(x: Array) -> Array:
        tokens = x.astype(np.int64)
        if ((tokens < 0) | (tokens >= layer.tokens)).any():
            raise ArtifactError(f"tokens are whole numbers from 0 to {layer.tokens - 1}, found {x.min()} to {x.max()}")
        return weight[tokens].transpose(0, 2, 1)[:, :, None]

    return step
