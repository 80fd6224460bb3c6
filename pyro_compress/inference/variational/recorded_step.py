"""The terms of an ELBO and their gradient as a graph of tensor operations, traced once per batch shape and replayed.

Running guide and model under Pyro's handlers costs several times what their arithmetic costs.  What they do is the same
at every step, so it is recorded once (`graph_of`) together with its gradient, and replayed from then on:

    (trained vectors, weights of the two terms, batch, statistics of batch norms, noise)
        → (objective, data, complexity by site, gradients)

Noise is drawn outside the graph, from the run's own generator and in the order in which the program draws it, so a
replayed step gives bit for bit what running the program gives.  A compiled graph gives the same up to rounding, from
the same noise; it may move the vectors as well, in place of an optimizer that would read the gradients again.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor, fx, nn

from pyro_compress.errors import InferenceError, warn
from pyro_compress.inference.gradient.elbo import ElboTerms
from pyro_compress.inference.loop.feed import Batch
from pyro_compress.inference.speed.compiled_adam import Adam
from pyro_compress.inference.speed.compiling import Function, compiled
from pyro_compress.inference.speed.flat_parameters import FlatParameters
from pyro_compress.inference.speed.graph_passes import simplify
from pyro_compress.inference.speed.graphs import graph_of
from pyro_compress.inference.speed.moving import moved
from pyro_compress.inference.speed.normal_stream import DrawnFrom, GivenNoise, Noise, is_standard_normal
from pyro_compress.inference.speed.recording import (
    Marks,
    MovingError,
    agree,
    is_due,
    marks_of,
    record,
    records,
    warn_differing,
)
from pyro_compress.inference.speed.statistics import Statistics

# tracing costs as much as a hundred steps, so batches of one shape must come that often first
TRACE_AFTER = 100
# measured on two cores: what compiling takes, and what it saves per step and operation, and per number that one writes
COMPILING_SECONDS, COMPILING_SECONDS_PER_OPERATION = 6.0, 0.01
SAVED_SECONDS_PER_OPERATION, SAVED_SECONDS_PER_NUMBER = 2e-6, 2e-10
# of a pass forward, with what follows from it in a step
SECONDS_PER_MULTIPLY_ADD = 1e-10


@dataclass(frozen=True, eq=False)
class Traced:
    """A recorded step.

    Attributes:
        graph: of (vectors, weights, *batch, *statistics, *noise); writes into the statistics.
        noise: buffers for it, in the order in which they are filled.
        sites: names of the complexities.
        draws: whether it draws from torch's generator.
        moves: whether it takes the optimizer's moments and numbers behind the noise, and moves the vectors.
    """

    graph: Function
    noise: tuple[Tensor, ...]
    sites: tuple[str, ...]
    draws: bool = False
    moves: bool = False


@dataclass(frozen=True)
class Descended:
    """What a recorded step gave, without gradients: the objective, its terms, and whether the vectors have moved."""

    loss: Tensor
    terms: ElboTerms
    moved: bool


class TracedTerms:
    """Estimates of the terms with gradients, by graphs where the program can be traced.

    Args:
        modules: that hold the trained tensors.
        flat: the vectors that these are parts of.
        terms: (batch) to terms.  What does not do the same at every call but for the noise runs as a program.
        model: that `terms` runs, or None where nothing it reads can move.
        project: takes what has moved back into its bounds.

    Attributes:
        compiling_seconds: estimate for what has been recorded last.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        flat: FlatParameters,
        terms: Callable[[Batch], ElboTerms],
        model: Any = None,
        project: Callable[[], None] = lambda: None,
    ) -> None:
        self._terms, self._flat, self._model, self._project = terms, flat, model, project
        self._statistics = Statistics.of(model[0] if isinstance(model, tuple) else model)
        # before the program ran here for the first time
        self._marks: Marks = self._present_marks()
        self._runs_as_program = False
        self._uses: Counter[Traced] = Counter()
        slots = {
            id(tensor): (module, name)
            for root in modules
            for module in root.modules()
            for name, tensor in module._parameters.items()
            if tensor is not None
        }
        self._slots = [slots[id(parameter)] for parameter in flat.parameters]
        self._graphs: dict[tuple[Any, ...], Traced | None] = {}
        self._calls: Counter[tuple[Any, ...]] = Counter()
        self.compiling_seconds, self._saved_seconds = 0.0, 0.0

    def descend(
        self,
        batch: Batch,
        weights: tuple[float, float],
        total: float,
        noise: Noise,
        *,
        at_once: bool = False,
        compile_it: bool = False,
        adam: Adam | None = None,
    ) -> Descended | None:
        """Add the gradient of (weights[1] · complexity − weights[0] · data) / total to that of the vectors, or move.

        Args:
            batch: of a shape that comes often where it is to be compiled.
            weights, total: see above.
            noise: the run's.
            at_once: record a step the first time that a batch of that shape comes, and not after some times.
            compile_it: what is recorded.
            adam: moves the vectors by that gradient in place of adding it, where the step is compiled.

        Returns:
            None where the program has to be run, and nothing was added.
        """
        adam = adam if compile_it else None
        traced = self._for(batch, at_once or compile_it, compile_it, adam)
        if traced is None:
            return None
        with torch.no_grad():
            for buffer in traced.noise:
                noise.fill_like(buffer)
        expected = self._expected(traced, batch, weights, total, compile_it)
        before = [] if expected is None else [one.clone() for one in self._statistics.tensors()]
        with torch.no_grad():
            numbers = torch.tensor((*weights, total)).unbind()
            behind = [*adam.moments(), *adam.numbers()] if adam is not None and traced.moves else []
            given = [*self._vectors(), *numbers, *batch, *self._statistics.tensors(), *traced.noise, *behind]
            loss, data, complexity, *rest = traced.graph(*given)
        if expected is not None and not agree(loss, *expected):
            self._runs_as_program = True
            warn_differing()
            if not traced.moves:
                # the program moves them now
                with torch.no_grad():
                    for one, value in zip(self._statistics.tensors(), before, strict=True):
                        one.copy_(value)
                return None
        if not traced.moves:
            self._flat.add_gradients(rest[len(traced.sites) :])
        return Descended(loss, ElboTerms(data, complexity, dict(zip(traced.sites, rest, strict=False))), traced.moves)

    def check_recordings_again(self) -> None:
        """Told where others may have changed what the model reads: the program runs from now on if they have.

        What is known to the generators of Python and numpy may have moved for reasons of theirs.
        """
        if self._runs_as_program or not self._graphs:
            return
        reason = self._moved()
        if reason is not None:
            self._runs_as_program = True
            _warn_of(reason)

    def _moved(self) -> str | None:
        return moved(self._marks, self._present_marks(), generators=False)

    def _present_marks(self) -> Marks:
        """What the model reaches, without the statistics that a recording moves itself."""
        own = {f"network.{name}" for name in self._statistics.names}
        return {path: mark for path, mark in marks_of(self._model).items() if path not in own}

    def _expected(
        self, traced: Traced, batch: Batch, weights: tuple[float, float], total: float, compile_it: bool
    ) -> tuple[Tensor, float] | None:
        """The objective as the program gives it from the same noise, and its size, where the two are to be compared."""
        self._uses[traced] += 1
        # a compiler may draw in another order
        if not is_due(self._uses[traced]) or (traced.draws and compile_it):
            return None
        place = traced.noise[0].device if traced.noise else torch.device("cpu")
        devices = [place] if place.type == "cuda" else []
        given = DrawnFrom(GivenNoise(traced.noise))
        with torch.random.fork_rng(devices=devices), torch.no_grad(), self._statistics.kept(), given:
            terms = self._terms(batch)
        size = abs(weights[0] * float(terms.data)) + abs(weights[1] * float(terms.complexity))
        return weighted(terms, *weights, total), size / total

    def is_worth_compiling(self, steps: int) -> bool:
        """Whether that many steps more pay for compiling what has been replayed so far."""
        return steps * self._saved_seconds > self.compiling_seconds

    def is_worth_compiling_anew(self, multiply_adds: float) -> bool:
        """Whether sparing so many, of passes forward, pays for compiling a narrower step."""
        return multiply_adds * SECONDS_PER_MULTIPLY_ADD > self.compiling_seconds

    def _for(self, batch: Batch, at_once: bool, compile_it: bool, adam: Adam | None) -> Traced | None:
        if self._runs_as_program or not records():
            return None
        key = (compile_it, adam is None, *((tuple(part.shape), part.stride(), part.dtype) for part in batch))
        self._calls[key] += 1
        if key not in self._graphs:
            if self._calls[key] <= TRACE_AFTER and not at_once:
                return None
            traced = self._traced(batch, exact=not compile_it)
            self._graphs[key] = self._compiled(traced, batch, adam) if traced is not None and compile_it else traced
        return self._graphs[key]

    def _compiled(self, traced: Traced, batch: Batch, adam: Adam | None) -> Traced:
        assert isinstance(traced.graph, fx.GraphModule)
        graph = traced.graph
        # it is run once: that must not move anything, and what it draws inside is not to be missing from the run
        statistics = [one.clone() for one in self._statistics.tensors()]
        examples = (*(one.clone() for one in self._vectors()), *torch.ones(3), *batch, *statistics, *traced.noise)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if adam is not None:
                count = len(examples)
                examples = (*examples, *(one.clone() for one in adam.moments()), *torch.ones(adam.count))
                graph = graph_of(self._moving(traced, adam, count), *examples)
            return replace(traced, graph=compiled(graph, examples), moves=adam is not None)

    def _moving(self, traced: Traced, adam: Adam, count: int) -> Callable[..., list[Tensor]]:
        """The recorded step, whose arguments are the first `count`, and the move that its gradients ask for."""
        vectors = len(self._flat.vectors)

        def function(*inputs: Tensor) -> list[Tensor]:
            found = traced.graph(*inputs[:count])
            moments, numbers = inputs[count : count + 2 * vectors], inputs[count + 2 * vectors :]
            adam.move(inputs[:vectors], found[-vectors:], moments, numbers)
            with self._placed(self._parts_of(inputs[:vectors])):
                self._project()
            return [*found[:-vectors]]

        return function

    def _vectors(self) -> list[Tensor]:
        return [vector.whole.detach() for vector in self._flat.vectors]

    def _parts_of(self, wholes: Sequence[Tensor]) -> list[Tensor]:
        """Every parameter's part of what stands for the vectors."""
        vectors = zip(self._flat.vectors, wholes, strict=True)
        return [place.view(whole) for vector, whole in vectors for place in vector.places]

    def _traced(self, batch: Batch, exact: bool) -> Traced | None:
        sites: list[str] = []
        count = len(self._flat.vectors)

        def function(*inputs: Tensor) -> list[Tensor]:
            leaves = [part.detach().requires_grad_() for part in self._parts_of(inputs[:count])]
            data_weight, complexity_weight, total, *rest = inputs[count:]
            data, statistics = rest[: len(batch)], rest[len(batch) :]
            with torch.enable_grad(), self._placed(leaves), self._statistics.placed(statistics):
                terms = self._terms(tuple(data))
                loss = weighted(terms, data_weight, complexity_weight, total)
                gradients = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
            sites[:] = terms.by_site
            whole = [v.joined([next(gradients) for _ in v.places]) for v in self._flat.vectors]
            return [one.detach() for one in (loss, terms.data, terms.complexity, *terms.by_site.values())] + whole

        vectors = self._vectors()
        state = torch.get_rng_state()
        try:
            reason = self._moved()
            if reason is not None:
                raise MovingError(reason)
            with pyro.validation_enabled(False):
                statistics = [one.clone() for one in self._statistics.tensors()]
                graph = record(function, (*vectors, *torch.ones(3), *batch, *statistics), self._model)
        except InferenceError:
            raise
        except Exception as error:
            self._runs_as_program = isinstance(error, MovingError)
            _warn_of(str(error).strip().partition("\n")[0])
            return None
        finally:
            torch.set_rng_state(state)
        noise, draws = _noise_outside(graph), _draws(graph)
        graph = simplify(graph, exact=exact)
        operations, numbers = _pointwise(graph)
        self._saved_seconds = operations * SAVED_SECONDS_PER_OPERATION + numbers * SAVED_SECONDS_PER_NUMBER
        self.compiling_seconds = COMPILING_SECONDS + operations * COMPILING_SECONDS_PER_OPERATION
        return Traced(graph, noise, tuple(sites), draws)

    @contextlib.contextmanager
    def _placed(self, values: list[Tensor]) -> Iterator[None]:
        before = self._flat.parameters
        try:
            for (module, name), value in zip(self._slots, values, strict=True):
                module._parameters[name] = value  # type: ignore[assignment]
            yield
        finally:
            for (module, name), parameter in zip(self._slots, before, strict=True):
                module._parameters[name] = parameter


