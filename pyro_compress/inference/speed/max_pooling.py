"""Max pooling in compiled steps: fused with what comes before and after it where windows tile the input.

Inductor turns max pooling and its gradient into loops that compare indices one by one, which on CPUs takes more than
ten times as long as torch's kernels.  Where windows lie side by side and channels last, both are written here as
operations on whole slices instead,

    value[b, c, i, j] = max_k x[b, c, i s + k₁, j s + k₂],    place[b, c, i, j] = the first k that has it,
    ∂L/∂x[b, c, i s + k₁, j s + k₂] = g[b, c, i, j] · [place[b, c, i, j] = k],

which vector units do channel by channel, in the loops that make x and that read its gradient.  All other max pooling
becomes an operator that inductor does not know, and so stays a call of torch's kernels.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from pyro_compress.inference.speed.graphs import graph_of

_aten = torch.ops.aten
Pair = list[int]


def _max_pool2d(
    x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil)
    return found


def _max_pool2d_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil: bool,
    indices: Tensor,
) -> Tensor:
    found: Tensor = _aten.max_pool2d_with_indices_backward(
        gradient, x, kernel, stride, padding, dilation, ceil, indices
    )
    return found


# what they compute says what shapes they have too
for _name, _function in (("max_pool2d", _max_pool2d), ("max_pool2d_backward", _max_pool2d_backward)):
    torch.library.custom_op(f"pyro_compress::{_name}", _function, mutates_args=()).register_fake(_function)


def fuse_pooling(graph: fx.GraphModule) -> fx.GraphModule:
    """Max pooling by windows that tile an input that lies channels last, as in the module's text; changes `graph`."""
    pooled = graph.graph.find_nodes(op="call_function", target=_aten.max_pool2d_with_indices.default)
    for node in [node for node in pooled if _tiles(node)]:
        indices = [user for user in node.users if user.args[1] == 1]
        # who else reads the indices knows them as places in the input
        backward = [user for one in indices for user in one.users]
        if any(user.target is not _aten.max_pool2d_with_indices_backward.default for user in backward):
            continue
        x, window = node.args[0], tuple(node.args[1])
        value, place = _insert(graph, node, partial(_pool, window=window), x)
        for user in backward:
            (gradient,) = _insert(graph, user, partial(_unpool, window=window), user.args[0], place)
            user.replace_all_uses_with(gradient)
            graph.graph.erase_node(user)
        for user in list(node.users):
            user.replace_all_uses_with(value if user.args[1] == 0 else place)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _pool(x: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(value, place), both (examples, channels, rows, columns)."""
    rows, columns = window
    value = x[:, :, ::rows, ::columns]
    place = torch.zeros_like(value)
    for number in range(1, rows * columns):
        other = x[:, :, number // columns :: rows, number % columns :: columns]
        # as in torch, what is no number wins; inductor's isnan looks at one number at a time
        wins = (other > value) | (other != other)
        value = torch.where(wins, other, value)
        place = torch.where(wins, float(number), place)
    # a view has inductor store it; else it stores the comparisons, and makes it of them once more in the gradient
    return value, place.as_strided(place.shape, place.stride())


def _unpool(gradient: Tensor, place: Tensor, window: tuple[int, int]) -> tuple[Tensor]:
    examples, channels, height, width = place.shape
    rows, columns = window
    numbers = torch.arange(rows * columns, dtype=place.dtype, device=place.device).view(rows, 1, columns, 1)
    # (examples, rows of windows, rows, columns of windows, columns, channels), as they come in memory
    spread = [
        one.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, rows, -1, columns, -1) for one in (gradient, place)
    ]
    found = torch.where(spread[1] == numbers, spread[0], 0.0)
    return (found.reshape(examples, height * rows, width * columns, channels).permute(0, 3, 1, 2),)


def _tiles(node: fx.Node) -> bool:
    """Whether the windows lie side by side and cover the input, which lies channels last."""
    x, window, *rest = _with_defaults(node.args)
    value = x.meta["val"]
    if value.ndim != 4 or value.stride(1) != 1 or len(window) != 2 or rest != [window, [0, 0], [1, 1], False]:
        return False
    return bool(value.shape[2] % window[0] == 0 and value.shape[3] % window[1] == 0)


def _insert(graph: fx.GraphModule, before: fx.Node, function: Any, *arguments: Any) -> tuple[fx.Node, ...]:
    """Operations of a function, ahead of a node; returns the nodes of what it returns."""
    examples = (one.meta["val"] for one in arguments)
    traced = graph_of(function, *(torch.empty_strided(one.shape, one.stride(), dtype=one.dtype) for one in examples))
    known = dict(zip(traced.graph.find_nodes(op="placeholder"), arguments, strict=True))
    with graph.graph.inserting_before(before):
        found = graph.graph.graph_copy(traced.graph, known)
    assert isinstance(found, tuple)
    return found


def _with_defaults(arguments: Any) -> list[Any]:
    given = list(arguments)
    # without a stride windows lie side by side
    given = given if len(given) > 2 and given[2] else [*given[:2], given[1], *given[3:]]
    return [*given, *([0, 0], [1, 1], False)[len(given) - 3 :]]


def keep_pooling(graph: fx.GraphModule) -> fx.GraphModule:
    """Max pooling and its gradient become the operators above; changes `graph`."""
    for node in graph.graph.nodes:
        if node.target is _aten.max_pool2d_with_indices.default:
            node.args = tuple(_with_defaults(node.args))
            node.target = torch.ops.pyro_compress.max_pool2d.default
        elif node.target is _aten.max_pool2d_with_indices_backward.default:
            node.target = torch.ops.pyro_compress.max_pool2d_backward.default
    graph.recompile()
    return graph
