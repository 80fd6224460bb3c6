"""One operation of a traced network after the other, added to a sequence of layers."""

import operator
from typing import Any

import torch
from torch import fx, nn

from pyro_compress.models.checking import CALLED
from pyro_compress.models.tracing.operations import BY_NAME, FUNCTIONS, MODULES, RESHAPES, SOFTMAXES, SUPPORTED, reshape
from pyro_compress.models.tracing.rules import Layers, RefusedError, Shape
from pyro_compress.models.tracing.sequences import (
    COMBINATIONS,
    CONCATENATIONS,
    SPLITS,
    LayerSequence,
    Result,
    concatenate,
    indexed,
    part,
)
from pyro_compress.network.architecture import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    MaxPool2d,
    Upsample,
)
from pyro_compress.network.further_layers import AdaptiveMaxPool2d, Pad, Resize, View

# methods that a known module's forward pass is made of
_COMPUTING = (*CALLED, "_conv_forward", "__getattr__", "__getattribute__")
_OF_IMAGES = (
    *(Conv2d, ConvTranspose2d, BatchNorm, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d),
    *(Upsample, Resize, Pad),
)


def known_type(module: nn.Module) -> Any:
    """The known type that a module is, or inherits its forward pass from."""
    kinds: tuple[Any, ...] = (*MODULES, nn.Flatten, nn.Unflatten, nn.Softmax, nn.LogSoftmax)
    return next((kind for kind in kinds if isinstance(module, kind) and _computes_like(module, kind)), None)


def _computes_like(module: nn.Module, kind: Any) -> bool:
    """Whether neither its class nor the instance computes anything else, and torch's own class is as torch wrote it."""
    same = all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _COMPUTING)
    return same and "_conv_forward" not in module.__dict__ and kind.forward.__module__.startswith("torch.nn.")


class Description:
    """Collects the layers that operations stand for.

    Args:
        network: that was traced.
        values: what each operation of it returned for a few examples.
        input_shape: of one example.
    """

    def __init__(self, network: nn.Module, values: dict[fx.Node, Any], input_shape: Shape) -> None:
        self.sequence = LayerSequence(input_shape)
        self._network, self._values = network, values
        self._results: dict[fx.Node, Result] = {}

    def add(self, node: fx.Node) -> None:
        """The next operation, in order of execution.

        Raises:
            RefusedError: it cannot be described.
            ValueError: the layers do not fit together.
        """
        number = 0 if node.op == "placeholder" else self._describe(node)
        value = self._values[node]
        # of several results, that of which they are parts
        whole = value if isinstance(value, torch.Tensor) else self._values[node.all_input_nodes[0]]
        self._results[node] = Result(number, tuple(whole.shape))

    def finish(self, node: fx.Node) -> None:
        """Make the result of an operation the network's own, in the shape that it has there."""
        result = self._results[node]
        self.sequence.recall(result.number)
        if len(result.shape) == 3 and len(self.sequence.shapes[-1]) == 3:
            self.sequence.add(View(result.shape[2:]))

    def _describe(self, node: fx.Node) -> int:
        """Number of the output that holds the result of an operation."""
        tensors = [source for source in node.all_input_nodes if not is_size(self._values[source])]
        direct = [str(source.target) for source in tensors if source.op == "get_attr"]
        if direct:
            raise RefusedError(f"uses {', '.join(direct)} directly: supported are {SUPPORTED}")
        if node.op != "call_module":
            number = self._combined(node)
            if number is not None:
                return number
        if len(tensors) > 1:
            raise RefusedError(f"takes several results: supported are {SUPPORTED}")
        number = self._results[tensors[0]].number
        layers = self._layers_of(node, number)
        if layers and isinstance(layers[0], _OF_IMAGES):
            number = self.sequence.image(number)
        return self.sequence.behind(number, *layers)

    def _combined(self, node: fx.Node) -> int | None:
        """The same for an operation that combines results, or cuts one; None of any other."""
        target: Any = node.target
        known = target in COMBINATIONS or target in CONCATENATIONS or target in SPLITS or target is operator.getitem
        if not known:
            return None
        given: Any = fx.map_arg((node.args, dict(node.kwargs)), self._resolved)
        arguments, named = given
        if target in COMBINATIONS:
            if named or len(arguments) != 2 or not all(isinstance(one, Result | int | float) for one in arguments):
                raise RefusedError("takes something else than two results, or a result and a number")
            return COMBINATIONS[target](self.sequence, *arguments)
        if target in CONCATENATIONS:
            return concatenate(self.sequence, *_bound(*arguments, **named))
        source = arguments[0]
        if target in SPLITS:
            return int(source.number)
        several = self._values[node.all_input_nodes[0]]
        if isinstance(several, torch.Tensor):
            return indexed(self.sequence, *arguments)
        return part(self.sequence, source, [tuple(one.shape) for one in several], arguments[1])

    def _resolved(self, node: fx.Node) -> Any:
        return self._results[node] if node in self._results else self._values[node]

    def _layers_of(self, node: fx.Node, number: int) -> Layers:
        source, result, target = node.args[0], self._values[node], node.target
        if not isinstance(source, fx.Node) or not isinstance(result, torch.Tensor):
            raise RefusedError(f"must take one tensor as its first argument and return one: supported are {SUPPORTED}")
        before = tuple(self._values[source].shape)
        kind: Any = target if node.op != "call_module" else known_type(self._network.get_submodule(str(target)))
        if kind in RESHAPES:
            return reshape(self.sequence.shapes[number], before, tuple(result.shape))
        if kind in SOFTMAXES:
            raise RefusedError(
                "returns probabilities: let the network return the logits, the likelihood applies the softmax"
            )
        if node.op == "call_module" and kind in MODULES:
            module = self._network.get_submodule(str(target))
            _check_module(module)
            return MODULES[kind](module, str(target), before[1:])
        full_name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}"
        rule = FUNCTIONS.get(kind) or BY_NAME.get(full_name)
        if rule is None:
            raise RefusedError(f"is not supported: supported are {SUPPORTED}")
        rest, named = fx.map_arg((node.args[1:], dict(node.kwargs)), lambda argument: self._values[argument])
        return rule(before[1:], *rest, **named)


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
