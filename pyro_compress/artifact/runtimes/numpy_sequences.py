"""Layers over positions for `numpy_runtime.py`: functions of arrays, float32."""

from collections.abc import Callable
from math import prod
from typing import Any

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
        q, k, v = (part.reshape(len(x), layer.heads, part.shape[1] // layer.heads, places) for part in parts)
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
        if ((tokens < 0) | (tokens >= layer.tokens) | (tokens != x)).any():
            raise ArtifactError(layer.not_tokens(x.min(), x.max()))
        return weight[tokens].transpose(0, 2, 1)[:, :, None]

    return step


def recurrent(layer: seq.Recurrent, weight: Array, bias: Any) -> Step:
    """The states of a recurrent layer, place after place."""
    matrix = np.ascontiguousarray(weight.T)

    def step(x: Array) -> Array:
        x = x[:, :, 0].transpose(2, 0, 1)
        states = np.empty((len(x), x.shape[1], layer.hidden), np.float32)
        h = np.zeros(states.shape[1:], np.float32)
        c = h
        for place in range(len(x))[:: -1 if layer.reverse else 1]:
            h, c = _next(layer, x[place], h @ matrix, bias, h, c)
            states[place] = h
        return np.asarray(states.transpose(1, 2, 0)[:, :, None])

    return step


def _next(layer: seq.Recurrent, x: Array, fed: Array, bias: Any, h: Array, c: Array) -> tuple[Array, Array]:
    """h and c of the next step, given W h."""
    match layer.kind:
        case "lstm":
            i, f, g, o = np.split(x + fed, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(c), c
        case "gru":
            (x_r, x_z, x_n), (r, z, n) = np.split(x, 3, axis=1), np.split(fed, 3, axis=1)
            z = sigmoid(x_z + z)
            return (1 - z) * np.tanh(x_n + sigmoid(x_r + r) * (n + bias)) + z * h, c
        case "rnn_tanh":
            return np.tanh(x + fed), c
    return np.maximum(x + fed, 0), c


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^−x), without overflow."""
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))
