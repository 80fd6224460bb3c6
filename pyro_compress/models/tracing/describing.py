"""One operation of a traced network after the other, added to a sequence of layers."""

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pyro_compress.models.tracing.attention import PRODUCTS, Scores, on_scores
from pyro_compress.models.tracing.axes import (
    PERMUTATIONS,
    REDUCTIONS,
    SOFTMAXES,
    cut,
    permuted,
    reduction,
    reshaped,
    softmax,
    with_new_axis,
)
from pyro_compress.models.tracing.constants import (
    Constant,
    add_constant,
    as_number,
    beside_constant,
    constant_of,
    function_of,
    scale_by_constant,
)
from pyro_compress.models.tracing.deviations import (
    NORMALIZE,
    OTHERWISE,
    Deviation,
    deviation,
    of_length_one,
    standardised,
)
from pyro_compress.models.tracing.last_axis import BY_LAST_AXIS, function_norm
from pyro_compress.models.tracing.operations import (
    BY_NAME,
    CASTS,
    ELEMENTWISE,
    FUNCTIONS,
    MODULES,
    RESHAPES,
    SUPPORTED,
)
from pyro_compress.models.tracing.positions import as_returned, combined, joined, settled, taken
from pyro_compress.models.tracing.recurrent import MODULES as RECURRENT
from pyro_compress.models.tracing.recurrent import Several, on_several
from pyro_compress.models.tracing.rules import Layers, RefusedError, Shape, computes_like
from pyro_compress.models.tracing.sequences import (
    COMBINATIONS,
    CONCATENATIONS,
    MAGNITUDES,
    SPLITS,
    STACKS,
    LayerSequence,
    Result,
    add,
    concatenate,
    divide,
    indexed,
    magnitude,
    multiply,
    part,
    subtract,
)
from pyro_compress.models.tracing.shuffles import EXPANSIONS, MAXIMA, SHUFFLES, channels_padded, expanded
from pyro_compress.models.tracing.transformers import MODULES as TRANSFORMERS
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Pad, Resize, View
from pyro_compress.network.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    MaxPool2d,
    Upsample,
)

# what takes the shape and type of its argument alone
_LIKE: frozenset[Any] = frozenset(
    getattr(torch, f"{kind}_like") for kind in ("zeros", "ones", "full", "empty", "rand", "randn")
)
# names of arguments as numpy has them, which torch takes for its own
_TORCHS_OWN = {"axis": "dim", "keepdims": "keepdim"}
_OF_IMAGES = (
    *(Conv2d, ConvTranspose2d, BatchNorm, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d),
    *(Upsample, Resize, Pad),
)


