"""Norms that a forward pass writes out: x / √(mean x² + ε) along some axes, with or without the mean taken off before.

A deviation is no layer by itself: what makes it is looked up in the graph, and it becomes a `Standardize` where what it
is the deviation of is divided by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from pyro_compress.models.tracing.activations import times
from pyro_compress.models.tracing.positions import at_channels, layout_of, result_of
from pyro_compress.models.tracing.rules import RefusedError
from pyro_compress.models.tracing.sequences import (
    COMBINATIONS,
    LayerSequence,
    Result,
    add,
    divide,
    multiply,
    power,
    subtract,
)
from pyro_compress.network.further_layers import Standardize

# below this the length of a vector is none in float32; torch divides by no less than 10⁻¹²
NO_LENGTH = 1e-24


# x, the axes, ε, and whether it is a variance
Root = tuple[fx.Node, tuple[int, ...], float, bool]


@dataclass(frozen=True)
class Deviation:
    """√(mean x² + ε), or on the way to it.

    Attributes:
        of: the operation that gives x, None while there is no root yet.
        axes: over which the mean is.
        eps: ε.
        inverse: whether it is 1 over that.
        centred: whether the mean of x is taken off first.
    """

    of: fx.Node | None = None
    axes: tuple[int, ...] = ()
    eps: float = 0.0
    inverse: bool = False
    centred: bool = False


def deviation(node: fx.Node, values: dict[fx.Node, Any], operands: Sequence[Any]) -> Deviation | None:
    """What an operation is of a deviation; None if it is no part of one."""
    pending = any(isinstance(one, Deviation) for one in operands)
    if node.target in _VARIANCES:
        return Deviation()
    root = _root(node)
    if root is not None:
        found = _below_root(root[0], values)
        if found is not None:
            return Deviation(*found[:3], inverse=root[1], centred=found[3])
    if pending and COMBINATIONS.get(node.target) is add and len(node.all_input_nodes) == 1:
        return Deviation()
    return None


def standardised(
    sequence: LayerSequence, node: fx.Node, operands: dict[fx.Node, Any], values: dict[fx.Node, Any]
) -> Result:
    """What is divided by its deviation.

    Raises:
        RefusedError: something else is, or something else is done with a deviation.
    """
    by = next((each for each, one in operands.items() if isinstance(one, Deviation)), None)
    found = operands[by] if by is not None else None
    wanted = multiply if found is not None and found.inverse else divide
    rest = [each for each in node.args if each is not by]
    plain = found is not None and found.of is not None and COMBINATIONS.get(node.target) is wanted and len(rest) == 1
    if not plain or found is None or not isinstance(rest[0], fx.Node) or (wanted is divide and node.args[1] is not by):
        raise RefusedError(OTHERWISE)
    # of what has no mean it is taken off once more, as rounding leaves one beside a small deviation
    without = _less_mean(rest[0], values)
    centred = without is not None and without[1] == found.axes
    same = centred and without is not None and without[0] is found.of if found.centred else _alike(rest[0], found.of)
    result = operands[rest[0]]
    if not same or not isinstance(result, Result):
        raise RefusedError(OTHERWISE)
    return over(sequence, result, found.axes, found.eps, centred=centred)


def over(
    sequence: LayerSequence,
    result: Result,
    axes: Sequence[int],
    eps: float,
    *,
    centred: bool = False,
    factor: float = 1.0,
) -> Result:
    """Divided by the root of the mean square over some axes, perhaps less the mean before."""
    layout = layout_of(sequence, result)
    number, layout = at_channels(sequence, result, [*chain.from_iterable(layout.axes[axis] for axis in axes)])
    layer = Standardize(1, eps, centred, by_place=len(sequence.shapes[number]) > 1)
    return result_of(sequence, sequence.behind(number, layer, *times(factor)), layout)


def of_length_one(
    sequence: LayerSequence, result: Result, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Result:
    """`F.normalize`: x / √(Σ x²) along an axis."""
    if p != 2 or eps > 1e-6 or not isinstance(dim, int):
        raise RefusedError(
            f"has p={p}, dim={dim} and eps={eps}, supported is the length along one axis, eps at most 1e-6"
        )
    axis = dim % len(result.shape)
    count = prod(result.shape[axis : axis + 1])
    return over(sequence, result, (axis,), max(eps**2, NO_LENGTH) / count, factor=count**-0.5)


def _root(node: fx.Node) -> tuple[fx.Node, bool] | None:
    """What a root is taken of, and whether it is one over that."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in _ROOTS:
        return source, _ROOTS[node.target]
    exponent = node.args[1] if len(node.args) == 2 and not node.kwargs else None
    if COMBINATIONS.get(node.target) is power and exponent in (0.5, -0.5):
        return source, bool(exponent == -0.5)
    return None


