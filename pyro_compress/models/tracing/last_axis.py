"""Dense layers and norms over the last axis of a result, whatever is in front of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pyro_compress.models.tracing.constants import Constant
from pyro_compress.models.tracing.positions import layout_of, normalised_over, over_last_axis
from pyro_compress.models.tracing.rules import RefusedError
from pyro_compress.models.tracing.sequences import LayerSequence, Result


def dense(sequence: LayerSequence, result: Result, module: Any, name: str) -> Result:
    """A dense layer over the last axis."""
    bias = module.bias is not None
    return over_last_axis(sequence, result, name, module.in_features, module.out_features, bias)


def norm(sequence: LayerSequence, result: Result, module: Any, name: str) -> Result:
    """Layer norm or RMS norm over the last axes."""
    eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
    own = name if module.weight is not None else None
    centred, bias = not isinstance(module, nn.RMSNorm), getattr(module, "bias", None) is not None
    return normalised_over(sequence, result, tuple(module.normalized_shape), eps, centred=centred, name=own, bias=bias)


def last_dense(sequence: LayerSequence, result: Result, module: Any, name: str) -> Result | None:
    """A dense layer, None where it takes a vector."""
    if len(result.shape) == 2 and layout_of(sequence, result).batch_first:
        return None
    return dense(sequence, result, module, name)


def last_norm(sequence: LayerSequence, result: Result, module: Any, name: str) -> Result | None:
    """A norm over the last axes, None where it is over all numbers of an example."""
    shape = tuple(module.normalized_shape)
    if result.layout is None and shape == result.shape[1:] and (len(shape) == 1 or module.weight is None):
        return None
    return norm(sequence, result, module, name)


def function_norm(
    sequence: LayerSequence,
    result: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Result:
    """`F.layer_norm` with the weight and bias of a module."""
    parts = {"weight": weight, "bias": bias}
    names = {kind: part.name for kind, part in parts.items() if isinstance(part, Constant)}
    stem = (names.get("weight") or "").removesuffix(".weight")
    computed = any(isinstance(part, Constant) and part.function for part in parts.values())
    if not isinstance(result, Result) or computed or any(name != f"{stem}.{kind}" for kind, name in names.items()):
        raise RefusedError("normalises with something else than the weight and bias of one module")
    shape = tuple(normalized_shape)
    return normalised_over(
        sequence, result, shape, eps, centred=True, name=stem if names else None, bias="bias" in names
    )


# modules over the last axis: None where a layer of `operations.py` is it
BY_LAST_AXIS: dict[Any, Callable[..., Result | None]] = {
    nn.Linear: last_dense,
    nn.LayerNorm: last_norm,
    nn.RMSNorm: last_norm,
}
