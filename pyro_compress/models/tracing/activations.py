"""Elementwise functions of traced networks as layers; those that are a chain of others are written as that chain."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pyro_compress.models.tracing.rules import Layers, RefusedError, Rule, Shape, as_module
from pyro_compress.network.layers import Activation, PReLU

# of SELU (Klambauer et al. 2017)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _simple(kind: str) -> Callable[..., Layers]:
    return lambda before, inplace=False: [Activation(kind)]


def times(factor: float) -> Layers:
    """y = factor · x."""
    return [Activation("times", float(factor))] if factor != 1 else []


def plus(term: float) -> Layers:
    """y = x + term."""
    return [Activation("plus", float(term))] if term != 0 else []


def _leaky_relu(before: Shape, negative_slope: float = 0.01, inplace: bool = False) -> Layers:
    return [Activation("leaky_relu", float(negative_slope))]


def _prelu(module: Any, name: str, before: Shape) -> Layers:
    return [PReLU(name, module.num_parameters)]


def _elu(before: Shape, alpha: float = 1.0, inplace: bool = False) -> Layers:
    return [Activation("elu", float(alpha))]


def _celu(before: Shape, alpha: float = 1.0, inplace: bool = False) -> Layers:
    """α · elu(x / α)."""
    if alpha <= 0:
        raise RefusedError(f"has alpha={alpha}, supported are positive ones")
    return [*times(1 / alpha), Activation("elu", 1.0), *times(alpha)]


def _selu(before: Shape, inplace: bool = False) -> Layers:
    return [Activation("elu", SELU_ALPHA), *times(SELU_SCALE)]


def _hardtanh(before: Shape, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Layers:
    return _clamp(before, min_val, max_val)


def _clamp(before: Shape, min: float | None = None, max: float | None = None) -> Layers:
    """As torch does it: where the least is above the most, the most counts."""
    bounds = [("at_least", min), ("at_most", max)]
    if any(isinstance(bound, torch.Tensor) for _, bound in bounds):
        raise RefusedError("has tensors as bounds, supported are numbers")
    return [Activation(kind, float(bound)) for kind, bound in bounds if bound is not None]


def _clamp_min(before: Shape, min: float) -> Layers:
    return _clamp(before, min)


def _clamp_max(before: Shape, max: float) -> Layers:
    return _clamp(before, None, max)


def _gelu(before: Shape, approximate: str = "none") -> Layers:
    return [Activation("gelu" if approximate == "none" else "gelu_tanh")]


def _softplus(before: Shape, beta: float = 1.0, threshold: float = 20.0) -> Layers:
    """ln(1 + e^{βx}) / β; from x β = 20 on torch gives x, which is the same in float32, and from 16 on nearly."""
    if threshold < 16:
        raise RefusedError(f"has threshold={threshold}, supported is 20")
    return [*times(beta), Activation("softplus"), *times(1 / beta)]


def _log_sigmoid(before: Shape) -> Layers:
    """−softplus(−x)."""
    return [*times(-1), Activation("softplus"), *times(-1)]


def _negative(before: Shape) -> Layers:
    return times(-1)


MODULES: dict[type[nn.Module], Rule] = {
    nn.PReLU: _prelu,
    nn.LeakyReLU: as_module(_leaky_relu, "negative_slope"),
    nn.ELU: as_module(_elu, "alpha"),
    nn.CELU: as_module(_celu, "alpha"),
    nn.SELU: as_module(_selu),
    nn.GELU: as_module(_gelu, "approximate"),
    nn.Softplus: as_module(_softplus, "beta", "threshold"),
    nn.LogSigmoid: as_module(_log_sigmoid),
    nn.ReLU: as_module(_simple("relu")),
    nn.ReLU6: as_module(_simple("relu6")),
    nn.Hardtanh: as_module(_hardtanh, "min_val", "max_val"),
    nn.Tanh: as_module(_simple("tanh")),
    nn.Sigmoid: as_module(_simple("sigmoid")),
    nn.SiLU: as_module(_simple("silu")),
    nn.Hardswish: as_module(_simple("hardswish")),
    nn.Hardsigmoid: as_module(_simple("hardsigmoid")),
    nn.Mish: as_module(_simple("mish")),
    nn.Softsign: as_module(_simple("softsign")),
}

FUNCTIONS: dict[Any, Callable[..., Layers]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _simple("relu")),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"), _simple("tanh")),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_"), _simple("sigmoid")),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clamp_", "clip"), _clamp),
    **dict.fromkeys((torch.clamp_min, "clamp_min", "clamp_min_"), _clamp_min),
    **dict.fromkeys((torch.clamp_max, "clamp_max", "clamp_max_"), _clamp_max),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negative),
    F.silu: _simple("silu"),
    F.relu6: _simple("relu6"),
    F.hardswish: _simple("hardswish"),
    F.hardsigmoid: _simple("hardsigmoid"),
    F.mish: _simple("mish"),
    F.softsign: _simple("softsign"),
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.celu: _celu,
    F.selu: _selu,
    F.hardtanh: _hardtanh,
    F.gelu: _gelu,
    F.softplus: _softplus,
    F.logsigmoid: _log_sigmoid,
}
