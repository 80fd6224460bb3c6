"""Any `torch.nn.Module` whose forward pass is made of known layers and sums, read as a plain `Architecture`.

The module is traced symbolically (`torch.fx`) and run on a few random examples, so sizes that the forward pass computes
(`x.view(x.size(0), -1)`) are known numbers here.  What cannot be described exactly is refused by name.
"""

import re
import sysconfig
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from pyro_compress.errors import NetworkError, UnstorableError
from pyro_compress.models.checking import check_network, check_numbers
from pyro_compress.models.parameters import other_names, place_in_memory, refuse_tied
from pyro_compress.models.probing import FEW, are_rows, evaluating, examples, first_line
from pyro_compress.models.tracing.describing import Description, is_size, known_type
from pyro_compress.models.tracing.moving import refuse_moving, unwritten
from pyro_compress.models.tracing.recorder import Recorder
from pyro_compress.models.tracing.rules import RefusedError, Shape
from pyro_compress.models.tracing.sequences import LayerSequence, needed_layers, with_affines_joined
from pyro_compress.models.tracing.symbolic import recorded
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.layers import Layer, Named, describe
from pyro_compress.network.parameter_names import parameter_shapes

# Python's modules, below which what is installed may lie, too
_STANDARD = Path(sysconfig.get_path("stdlib"))
_NOT_OWN = (Path(torch.__file__).parent, Path(__file__).parents[2])


def trace(network: nn.Module, input_shape: tuple[int, ...]) -> Architecture:
    """The layers that `network` computes in evaluation mode on examples of `input_shape`.

    Results may be used by several layers, added, multiplied and concatenated: residual connections, gates, dense
    blocks.

    Args:
        network: left as it is, its training flags included. Float32 parameters; modules may be called several times,
            and share parameters.
        input_shape: shape of one example, without the batch axis.

    Returns:
        Layers in order of execution, named by the dotted names of their modules; dropout and identities vanish.

    Raises:
        NetworkError: an operation is not in `operations.SUPPORTED`, or not in the supported form (parameters used
            directly, two that share memory, another axis, ...), the network does not accept the shape, or what it
            returns for an example depends on the others.  Says which operation and where.  An `UnstorableError` where
            only a file is in the way.
    """
    check_network(network)
    check_numbers(network)
    if known_type(network) in _WHOLE:
        return _alone(network, input_shape)
    with unwritten(network):
        return _traced(network, tuple(input_shape))


def _traced(network: nn.Module, input_shape: Shape) -> Architecture:
    x = examples(network, input_shape)
    graph, values, sequence = _followed(network, x)
    _name_tied(network, sequence)
    _check_all_used(network, sequence)
    aliases = tuple(sorted(sequence.aliases.items()))
    layers = _layers(sequence)
    left = _parameters(sequence.layers) - _parameters(layers)
    if left:
        name = min(sequence.aliases.get(name, name) for name in left)
        raise UnstorableError(
            f"what the forward pass makes with parameter {name} counts for nothing in its result: leave that out of it"
        )
    refuse_moving(network, x, graph, layers, lambda other: _layers(_followed(other, x)[-1]))
    architecture = Architecture(input_shape, layers, aliases=aliases)
    described = architecture.shapes()[-1]
    last = _result_of(graph)
    found = tuple(values[last].shape[1:])
    if described != found:
        raise NetworkError(
            f"the network returns shape {found} where its description says {described}: please report this"
        )
    with evaluating(network):
        _check_rows(network, graph, x, values, last)
    return architecture


def _followed(network: nn.Module, x: torch.Tensor) -> tuple[fx.Graph, dict[fx.Node, Any], LayerSequence]:
    """The graph of a forward pass, what each of its operations returns for `x`, and the layers that they stand for."""
    # what is written while the graph is recorded may be no numbers
    with evaluating(network), unwritten(network):
        graph = _graph(network, x)
    with evaluating(network):
        values = _run(network, graph, x)
    try:
        sequence = _sequence(network, graph, values, tuple(x.shape[1:]))
        if _parameters(sequence.layers) != _parameters(_layers(sequence)):
            sequence = _sequence(network, graph, values, tuple(x.shape[1:]), keeps_directions=True)
        return graph, values, sequence
    except ValueError as error:
        raise UnstorableError(f"the network cannot be described: {error}") from error


def _parameters(layers: Sequence[Layer]) -> set[str]:
    return {name for layer in layers for name in parameter_shapes(layer)}


def _layers(sequence: LayerSequence) -> tuple[Layer, ...]:
    return with_affines_joined(needed_layers(sequence.layers))


# modules that are described as a whole where they are the network itself
_WHOLE = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.Linear, nn.Conv1d, nn.Conv2d)


