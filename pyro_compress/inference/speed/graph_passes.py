"""What can be taken out of a traced graph before it is replayed thousands of times.

A trace of a Pyro model is full of small operations on numbers that never change: a prior's scale is made, expanded,
logged and squared at every call.  Everything that no input enters is worked out once.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
# tensors of which only the shape depends on the input, and that is fixed within a graph
_SHAPED = {_aten.ones_like.default, _aten.zeros_like.default, _aten.new_zeros.default, _aten.new_ones.default}
_SMALL = 4096
# x ∘ neutral = x
_NEUTRAL = {_aten.sub.Tensor: 0.0, _aten.add.Tensor: 0.0, _aten.mul.Tensor: 1.0, _aten.div.Tensor: 1.0}
_COMMUTATIVE = {_aten.add.Tensor, _aten.mul.Tensor}


def simplify(graph: fx.GraphModule, *, exact: bool = False) -> fx.GraphModule:
    """Fold constants, leave out operations with neutral elements and what nothing reads; changes `graph`.

    A sum a + c·b with a number c, such as the gradient of a likelihood and that of a normal prior, is one operation,
    which rounds once where two rounded twice; ln eˣ is x, which every guide's entropy asks for; x / c is x · (1 / c),
    since vector units divide many times slower.  Not if the results must be `exact`ly those of the operations traced.

    Operations that draw random numbers or write in place stay where they are.
    """
    known = _constants(graph)
    for count, (node, value) in enumerate(list(known.items())):
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        name = f"_folded{count}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            replacement = graph.graph.get_attr(name)
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement, delete_user_cb=lambda user: user not in known)
        known[replacement] = value
    for node in list(graph.graph.nodes):
        same = _unchanged(node, known)
        if same is not None:
            node.replace_all_uses_with(same)
    for node in [] if exact else list(graph.graph.nodes):
        if node.target is _aten.log.default and getattr(node.args[0], "target", None) is _aten.exp.default:
            node.replace_all_uses_with(node.args[0].args[0])
            continue
        _multiply_by_reciprocal(graph, node, known)
        _fuse_scaled_sum(graph, node, known)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def untranspose(graph: fx.GraphModule) -> fx.GraphModule:
    """(A B)ᵀ becomes Bᵀ Aᵀ; changes `graph`.

    `vmap` makes x wᵀ of the products x w of all chains and turns the result, so what follows would run over the last
    axis in strides.
    """
    transpose = _aten.permute.default
    for node in list(graph.graph.nodes):
        product = node.args[0] if node.target is transpose and list(node.args[1]) == [1, 0] else None
        if not isinstance(product, fx.Node) or product.target is not _aten.mm.default or len(product.users) != 1:
            continue
        with graph.graph.inserting_before(node):
            turned = [graph.graph.call_function(transpose, (factor, [1, 0])) for factor in reversed(product.args)]
            replacement = graph.graph.call_function(_aten.mm.default, tuple(turned))
        node.replace_all_uses_with(replacement)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def unscale_sums(graph: fx.GraphModule) -> fx.GraphModule:
    """torch.add(a, b, alpha=c) becomes a + c·b; changes `graph`.

    Inductor of torch 2.14 makes `addmm` of a sum with a matrix product and loses alpha (`torch.compile` of
    torch.add(a @ b, x, alpha=c) gives a @ b + x).  It fuses the multiplication into the sum by itself.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_aten.add.Tensor):
        if node.kwargs.get("alpha", 1) == 1:
            continue
        summand, scaled = node.args
        with graph.graph.inserting_before(node):
            product = graph.graph.call_function(_aten.mul.Tensor, (scaled, node.kwargs["alpha"]))
            replacement = graph.graph.call_function(_aten.add.Tensor, (summand, product))
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _is_pure(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags and not _writes(node)


def _constants(graph: fx.GraphModule) -> dict[fx.Node, Any]:
    """Values of the nodes that no input enters and that nothing writes into."""
    known: dict[fx.Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
        elif node.op == "call_function" and _is_pure(node) and all(one in known for one in node.all_input_nodes):
            with torch.no_grad():
                known[node] = node.target(*_values(node.args, known), **_values(node.kwargs, known))
        elif node.target in _SHAPED and "val" in node.meta and node.meta["val"].numel() <= _SMALL:
            like = node.meta["val"]
            is_one = node.target in (_aten.ones_like.default, _aten.new_ones.default)
            known[node] = torch.full(like.shape, float(is_one), dtype=like.dtype, device=like.device)
    # what an operation writes into does not keep the value that it was made with, nor does what follows from it
    writing = [node for node in graph.graph.nodes if node.op == "call_function" and _writes(node)]
    written = {_storage(known[one]) for node in writing for one in node.all_input_nodes if one in known} - {None}
    constant: dict[fx.Node, Any] = {}
    for node, value in known.items():
        follows = node.target not in _SHAPED and any(one not in constant for one in node.all_input_nodes)
        if _storage(value) not in written and not follows:
            constant[node] = value
    return constant


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target._schema.is_mutable)


def _storage(value: Any) -> int | None:
    """Where the numbers of a tensor lie."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _values(arguments: Any, known: dict[fx.Node, Any]) -> Any:
    return fx.map_arg(arguments, lambda node: known[node])


def _unchanged(node: fx.Node, known: dict[fx.Node, Any]) -> fx.Node | None:
    """The argument that the operation gives back as it is, if there is one."""
    if node.op != "call_function" or node.target not in _NEUTRAL or len(node.args) != 2 or node.kwargs:
        return None
    for same, other in (node.args, node.args[::-1]) if node.target in _COMMUTATIVE else (node.args,):
        if not isinstance(same, fx.Node) or _number(other, known) != _NEUTRAL[node.target]:
            continue
        before, after = same.meta.get("val", known.get(same)), node.meta.get("val")
        if before is not None and after is not None and before.dtype == after.dtype and before.shape == after.shape:
            return same
    return None


def _multiply_by_reciprocal(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> None:
    """x / c becomes x · (1 / c), for numbers c other than zero."""
    if node.op != "call_function" or node.target is not _aten.div.Tensor or node.kwargs or len(node.args) != 2:
        return
    number, value = _number(node.args[1], known), node.meta.get("val")
    if not number or not isinstance(node.args[0], fx.Node) or not isinstance(value, Tensor):
        return
    before = node.args[0].meta.get("val", known.get(node.args[0]))
    if before is None or before.dtype != value.dtype or before.shape != value.shape or not value.is_floating_point():
        return
    node.target = _aten.mul.Tensor
    node.update_arg(1, 1.0 / number)


def _fuse_scaled_sum(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> None:
    """a + view(b · c) becomes torch.add(a, view(b), alpha=c): one pass over the numbers, where there were two."""
    if node.op != "call_function" or node.target is not _aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return
    for scaled, other in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
        if not isinstance(scaled, fx.Node) or not isinstance(other, fx.Node):
            continue
        is_view = scaled.target is _aten.view.default and len(scaled.users) == 1
        product = scaled.args[0] if is_view else scaled
        if not isinstance(product, fx.Node) or product.target is not _aten.mul.Tensor or len(product.users) != 1:
            continue
        factor, number = product.args[0], _number(product.args[1], known)
        if number is None or not isinstance(factor, fx.Node) or not _alike((factor, product), (scaled, other, node)):
            continue
        with graph.graph.inserting_before(node):
            if is_view:
                factor = graph.graph.call_function(_aten.view.default, (factor, scaled.args[1]))
                factor.meta = dict(scaled.meta)
            fused = graph.graph.call_function(_aten.add.Tensor, (other, factor), {"alpha": number})
        fused.meta = dict(node.meta)
        node.replace_all_uses_with(fused)
        if other.meta["val"].stride() != factor.meta["val"].stride():
            # a sum lies as its first operand does, which may be another one now: what was a view may need a copy
            for user in (user for user in fused.users if user.target is _aten.view.default):
                user.target = _aten.reshape.default
        return


def _number(argument: Any, known: dict[fx.Node, Any]) -> float | None:
    """What a real argument is, where that is known and the same number all over."""
    value = known.get(argument) if isinstance(argument, fx.Node) else argument
    if isinstance(value, Tensor):
        return float(value[(0,) * value.ndim]) if _is_even(value) and not value.is_complex() else None
    return float(value) if isinstance(value, int | float) else None


def _is_even(value: Tensor) -> bool:
    """Whether there are numbers, and all are the same."""
    if value.numel() == 0:
        return False
    if all(stride == 0 or size == 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
        return True
    # most are one number that was expanded; millions need not be looked at for the others
    return value.numel() <= _SMALL and bool((value == value[(0,) * value.ndim]).all())


def _alike(*groups: tuple[fx.Node, ...]) -> bool:
    """Whether all are real numbers of one type, and the shape is the same within every group."""
    values: list[list[Any]] = [[node.meta.get("val") for node in group] for group in groups]
    if any(not isinstance(value, Tensor) or not value.is_floating_point() for group in values for value in group):
        return False
    same_shape = all(len({value.shape for value in group}) == 1 for group in values)
    return same_shape and len({value.dtype for group in values for value in group}) == 1