def known_type(module: nn.Module) -> Any:
    """The known type that a module is, or inherits its forward pass from."""
    kinds: tuple[Any, ...] = (
        *(*MODULES, *TRANSFORMERS, *RECURRENT, *SHUFFLES),
        *(nn.Flatten, nn.Unflatten, nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
    )
    return next(
        (kind for kind in kinds if isinstance(kind, type) and isinstance(module, kind) and computes_like(module, kind)),
        None,
    )


class Description:
    """Collects the layers that operations stand for.

    Args:
        network: that was traced.
        values: what each operation of it returned for a few examples.
        input_shape: of one example.
        keeps_directions: see `LayerSequence`.
    """

    def __init__(
        self, network: nn.Module, values: dict[fx.Node, Any], input_shape: Shape, *, keeps_directions: bool = False
    ) -> None:
        own = (*network.named_modules(), *network.named_parameters())
        self.sequence = LayerSequence(input_shape, {name for name, _ in own}, keeps_directions=keeps_directions)
        self._network, self._values = network, values
        self._results: dict[fx.Node, Result | Scores | Several | Deviation] = {}
        self._made_of: dict[fx.Node, list[str]] = {}

    def add(self, node: fx.Node) -> None:
        """The next operation, in order of execution.

        Raises:
            RefusedError: it cannot be described.
            ValueError: the layers do not fit together.
        """
        whole = self._values[node]
        self._results[node] = Result(0, tuple(whole.shape)) if node.op == "placeholder" else self._describe(node)

    def finish(self, node: fx.Node) -> None:
        """Make the result of an operation the network's own, in the shape that it has there."""
        result = self._results[node]
        if isinstance(result, Several):
            raise RefusedError("is more than the outputs, or one state, of a recurrent layer")
        if isinstance(result, Deviation):
            raise RefusedError(OTHERWISE)
        if isinstance(result, Scores):
            raise RefusedError("is a product of two results, which is supported inside of attention only")
        result = as_returned(self.sequence, result)
        self.sequence.recall(result.number)
        if len(result.shape) == 3 and len(self.sequence.shapes[-1]) == 3:
            self.sequence.add(View(result.shape[2:]))

    def _describe(self, node: fx.Node) -> Result | Scores | Several | Deviation:
        """What holds the result of an operation."""
        kind: Any = node.target
        if node.op == "call_module":
            kind = known_type(self._network.get_submodule(str(node.target)))
        resolved = {source: self._resolved(source) for source in node.all_input_nodes}
        given: Any = fx.map_arg((node.args, dict(node.kwargs)), resolved.__getitem__)
        arguments, named = given[0], {_TORCHS_OWN.get(name, name): value for name, value in given[1].items()}
        if not arguments and "input" in named:
            # as torch's modules and functions call their first argument
            arguments = (named.pop("input"),)
        operands = [*resolved.values()]
        if any(isinstance(one, Scores) for one in operands) or kind in PRODUCTS:
            return on_scores(self.sequence, kind, arguments, named, self._module(node))
        if any(isinstance(one, Several) for one in operands):
            return on_several(self.sequence, kind, arguments[0], tuple(arguments[1:]), tuple(named.values()))
        if kind in RECURRENT:
            return RECURRENT[kind](self.sequence, self._module(node), str(node.target), *arguments, **named)
        if kind in TRANSFORMERS:
            return TRANSFORMERS[kind](self.sequence, self._module(node), str(node.target), *arguments, **named)
        made = deviation(node, self._values, operands)
        if made is not None:
            return made
        if any(isinstance(one, Deviation) for one in operands):
            return standardised(self.sequence, node, resolved, self._values)
        if kind is NORMALIZE and isinstance(arguments[0], Result):
            return of_length_one(self.sequence, *arguments, **named)
        found = self._combined(kind, arguments, named, node)
        if found is not None:
            return found
        constants = [one for one in operands if isinstance(one, Constant)]
        if kind is F.layer_norm:
            return function_norm(self.sequence, *arguments, **named)
        if constants:
            direct = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
            direct = direct or [one.name or "numbers of its own" for one in constants]
            raise RefusedError(f"uses {', '.join(direct)} directly: supported are {SUPPORTED}")
        results = [one for one in operands if isinstance(one, Result)]
        if kind == "type_as" and self._values[node].dtype == torch.float32:
            return arguments[0]
        if kind in EXPANSIONS:
            try:
                return expanded(self.sequence, arguments[0], tuple(self._values[node].shape))
            except RefusedError:
                if _goes_with_all(node, self._values):
                    return arguments[0]
                raise
        if len(results) > 1:
            raise RefusedError(f"takes several results: supported are {SUPPORTED}")
        if kind in SPLITS:
            return results[0]
        if kind in SHUFFLES:
            function, field = SHUFFLES[kind]
            module = self._module(node)
            given = (arguments[1:], named) if module is None else ((getattr(module, field),), {})
            return function(self.sequence, results[0], *given[0], **given[1])
        if kind in MAXIMA and isinstance(self._values[node], tuple):
            found = reduction(self.sequence, results[0], torch.amax, arguments[1:], named)
            layers = [] if found is not None else FUNCTIONS["amax"](results[0].shape[1:], *arguments[1:], **named)
            after = tuple(self._values[node][0].shape)
            return found or Result(self._behind(results[0].number, layers), after)
        return self._on_one(node, kind, results[0], arguments[1:], named)

    def _module(self, node: fx.Node) -> Any:
        return self._network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _combined(self, kind: Any, arguments: Any, named: Any, node: fx.Node) -> Result | None:
        """The same for an operation that combines results, or cuts one; None of any other."""
        if kind in COMBINATIONS:
            arguments = [as_number(one) for one in arguments]
            if (
                named
                or len(arguments) != 2
                or not all(isinstance(one, Result | Constant | int | float) for one in arguments)
            ):
                raise RefusedError("takes something else than two results, or a result and a number")
            return self._combination(kind, *arguments)
        if kind in CONCATENATIONS:
            return self._concatenation(*_bound(*arguments, **named))
        if kind in STACKS:
            parts, axis = _bound(*arguments, **named)
            if any(not isinstance(one, Result) for one in parts):
                raise RefusedError("stacks something that is no result of the network")
            axis %= len(parts[0].shape) + 1
            return self._concatenation([with_new_axis(self.sequence, one, axis) for one in parts], axis)
        if kind is getattr and arguments[1] == "values" and _is_maximum(node.args[0]):
            return arguments[0]
        if kind is not operator.getitem:
            return None
        several, source = self._values[node.all_input_nodes[0]], arguments[0]
        if _is_maximum(node.args[0]):
            if arguments[1] not in (0, -2):
                raise RefusedError("takes where the largest numbers stand, supported are the numbers")
            return source
        if isinstance(several, torch.Tensor):
            return self._indexed(source, arguments[1], tuple(self._values[node].shape))
        module = self._module(node.all_input_nodes[0])
        if isinstance(module, nn.MultiheadAttention):
            if arguments[1] != 0:
                raise RefusedError("takes the weights of attention, supported are its outputs")
            return source
        shapes = [tuple(one.shape) for one in several]
        return self._part(source, shapes, arguments[1], node.all_input_nodes[0])

    def _combination(self, kind: Any, left: Any, right: Any) -> Result:
        pair = [one for one in (left, right) if isinstance(one, Result)]
        constant = next((one for one in (left, right) if isinstance(one, Constant)), None)
        operation = COMBINATIONS[kind]
        if constant is not None:
            if constant.name is not None and operation in (subtract, divide) and pair[0] is left:
                operation, step = (add, ("times", -1.0)) if operation is subtract else (multiply, ("reciprocal", 0.0))
                constant = constant.then(step)
            elif constant.name is not None and operation is subtract:
                minus = replace(pair[0], number=multiply(self.sequence, pair[0], -1.0))
                return add_constant(self.sequence, minus, constant)
            elif constant.name is None and operation in (subtract, divide):
                if operation is subtract and pair[0] is right:
                    minus = replace(pair[0], number=multiply(self.sequence, pair[0], -1.0))
                    return add_constant(self.sequence, minus, constant)
                if pair[0] is left:
                    operation = add if operation is subtract else multiply
                    value = -constant.value if operation is add else 1 / constant.value
                    constant = replace(constant, value=value)
            if operation is add:
                return add_constant(self.sequence, pair[0], constant)
            if operation is multiply:
                return scale_by_constant(self.sequence, pair[0], constant)
            raise RefusedError(f"takes {constant.name or 'numbers of its own'}: supported are sums and products")
        if len(pair) == 2:
            return combined(self.sequence, operation, *pair)
        return replace(pair[0], number=operation(self.sequence, left, right))

    def _concatenation(self, parts: Any, axis: int) -> Result:
        results = [one for one in parts if isinstance(one, Result)]
        if not results or any(not isinstance(one, Result | Constant) for one in parts):
            raise RefusedError("concatenates something that is no result of the network")
        rank = len(results[0].shape)
        axis %= rank
        if all(isinstance(one, Result) and one.layout is None for one in parts) and axis == 1:
            shape = (results[0].shape[0], sum(one.shape[1] for one in results), *results[0].shape[2:])
            return Result(concatenate(self.sequence, results, axis), shape)
        first = next(place for place, one in enumerate(parts) if isinstance(one, Result))
        last = max(place for place, one in enumerate(parts) if isinstance(one, Result))
        if any(isinstance(one, Constant) for one in parts[first:last]):
            raise RefusedError("concatenates a parameter between results, supported is one beside all of them")
        found = joined(self.sequence, results, axis) if len(results) > 1 else results[0]
        for constant in reversed(parts[:first]):
            found = beside_constant(self.sequence, found, constant, axis, behind=False)
        for constant in parts[last + 1 :]:
            found = beside_constant(self.sequence, found, constant, axis, behind=True)
        return found

    def _indexed(self, source: Result, index: Any, shape: Shape) -> Result:
        if source.layout is None:
            try:
                number = indexed(self.sequence, source, index)
                return Result(number, shape)
            except RefusedError:
                pass
        return cut(self.sequence, source, index)

    def _part(self, source: Result, shapes: list[Shape], number: int, cutting: fx.Node) -> Result:
        number %= len(shapes)
        differing = [axis for axis in range(len(shapes[0])) if sum(s[axis] for s in shapes) == source.shape[axis]]
        if len(shapes[0]) < len(source.shape):
            # of an unbind, whose axis the parts lack
            dim = cutting.kwargs.get("dim", cutting.args[1] if len(cutting.args) > 1 else 0)
            if not isinstance(dim, int):
                raise RefusedError("cuts a result into parts along an axis that is not a number")
            gone = dim % len(source.shape)
            return cut(self.sequence, source, (*(slice(None),) * gone, number))
        if not differing:
            raise RefusedError("cuts a result into parts that are not all of it")
        axis = differing[-1]
        if axis == 1 and source.layout is None:
            return Result(part(self.sequence, source, shapes, number), shapes[number])
        start = sum(one[axis] for one in shapes[:number])
        return taken(self.sequence, source, axis, range(start, start + shapes[number][axis]))

    def _resolved(self, node: fx.Node) -> Any:
        if node in self._results:
            return self._results[node]
        value = self._values[node]
        if not isinstance(value, torch.Tensor):
            return value
        constant = constant_of(self._network, value)
        made_of = self._parameters_in(node) if constant.name is None else []
        if made_of:
            function = self._function(node)
            if function is not None:
                return function
            # its numbers are those of now, and a fit moves what they were computed from
            raise RefusedError(
                f"takes what the forward pass computes from {', '.join(made_of)}: supported are its numbers as they "
                "are, in other shapes, orders and parts"
            )
        return constant

    def _function(self, node: fx.Node) -> Constant | None:
        """What is made of a parameter number by number, and in other shapes; None of anything else."""
        sources = [source for source in node.all_input_nodes if not is_size(self._values[source])]
        if len(sources) != 1 or node.op == "call_module" or sources[0] not in node.args:
            return None
        inner = self._resolved(sources[0])
        if not isinstance(inner, Constant) or inner.name is None or inner.indices is None:
            return None
        given: Any = fx.map_arg((node.args, dict(node.kwargs)), self._values.__getitem__)
        found = function_of(inner, node.target, node.args.index(sources[0]), *given)
        # the numbers are those that the forward pass has
        same = found is not None and torch.allclose(found.value, self._values[node], rtol=1e-4, equal_nan=True)
        return found if same and found is not None and found.value.shape == self._values[node].shape else None

    def _parameters_in(self, node: fx.Node) -> list[str]:
        """Names of the parameters that the numbers of a node depend on."""
        if node not in self._made_of:
            found: list[str] = []
            if isinstance(self._values[node], nn.Parameter):
                # by whichever of its names
                found = [str(node.target)]
            elif node.op == "call_module":
                found = [f"{node.target}.{name}" for name, _ in self._module(node).named_parameters()]
            if not is_size(self._values[node]) and node.target not in _LIKE:
                found += [name for source in node.all_input_nodes for name in self._parameters_in(source)]
            self._made_of[node] = list(dict.fromkeys(found))
        return self._made_of[node]

    def _on_one(self, node: fx.Node, kind: Any, result: Result, rest: Any, named: Any) -> Result:
        """An operation that takes one result."""
        source = node.args[0] if node.args else node.kwargs.get("input")
        value, target = self._values[node], node.target
        if not isinstance(source, fx.Node) or not isinstance(value, torch.Tensor):
            raise RefusedError(f"must take one tensor as its first argument and return one: supported are {SUPPORTED}")
        after = tuple(value.shape)
        if kind in ("long", "int") and not result.number:
            # tokens are whole numbers of whatever type
            return result
        if kind in CASTS and value.dtype == self._values[source].dtype == torch.float32:
            return result
        if kind in MAGNITUDES and len(node.args) == 1:
            return replace(result, number=magnitude(self.sequence, result))
        if kind is F.pad:
            found = channels_padded(self.sequence, result, *rest, **named)
            if found is not None:
                return found
        if kind in RESHAPES:
            return reshaped(self.sequence, result, after)
        if kind in PERMUTATIONS:
            return permuted(self.sequence, result, kind, rest, named)
        module = self._module(node)
        if kind in SOFTMAXES:
            return softmax(self.sequence, result, kind, *((getattr(module, "dim", -3),) if module else rest), **named)
        if module is not None and kind is not None:
            _check_module(module)
        if kind in BY_LAST_AXIS:
            found = BY_LAST_AXIS[kind](self.sequence, result, module, str(target))
            if found is not None:
                return found
        if kind in REDUCTIONS:
            found = reduction(self.sequence, result, kind, rest, named)
            if found is not None:
                return found
        if kind not in ELEMENTWISE:
            result = settled(self.sequence, result)
        number = self._behind(result.number, self._layers_of(node, kind, result.shape, rest, named))
        return replace(result, number=number) if kind in ELEMENTWISE else Result(number, after)

    def _behind(self, number: int, layers: Layers) -> int:
        if layers and isinstance(layers[0], _OF_IMAGES):
            number = self.sequence.image(number)
        return self.sequence.behind(number, *layers)

    def _layers_of(self, node: fx.Node, kind: Any, before: Shape, rest: Any, named: Any) -> Layers:
        if node.op == "call_module" and kind in MODULES:
            if any(one is not None for one in (*rest, *named.values())):
                raise RefusedError("is called with more than its input: give the module itself what it says")
            return MODULES[kind](self._module(node), str(node.target), before[1:])
        full_name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}"
        rule = FUNCTIONS.get(kind) or BY_NAME.get(full_name)
        if rule is None:
            raise RefusedError(f"is not supported: supported are {SUPPORTED}")
        return rule(before[1:], *rest, **named)


