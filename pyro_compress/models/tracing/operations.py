"""What each supported operation of a traced network means as layers: one small rule per operation.

A rule takes the shape that reaches the operation (no batch axis) and the operation's own arguments, and returns
the layers it stands for: none for an identity.  An argument that cannot be described exactly raises `RefusedError`
with the rest of a sentence that begins with the operation's name.  What combines several results or cuts one is in
`sequences.py`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing import activations, convolutions, normalisations, resizing
from pyro_compress.models.tracing.rules import Layers, RefusedError, Rule, Shape, as_module, as_pair
from pyro_compress.network.further_layers import View
from pyro_compress.network.layers import Flatten, Linear, Unflatten

SUPPORTED = (
    "Linear, Conv1d, Conv2d, their transposes, BatchNorm1d, BatchNorm2d, LayerNorm, RMSNorm, GroupNorm, InstanceNorm, "
    "max and average pooling, Upsample, padding, Flatten, Unflatten, Dropout, Identity "
    "and the activations ReLU, ReLU6, LeakyReLU, PReLU, ELU, SELU, CELU, Tanh, Hardtanh, Sigmoid, Hardsigmoid, "
    "LogSigmoid, Softplus, Softsign, GELU, SiLU, Hardswish, Mish, as modules or functions, self-attention, Embedding, "
    "LSTM, GRU, RNN, GLU, softmax, shuffled channels and pixels, sums, differences, products and concatenations of "
    "results, and permutations, reshapes, means and slices of axes"
)


def _linear(module: Any, name: str, before: Shape) -> Layers:
    return [Linear(name, module.in_features, module.out_features, module.bias is not None)]


def reshape(described: Shape, before: Shape, after: Shape) -> Layers:
    """View, reshape and flatten keep the order of the numbers, so only the shapes must be right.

    Args:
        described: of one example, as the layers so far have it.
        before, after: as torch has them, batch axis first.
    """
    if after == before:
        return []
    if after[:1] != before[:1] or len(after) not in (2, 3, 4):
        raise RefusedError(
            f"reshapes {before} to {after} (batch axis first), supported are a vector, (channels, length) and "
            "(channels, height, width) behind the batch axis"
        )
    if len(after) == 2:
        return [Flatten()] if len(described) != 1 else []
    size = as_pair(after[2:], len(after) - 2)
    if len(described) > 1 and described[0] == after[1] and 3 in (len(before), len(after)):
        return [View(size)] if described[1:] != size else []
    return [*([Flatten()] if len(described) != 1 else []), Unflatten(size)]


def _dropout(before: Shape, p: float = 0.5, training: bool = True, inplace: bool = False) -> Layers:
    if training:
        raise RefusedError("drops units at inference too: pass training=self.training")
    return []


def _stochastic_depth(before: Shape, p: float, mode: str, training: bool = True) -> Layers:
    return _dropout(before, p, training)


def _identity(before: Shape, memory_format: Any = None) -> Layers:
    """Where numbers lie in memory is none of an architecture's business."""
    return []


_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout)
_IDENTITIES = ("contiguous", "float", "clone", torch.clone)
MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    **convolutions.MODULES,
    **normalisations.MODULES,
    **resizing.MODULES,
    **activations.MODULES,
    **dict.fromkeys((nn.Identity, *_DROPOUT_MODULES), as_module(_identity)),
}

FUNCTIONS: dict[Any, Callable[..., Layers]] = {
    **activations.FUNCTIONS,
    **resizing.FUNCTIONS,
    **dict.fromkeys(_DROPOUT_FUNCTIONS, _dropout),
    **dict.fromkeys(_IDENTITIES, _identity),
}
# What treats every number alike.
ELEMENTWISE: frozenset[Any] = frozenset(
    (
        *(kind for kind in activations.MODULES if kind is not nn.PReLU),
        *activations.FUNCTIONS,
        *(nn.Identity, *_DROPOUT_MODULES, *_DROPOUT_FUNCTIONS, *_IDENTITIES),
    )
)
# Of another type or device, which is none of an architecture's business where the type is float32 as before.
CASTS: frozenset[Any] = frozenset(("to", "type"))
# Functions that other packages hide from tracing, by their full names.
BY_NAME: dict[str, Callable[..., Layers]] = {"torchvision.ops.stochastic_depth.stochastic_depth": _stochastic_depth}

# Their result is told by its shape alone.
RESHAPES: frozenset[Any] = frozenset(
    (
        *(nn.Flatten, nn.Unflatten, torch.flatten, torch.unflatten, torch.reshape, torch.squeeze, torch.unsqueeze),
        *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"),
    )
)
