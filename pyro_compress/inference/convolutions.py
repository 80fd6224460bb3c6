"""Gradients of filters that read one channel, as convolutions with the roles changed.

The gradient of a filter is the correlation of what it read with the gradient of what it wrote, summed over examples:

    ∂L/∂W[o, c, k] = Σ_b Σ_p x[b, c, s p + d k] · g[b, o, p]

which is a convolution of x with g in the place of the filters, examples in the place of channels, and stride and
dilation exchanged.  For grey images that is three to five times as fast on CPUs as the kernel made for the gradient,
which works through blocks of input channels and finds one; from three channels on that kernel is the faster one.
"""

import operator
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten


def correlate_one_channel(graph: fx.GraphModule) -> fx.GraphModule:
    """Rewrite gradients of filters over one channel; changes `graph`, which gives the same up to rounding."""
    for node in list(graph.graph.nodes):
        if node.target is _aten.convolution_backward.default and _is_simple(node):
            _rewrite(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _is_simple(node: fx.Node) -> bool:
    """Whether filters over one channel of an image get a gradient."""
    arguments: Any = node.args
    _, x, _, _, _, _, _, transposed, _, groups, mask = arguments
    shape = x.meta["val"].shape
    return bool(mask[1]) and not transposed and groups == 1 and len(shape) == 4 and shape[1] == 1


def _rewrite(graph: fx.GraphModule, node: fx.Node) -> None:
    arguments: Any = node.args
    gradient, x, weight, _, stride, padding, dilation, *_, mask = arguments
    height, width = weight.meta["val"].shape[2:]

    def call(target: Any, *arguments: Any) -> fx.Node:
        return graph.graph.call_function(target, arguments)

    for user in [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]:
        with graph.graph.inserting_before(user):
            images, filters = (call(_aten.transpose.int, tensor, 0, 1) for tensor in (x, gradient))
            found = call(_aten.convolution.default, images, filters, None, dilation, padding, stride, False, [0, 0], 1)
            # a stride may leave rows at the border that no filter reached
            for axis, extent in ((2, height), (3, width)):
                found = call(_aten.slice.Tensor, found, axis, 0, extent)
            turned = call(_aten.transpose.int, found, 0, 1)
        user.replace_all_uses_with(turned)
        graph.graph.erase_node(user)
    # asked for the bias alone, that kernel makes the filters' gradient all the same
    for user in [user for user in node.users if user.target is operator.getitem and user.args[1] == 2]:
        with graph.graph.inserting_before(user):
            user.replace_all_uses_with(call(_aten.sum.dim_IntList, gradient, [0, 2, 3]))
        graph.graph.erase_node(user)
    node.update_arg(len(arguments) - 1, [mask[0], False, False])