def _goes_with_all(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether what is expanded only meets results of that shape, with which it goes as it is."""
    return all(
        user.target in COMBINATIONS
        and len(user.args) == len(user.all_input_nodes) == 2
        and all(
            other is node
            or (other.target not in EXPANSIONS and getattr(values.get(other), "shape", None) == values[node].shape)
            for other in user.all_input_nodes
        )
        for user in node.users
    )


def _is_maximum(node: Any) -> bool:
    """Whether an operation gives the largest numbers along an axis and where they stand."""
    return isinstance(node, fx.Node) and node.target in MAXIMA


def is_size(value: Any) -> bool:
    """Whether what an operation returned is no result that layers take."""
    if isinstance(value, tuple | list):
        return all(is_size(one) for one in value)
    return isinstance(value, int | float | str | torch.dtype | torch.device | slice) or value is None


def _bound(tensors: Any, dim: int = 0) -> tuple[Any, int]:
    """The arguments of a concatenation, by whatever name they are given."""
    return tensors, dim


def _check_module(module: nn.Module) -> None:
    for name in ("weight", "bias"):
        if isinstance(getattr(module, name, None), torch.Tensor) and name not in module._parameters:
            raise RefusedError(
                f"computes its {name} (parametrization, weight norm or torch pruning): make it permanent first"
            )
