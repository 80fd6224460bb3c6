"""Any `torch.nn.Module` whose forward pass is made of known layers and sums, read as a plain `Architecture`.

The module is traced symbolically (`torch.fx`) and run on a few random examples, so sizes that the forward pass computes
(`x.view(x.size(0), -1)`) are known numbers here.  What cannot be described exactly is refused by name.
"""

import re
from typing import Any

import torch
from torch import fx, nn

from pyro_compress.errors import NetworkError, UnstorableError
from pyro_compress.models.checking import CALLED, check_network, check_numbers
from pyro_compress.models.operations import (
    ADDITIONS,
    FUNCTIONS,
    MODULES,
    RESHAPES,
    SOFTMAXES,
    SUPPORTED,
    reshape,
)
from pyro_compress.models.parameters import place_in_memory, refuse_tied
from pyro_compress.models.probing import BATCH, FEW, are_rows, evaluating, examples, first_line
from pyro_compress.models.recorder import Recorder
from pyro_compress.models.rules import Layers, RefusedError
from pyro_compress.network.architecture import Add, Architecture, BatchNorm, PReLU, Recall, Weighted

# methods that a known module's forward pass is made of
_COMPUTING = (*CALLED, "_conv_forward", "__getattr__", "__getattribute__")


def trace(network: nn.Module, input_shape: tuple[int, ...]) -> Architecture:
    """The layers that `network` computes in evaluation mode on examples of `input_shape`.

    Results may be used by several layers, and two of one shape may be added: residual connections.

    Args:
        network: left as it is, its training flags included. Float32 parameters, each used by one layer.
        input_shape: shape of one example, without the batch axis.

    Returns:
        Layers in order of execution, named by the dotted names of their modules; dropout and identities vanish.

    Raises:
        NetworkError: an operation is not in `operations.SUPPORTED`, or not in the supported form (concatenation,
            tied weights, ceil_mode, ...), the network does not accept the shape, or what it returns for an example
            depends on the others.  Says which operation and where.  An `UnstorableError` where only a file is in
            the way.
    """
    check_network(network)
    check_numbers(network)
    x = examples(network, input_shape)
    with evaluating(network):
        graph = _graph(network)
        values = _run(network, graph, x)
    layers, last = _sequence(network, graph, values)
    _check_all_used(network, layers)
    architecture = Architecture(tuple(input_shape), tuple(layers))
    try:
        described = architecture.shapes()[-1]
    except ValueError as error:
        raise UnstorableError(f"the network cannot be described: {error}") from error
    found = tuple(values[last].shape[1:])
    if described != found:
        raise NetworkError(
            f"the network returns shape {found} where its description says {described}: please report this"
        )
    with evaluating(network):
        _check_rows(network, graph, x, values, last)
    return architecture


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return _known_type(module) is not None or super().is_leaf_module(module, qualified_name)


def _known_type(module: nn.Module) -> Any:
    """The known type that a module is, or inherits its forward pass from."""
    kinds: tuple[Any, ...] = (*MODULES, nn.Flatten, nn.Unflatten, nn.Softmax, nn.LogSoftmax)
    return next((kind for kind in kinds if isinstance(module, kind) and _computes_like(module, kind)), None)


def _computes_like(module: nn.Module, kind: Any) -> bool:
    """Whether neither its class nor the instance computes anything else, and torch's own class is as torch wrote it."""
    same = all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _COMPUTING)
    return same and "_conv_forward" not in module.__dict__ and kind.forward.__module__.startswith("torch.nn.")


def _graph(network: nn.Module) -> fx.Graph:
    try:
        graph = _Tracer().trace(network)
    except Exception as error:
        raise UnstorableError(
            f"the forward pass of {type(network).__name__} cannot be traced: {first_line(error)}; "
            "it must be made of layers and sums without Python control flow on tensors"
        ) from error
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise NetworkError(
            f"forward takes the arguments {', '.join(inputs) or '(none)'}, expected one tensor of examples"
        )
    return graph