def _below_root(node: fx.Node, values: dict[fx.Node, Any]) -> Root | None:
    """Of mean x² + ε: x, the axes, ε, and whether it is a variance."""
    if COMBINATIONS.get(node.target) is not add or len(node.args) != 2 or node.kwargs:
        return None
    inner, eps = sorted(node.args, key=lambda one: not isinstance(one, fx.Node))
    if not isinstance(inner, fx.Node) or not isinstance(eps, int | float) or eps <= 0:
        return None
    if inner.target in _VARIANCES:
        return _variance(inner, values, float(eps))
    mean = _mean(inner, values)
    if mean is None:
        return None
    square, axes = mean
    of = square.args[0] if square.args else None
    twice = COMBINATIONS.get(square.target) is multiply and len(square.args) == 2 and square.args[1] is of
    squared = COMBINATIONS.get(square.target) is power and [*square.args[1:]] in ([2], [2.0]) and not square.kwargs
    if not isinstance(of, fx.Node) or not (twice or squared or square.target in _SQUARES):
        return None
    return of, axes, float(eps), False


def _variance(node: fx.Node, values: dict[fx.Node, Any], eps: float) -> Root | None:
    source, named = node.args[0] if node.args else None, dict(node.kwargs)
    dim = named.pop("dim", node.args[1] if len(node.args) > 1 else None)
    biased = named.pop("unbiased", True) is False or named.pop("correction", 1) == 0
    axes = _axes(source, dim, values)
    known = biased and len(node.args) < 3 and named == {"keepdim": True}
    return (source, axes, eps, True) if known and axes is not None and isinstance(source, fx.Node) else None


def _mean(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[fx.Node, tuple[int, ...]] | None:
    """What a mean along axes that stay is of, and these."""
    if node.target not in (torch.mean, "mean") or not node.args:
        return None
    source, *rest = node.args
    named = dict(zip(("dim", "keepdim"), rest, strict=False)) | dict(node.kwargs)
    axes = _axes(source, named.get("dim", named.get("axis")), values)
    if not isinstance(source, fx.Node) or axes is None or not named.get("keepdim", named.get("keepdims")):
        return None
    return source, axes


def _axes(source: Any, dim: Any, values: dict[fx.Node, Any]) -> tuple[int, ...] | None:
    dims = (dim,) if isinstance(dim, int) else dim
    if not isinstance(source, fx.Node) or not isinstance(dims, tuple | list) or not dims:
        return None
    return tuple(sorted(axis % values[source].ndim for axis in dims))


def _less_mean(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[fx.Node, tuple[int, ...]] | None:
    """Of x less its mean x and the axes."""
    if COMBINATIONS.get(node.target) is not subtract or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    mean = _mean(right, values)
    return mean if mean is not None and mean[0] is left else None


def _alike(one: Any, other: Any) -> bool:
    """Whether two operations are one, or the same difference from the same mean or cast, written out twice."""
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node) or one is other:
        return bool(one is other or one == other)
    pure = COMBINATIONS.get(one.target) is subtract or one.target in (torch.mean, "mean", "float", "to")
    same = pure and one.target == other.target and len(one.args) == len(other.args) and one.kwargs == other.kwargs
    return same and all(_alike(*pair) for pair in zip(one.args, other.args, strict=True))


OTHERWISE = "takes a deviation, which is supported in (x - x.mean(d, True)) / torch.sqrt(variance + eps) only"
_VARIANCES: frozenset[Any] = frozenset((torch.var, "var"))
_SQUARES: frozenset[Any] = frozenset((torch.square, "square"))
_ROOTS: dict[Any, bool] = {
    **dict.fromkeys((torch.sqrt, "sqrt"), False),
    **dict.fromkeys((torch.rsqrt, "rsqrt"), True),
}
NORMALIZE: Any = F.normalize