class _Alone(nn.Module):
    """Calls a network that has no forward pass which could be followed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        return self.network(x)


def _alone(network: nn.Module, input_shape: tuple[int, ...]) -> Architecture:
    """The layers of a network that is described as a whole."""
    found, prefix = trace(_Alone(network), input_shape), "network."
    layers = [_renamed(layer, prefix) for layer in found.layers]
    aliases = [(name.removeprefix(prefix), other.removeprefix(prefix)) for name, other in found.aliases]
    # a layer has a name, though its module has none
    aliases += [(name, name.removeprefix(prefix)) for name in sorted(_parameters(layers)) if name.startswith(prefix)]
    return replace(found, layers=tuple(layers), aliases=tuple(aliases))


def _renamed(layer: Any, prefix: str) -> Layer:
    """A layer without the prefix of its name, if it has one."""
    found: Layer = replace(layer, name=layer.name.removeprefix(prefix)) if hasattr(layer, "name") else layer
    return found


def _result_of(graph: fx.Graph) -> Any:
    return next(node.args[0] for node in graph.nodes if node.op == "output")


def _where(error: Exception) -> str:
    """The last line of the user's own that an exception went through, as ' at net.py:12, `x = pack(x)`'; or ''."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        of_python = path.is_relative_to(_STANDARD) and "site-packages" not in path.parts
        if path.is_file() and not of_python and not any(map(path.is_relative_to, _NOT_OWN)):
            return f" at {path.name}:{frame.lineno}, `{frame.line}`"
    return ""


def _graph(network: nn.Module, x: torch.Tensor) -> fx.Graph:
    try:
        graph = recorded(network, x)
    except Exception as error:
        raise UnstorableError(
            f"the forward pass of {type(network).__name__} cannot be traced{_where(error)}: {first_line(error)}; "
            "it must be made of layers and of what combines their results, without Python control flow on tensors"
        ) from error
    inputs = [node.name for node in graph.nodes if node.op == "placeholder" and not node.args]
    starred = [node.target for node in graph.nodes if node.op == "placeholder" and str(node.target).startswith("*")]
    if starred:
        raise UnstorableError(f"forward takes {', '.join(map(str, starred))}: name the one tensor that it needs")
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
    count = f"a batch of {len(x)} with " if len(x) in FEW else ""
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
                    f"{_shape(values[node])} for one of {len(x)}, or mixes examples: what becomes of one example may "
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


def _sequence(
    network: nn.Module,
    graph: fx.Graph,
    values: dict[fx.Node, Any],
    input_shape: Shape,
    *,
    keeps_directions: bool = False,
) -> LayerSequence:
    """Put what the result depends on in a row, in order of execution."""
    description = Description(network, values, input_shape, keeps_directions=keeps_directions)
    last: Any = None
    for node in _needed(graph, values):
        if node.op == "output":
            last = node.args[0]
            continue
        try:
            description.add(node)
        except RefusedError as reason:
            raise UnstorableError(f"{_label(network, node)} {reason}") from None
        except TypeError as error:
            # arguments that no rule has
            raise UnstorableError(
                f"{_label(network, node)} is called in a form that is not supported: {first_line(error)}"
            ) from error
    if not isinstance(last, fx.Node) or not isinstance(values[last], torch.Tensor):
        raise UnstorableError(
            f"{type(network).__name__} must return the result of its last layer, one tensor of logits"
        )
    try:
        description.finish(last)
    except RefusedError as reason:
        raise UnstorableError(f"the result of {type(network).__name__} {reason}") from None
    return description.sequence


def _needed(graph: fx.Graph, values: dict[fx.Node, Any]) -> list[fx.Node]:
    """What the result depends on in order of execution, of what is made of the input and is not only a size."""
    ends = {node for node in graph.nodes if node.op == "output" or (node.op == "placeholder" and not node.args)}
    found, made = set(ends), set[fx.Node]()
    for node in graph.nodes:
        if node in ends or any(source in made for source in node.all_input_nodes):
            made.update([node] if node.op == "output" or not is_size(values[node]) else [])
    for node in reversed(graph.nodes):
        if node in found:
            found.update(source for source in node.all_input_nodes if source in made)
    return [node for node in graph.nodes if node in found]


def _name_tied(network: nn.Module, sequence: LayerSequence) -> None:
    """Give parameters that several modules have as their own the name that the network lists them by."""
    others = other_names(network)
    for name in (name for layer in sequence.layers for name in parameter_shapes(layer)):
        if name in others:
            sequence.aliases.setdefault(name, others[name])


def _check_all_used(network: nn.Module, sequence: LayerSequence) -> None:
    names = (sequence.aliases.get(name, name) for layer in sequence.layers for name in parameter_shapes(layer))
    layers: dict[str, Layer] = {}
    for layer in sequence.layers:
        if isinstance(layer, Named) and layers.setdefault(layer.name, layer) != layer:
            raise UnstorableError(
                f"'{layer.name}' is used again as another layer: {describe(layers[layer.name])} and {describe(layer)}"
            )
    try:
        owners = refuse_tied((name, network.get_parameter(name)) for name in dict.fromkeys(names))
    except NetworkError as error:
        # one parameter in two layers; priors refuse two names of one tensor
        raise UnstorableError(str(error)) from None
    for name, parameter in network.named_parameters():
        if place_in_memory(parameter) not in owners:
            raise NetworkError(f"parameter {name} is not used by the forward pass: remove its module from the network")
