"""Max pooling that inductor takes as it is, by torch's own kernels.

Inductor turns max pooling and its gradient into loops that compare indices one by one, which on CPUs takes more than
ten times as long as torch's kernels.  Operators that it does not know stay calls.
"""

import torch
from torch import Tensor, fx

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


def keep_pooling(graph: fx.GraphModule) -> fx.GraphModule:
    """Max pooling and its gradient become the operators above; changes `graph`."""
    defaults = [[0, 0], [1, 1], False]
    for node in graph.graph.nodes:
        if node.target is _aten.max_pool2d_with_indices.default:
            given = list(node.args)
            # without a stride windows lie side by side
            given = given if len(given) > 2 and given[2] else [*given[:2], given[1], *given[3:]]
            node.args = (*given, *defaults[len(given) - 3 :])
            node.target = torch.ops.pyro_compress.max_pool2d.default
        elif node.target is _aten.max_pool2d_with_indices_backward.default:
            node.target = torch.ops.pyro_compress.max_pool2d_backward.default
    graph.recompile()
    return graph