def _warn_of(reason: str) -> None:
    warn(f"the program cannot be traced and runs step by step, which is slower ({reason})")


def weighted(terms: ElboTerms, data_weight: Any, complexity_weight: Any, total: Any) -> Tensor:
    """(complexity_weight · complexity − data_weight · data) / total."""
    found: Tensor = (complexity_weight * terms.complexity - data_weight * terms.data) / total
    return found


def _noise_outside(graph: fx.GraphModule) -> tuple[Tensor, ...]:
    """Make every draw of standard normal numbers an input; returns a buffer for each, laid out as the program's.

    Whatever else the program draws stays inside and comes from torch's generator, as it does in the program.
    """
    # plain arguments and results, so that more arguments can be added
    graph.graph.set_codegen(fx.graph.CodeGen())
    buffers = []
    last = next(node for node in reversed(list(graph.graph.nodes)) if node.op == "placeholder")
    for node in [node for node in graph.graph.nodes if is_standard_normal(node.target, node.args, node.kwargs)]:
        value = node.meta["val"]
        buffers.append(torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise{len(buffers)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    graph.recompile()
    return tuple(buffers)


def _draws(graph: fx.GraphModule) -> bool:
    """Whether something is left inside that draws."""
    targets = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return any(torch.Tag.nondeterministic_seeded in target.tags for target in targets)


def _pointwise(graph: fx.GraphModule) -> tuple[int, int]:
    """Operations that a compiler can fuse, and the numbers that they write."""
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function"]
    found = [value.numel() for value in values if isinstance(value, Tensor)]
    return len(found), sum(found)