def _run(network: nn.Module, graph: fx.Graph, x: torch.Tensor) -> dict[fx.Node, Any]:
    recorder = Recorder(fx.GraphModule(network, graph))
    try:
        with torch.no_grad():
            # a network may change its input in place
            recorder.run(x.clone())
    except Exception as error:
        where = _label(network, recorder.at) if recorder.at is not None else "the network"
        raise NetworkError(f"the network does not accept {_described(x)}: {where}: {first_line(error)}") from error
    if recorder.stale is not None:
        raise UnstorableError(
            f"{_label(network, recorder.stale)} uses an earlier result after it was changed in place: give that "
            "operation inplace=False, or use what it returns"
        )
    return recorder.values


def _described(x: torch.Tensor) -> str:
    count = "" if len(x) == BATCH else f"a batch of {len(x)} with "
    return f"{count}examples of shape {tuple(x.shape[1:])}"


def _check_rows(
    network: nn.Module, graph: fx.Graph, x: torch.Tensor, values: dict[fx.Node, Any], last: fx.Node
) -> None:
    """The network that is called gives for few examples what the graph gives for more."""
    for few in FEW:
        try:
            with torch.no_grad():
                found = network(x[:few].clone())
        except Exception as error:
            _run(network, graph, x[:few])
            raise NetworkError(f"the network does not accept {_described(x[:few])}: {first_line(error)}") from error
        if are_rows(found, values[last]):
            continue
        alone = _run(network, graph, x[:few])
        for node in _needed(graph, values):
            if node.op != "output" and not are_rows(alone[node], values[node]):
                raise NetworkError(
                    f"{_label(network, node)} returns shape {_shape(alone[node])} for a batch of {few} and "
                    f"{_shape(values[node])} for one of {BATCH}, or mixes examples: what becomes of one example may "
                    "not depend on the others (flatten(1) in place of squeeze(), for example)"
                )
        raise NetworkError(
            f"{type(network).__name__} returns something else when it is called than its class's forward pass says: "
            "remove what is run beside that"
        )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def _label(network: nn.Module, node: fx.Node) -> str:
    """An operation for people: module name and type, or function name and the module that calls it."""
    if node.op == "output":
        return f"the result of {type(network).__name__}"
    if node.op == "call_module":
        return f"module '{node.target}' ({type(network.get_submodule(str(node.target))).__name__})"
    function = re.sub(r"_\d+$", "", node.name)
    stack = node.meta.get("nn_module_stack") or {}
    owner = [path for path, _ in stack.values() if path]
    return f"function '{function}' in the forward pass of " + (f"'{owner[-1]}'" if owner else type(network).__name__)


def _sequence(network: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any]) -> tuple[Layers, fx.Node]:
    """Put what the result depends on in a row, in order of execution; returns the node of the result too.

    Where an operation takes another result than the last one, a `Recall` or the reference of an `Add` says which.
    """
    layers: Layers = []
    number: dict[fx.Node, int] = {}  # which output of the layers a result is
    last: Any = None
    for node in _needed(graph, values):
        if node.op == "placeholder":
            number[node] = 0
        elif node.op == "output":
            last = node.args[0]
        else:
            try:
                added, source = _describe(network, node, values, number, len(layers))
            except RefusedError as reason:
                raise UnstorableError(f"{_label(network, node)} {reason}") from None
            layers += added
            number[node] = len(layers) if added else number[source]
    if not isinstance(last, fx.Node) or number.get(last) != len(layers):
        raise UnstorableError(
            f"{type(network).__name__} must return the result of its last layer, one tensor of logits"
        )
    return layers, last


