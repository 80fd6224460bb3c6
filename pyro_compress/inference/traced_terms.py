"""The terms of an ELBO and their gradient as a graph of tensor operations, traced once per batch shape and replayed.

Running guide and model under Pyro's handlers costs several times what their arithmetic costs.  What they do is the same
at every step, so it is recorded once (`make_fx`) together with its gradient, and replayed from then on:

    (trained tensors, weights of the two terms, batch, noise) → (objective, data, complexity by site, gradients)

Noise is drawn outside the graph, from torch's generator and in the order in which the program drew it, so a replayed
step gives bit for bit what running the program gives.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Batch
from pyro_compress.inference.elbo import ElboTerms
from pyro_compress.inference.graphs import simplify

_aten = torch.ops.aten
# tracing costs as much as some hundred steps, so batches of one shape must come that often first
TRACE_AFTER = 300


@dataclass(frozen=True)
class Traced:
    """A recorded step.

    Attributes:
        graph: of (trained, weights, *batch, *noise).
        noise: buffers for it, in the order in which they are filled.
        sites: names of the complexities.
        reached: of the trained tensors, those that have a gradient.
    """

    graph: Callable[..., tuple[Tensor, ...]]
    noise: tuple[Tensor, ...]
    sites: tuple[str, ...]
    reached: tuple[int, ...]


class TracedTerms:
    """Estimates of the terms with gradients, by graphs where the program can be traced.

    Args:
        modules: that hold the trained tensors.
        terms: (batch) to terms; must do the same at every call but for the noise.
    """

    def __init__(self, modules: Mapping[str, nn.Module], terms: Callable[[Batch], ElboTerms]) -> None:
        self._terms = terms
        self._slots = [
            (module, name)
            for root in modules.values()
            for module in root.modules()
            for name, tensor in module._parameters.items()
            if tensor is not None
        ]
        self._graphs: dict[tuple[Any, ...], Traced | None] = {}
        self._calls: Counter[tuple[Any, ...]] = Counter()

    def descend(self, batch: Batch, weights: tuple[float, float], total: float) -> tuple[Tensor, ElboTerms] | None:
        """Add the gradient of (weights[1] · complexity − weights[0] · data) / total to that of the trained tensors.

        Returns:
            (the objective, the terms), without gradients; None where the program has to be run, and nothing was added.
        """
        key = tuple((tuple(part.shape), part.stride(), part.dtype) for part in batch)
        self._calls[key] += 1
        if key not in self._graphs:
            if self._calls[key] <= TRACE_AFTER:
                return None
            self._graphs[key] = self._traced(batch)
        traced = self._graphs[key]
        if traced is None:
            return None
        trained = self._trained()
        with torch.no_grad():
            for buffer in traced.noise:
                buffer.normal_()
            numbers = (torch.tensor(number) for number in (*weights, total))
            found = traced.graph(*(tensor.detach() for tensor in trained), *numbers, *batch, *traced.noise)
        loss, data, complexity, *rest = found
        by_site = dict(zip(traced.sites, rest, strict=False))
        for index, gradient in zip(traced.reached, rest[len(traced.sites) :], strict=True):
            _add_gradient(trained[index], gradient)
        return loss, ElboTerms(data, complexity, by_site)

    def _trained(self) -> list[nn.Parameter]:
        return [module._parameters[name] for module, name in self._slots]  # type: ignore[misc]

    def _traced(self, batch: Batch) -> Traced | None:
        sites: list[str] = []
        reached: list[int] = []

        def function(*inputs: Tensor) -> list[Tensor]:
            leaves = [tensor.detach().requires_grad_() for tensor in inputs[: len(self._slots)]]
            data_weight, complexity_weight, total, *batch = inputs[len(self._slots) :]
            with torch.enable_grad(), self._placed(leaves):
                terms = self._terms(tuple(batch))
                loss = weighted(terms, data_weight, complexity_weight, total)
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            sites[:] = terms.by_site
            reached[:] = [index for index, gradient in enumerate(gradients) if gradient is not None]
            kept = [gradient for gradient in gradients if gradient is not None]
            return [one.detach() for one in (loss, terms.data, terms.complexity, *terms.by_site.values())] + kept

        trained = [tensor.detach() for tensor in self._trained()]
        state = torch.get_rng_state()
        try:
            with warnings.catch_warnings(), pyro.validation_enabled(False):
                warnings.simplefilter("ignore")
                graph = make_fx(function)(*trained, *torch.ones(3), *batch)
        except InferenceError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"the program cannot be traced and runs step by step, which is slower ({reason})", stacklevel=4
            )
            return None
        finally:
            torch.set_rng_state(state)
        noise = _noise_outside(graph)
        return Traced(simplify(graph, exact=True), noise, tuple(sites), tuple(reached))

    @contextlib.contextmanager
    def _placed(self, values: list[Tensor]) -> Iterator[None]:
        before = self._trained()
        try:
            for (module, name), value in zip(self._slots, values, strict=True):
                module._parameters[name] = value  # type: ignore[assignment]
            yield
        finally:
            for (module, name), parameter in zip(self._slots, before, strict=True):
                module._parameters[name] = parameter


def weighted(terms: ElboTerms, data_weight: Any, complexity_weight: Any, total: Any) -> Tensor:
    """(complexity_weight · complexity − data_weight · data) / total."""
    found: Tensor = (complexity_weight * terms.complexity - data_weight * terms.data) / total
    return found


def _noise_outside(graph: fx.GraphModule) -> tuple[Tensor, ...]:
    """Make every draw of standard normal numbers an input; returns a buffer for each, laid out as the program's.

    Where the program draws anything else too, all stays inside, so that draws keep their order.
    """
    # plain arguments and results, so that more arguments can be added
    graph.graph.set_codegen(fx.graph.CodeGen())
    drawn = [node for node in graph.graph.nodes if _is_random(node)]
    buffers = []
    last = next(node for node in reversed(list(graph.graph.nodes)) if node.op == "placeholder")
    for node in drawn if all(_is_standard_normal(node) for node in drawn) else []:
        value = node.meta["val"]
        buffers.append(torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise{len(buffers)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    graph.recompile()
    return tuple(buffers)


def _is_random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _is_standard_normal(node: fx.Node) -> bool:
    if node.target is _aten.normal_.default:
        return len(node.args) == 1 and not node.kwargs
    return node.target in (_aten.randn.default, _aten.randn_like.default)


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.add_(gradient)
    elif gradient.stride() == parameter.stride():
        parameter.grad = gradient
    else:
        # fused optimizers take it for granted that both are laid out alike
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
