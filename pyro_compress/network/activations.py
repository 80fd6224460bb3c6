"""Elementwise functions of networks, in numpy: (x, slope) → y, in the type of x; `artifact/FORMAT.md`, part 4."""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

Function = Callable[[np.ndarray, float], np.ndarray]


def _gelu_tanh(x: np.ndarray, _: float) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: Mapping[str, Function] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, slope: np.where(x > 0, x, slope * np.expm1(np.minimum(x, 0))),
    "tanh": lambda x, _: np.tanh(x),
    "sigmoid": lambda x, _: np.exp(-np.logaddexp(0, -x)),
    "softplus": lambda x, _: np.logaddexp(0, x),
    "gelu": lambda x, _: x * np.array([0.5 * math.erfc(-entry / math.sqrt(2)) for entry in x]),
    "silu": lambda x, _: x * np.exp(-np.logaddexp(0, -x)),
    "relu6": lambda x, _: np.clip(x, 0, 6),
    "hardswish": lambda x, _: x * (np.clip(x + 3, 0, 6) / 6),
    "hardsigmoid": lambda x, _: np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "gelu_tanh": _gelu_tanh,
    "softsign": lambda x, _: x / (1 + np.abs(x)),
    "times": lambda x, slope: slope * x,
    "plus": lambda x, slope: x + slope,
    "at_least": lambda x, slope: np.maximum(x, slope),
    "at_most": lambda x, slope: np.minimum(x, slope),
}


# What a forward pass makes of a parameter before it adds or multiplies with it.
OF_PARAMETERS: Mapping[str, Function] = {
    **FUNCTIONS,
    "exp": lambda x, _: np.exp(x),
    "reciprocal": lambda x, _: 1 / x,
    "square": lambda x, _: x * x,
    "abs": lambda x, _: np.abs(x),
}


def applied(function: Iterable[tuple[str, float]], x: np.ndarray) -> np.ndarray:
    """float64: steps one after the other; infinite or NaN where they are not defined."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        for kind, slope in function:
            x = OF_PARAMETERS[kind](x, slope)
    return x