def _needed(graph: fx.Graph, values: dict[fx.Node, Any]) -> list[fx.Node]:
    """What the result depends on in order of execution, without parameters and what is only a size."""
    found = {node for node in graph.nodes if node.op in ("placeholder", "output")}
    for node in reversed(graph.nodes):
        if node in found:
            found.update(source for source in node.all_input_nodes if not _is_size(values[source]))
    return [node for node in graph.nodes if node in found and node.op != "get_attr"]


def _describe(
    network: nn.Module, node: fx.Node, values: dict[fx.Node, Any], number: dict[fx.Node, int], current: int
) -> tuple[Layers, fx.Node]:
    """One operation as layers behind output number `current`, and the result that it takes."""
    tensors = [source for source in node.all_input_nodes if not _is_size(values[source])]
    direct = [str(source.target) for source in tensors if source.op == "get_attr"]
    if direct:
        raise RefusedError(f"uses {', '.join(direct)} directly: supported are {SUPPORTED}")
    if node.target in ADDITIONS and node.op != "call_module":
        return _sum(node, values, number, current), tensors[0]
    if len(tensors) > 1:
        raise RefusedError("combines earlier results: supported is the sum of two results of one shape")
    added = _layers_of(network, node, values)
    recall = added and number[tensors[0]] != current
    return [Recall(number[tensors[0]]), *added] if recall else added, tensors[0]


def _sum(node: fx.Node, values: dict[fx.Node, Any], number: dict[fx.Node, int], current: int) -> Layers:
    terms = [term for term in node.args if isinstance(term, fx.Node) and term in number]
    shapes = {tuple(values[term].shape) for term in terms}
    places = sorted({number[term] for term in terms})
    if len(node.args) != 2 or len(places) != 2 or len(shapes) != 1 or node.kwargs:
        raise RefusedError("is no sum of two different results of one shape, the only one supported")
    return [Add(places[0])] if places[1] == current else [Recall(places[1]), Add(places[0])]


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_size(part) for part in value)
    return isinstance(value, int | float | str | torch.dtype | torch.device | slice) or value is None


def _layers_of(network: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> Layers:
    source, result, target = node.args[0], values[node], node.target
    if not isinstance(source, fx.Node) or not isinstance(result, torch.Tensor):
        raise RefusedError(f"must take one tensor as its first argument and return one: supported are {SUPPORTED}")
    before = tuple(values[source].shape)
    kind = target if node.op != "call_module" else _known_type(network.get_submodule(str(target)))
    if kind in RESHAPES:
        return reshape(before, tuple(result.shape))
    if kind in SOFTMAXES:
        raise RefusedError(
            "returns probabilities: let the network return the logits, the likelihood applies the softmax"
        )
    if node.op == "call_module" and kind in MODULES:
        module = network.get_submodule(str(target))
        _check_module(module)
        return MODULES[kind](module, str(target), before[1:])
    if kind in FUNCTIONS:
        rest, named = fx.map_arg((node.args[1:], dict(node.kwargs)), lambda argument: values[argument])
        return FUNCTIONS[kind](before[1:], *rest, **named)
    raise RefusedError(f"is not supported: supported are {SUPPORTED}")


def _check_module(module: nn.Module) -> None:
    for name in ("weight", "bias"):
        if isinstance(getattr(module, name, None), torch.Tensor) and name not in module._parameters:
            raise RefusedError(
                f"computes its {name} (parametrization, weight norm or torch pruning): make it permanent first"
            )


def _check_all_used(network: nn.Module, layers: Layers) -> None:
    try:
        owners = refuse_tied(
            (f"{layer.name}.{kind}", parameter)
            for layer in layers
            if isinstance(layer, Weighted | BatchNorm | PReLU)
            for kind, parameter in network.get_submodule(layer.name).named_parameters(recurse=False)
        )
    except NetworkError as error:
        # a layer that is used twice; priors refuse two names of one tensor
        raise UnstorableError(str(error)) from None
    for name, parameter in network.named_parameters():
        if place_in_memory(parameter) not in owners:
            raise NetworkError(f"parameter {name} is not used by the forward pass: remove its module from the network")
