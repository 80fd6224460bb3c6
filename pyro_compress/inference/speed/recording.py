"""Recording what a program does to tensors, and holding the recording against the program now and then."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_compress.errors import warn
from pyro_compress.inference.speed.graphs import graph_of
from pyro_compress.inference.speed.moving import moved, reachable
from pyro_compress.models.bayesian import BayesianNetwork

Marks = dict[str, Any]

# of the size of the numbers that are compared; compiled ones are rounded otherwise
TOLERANCE = 1e-3


_recording = True


def records() -> bool:
    """Whether anything is recorded here and now."""
    return _recording


@contextlib.contextmanager
def programs_alone() -> Iterator[None]:
    """Nothing is recorded or compiled within: every step runs the model's program, which says what is right."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


def is_unrolled(model: Any) -> bool:
    """Whether a recording would hold every place of a sequence by itself, as that of torch's recurrent layers would.

    Their own kernels are faster, and the LSTM's on CPUs cannot be recorded at all.
    """
    return isinstance(model, BayesianNetwork) and any(isinstance(m, nn.RNNBase) for m in model.network.modules())


class MovingError(Exception):
    """What a program reads changes while it runs, so that a recording would go on with what it was; or is not there."""


def marks_of(model: Any) -> Marks:
    """What a model reaches, `moving.reachable`; or a pair of a model and its guide."""
    model, guide = model if isinstance(model, tuple) else (model, None)
    # a guide of the user's own
    more = [("guide", guide.function)] if hasattr(guide, "function") else []
    if isinstance(model, BayesianNetwork):
        return reachable(("network", model.network), ("likelihood", model.likelihood), ("prior", model.prior))
    return reachable(("model", getattr(model, "function", model)), ("argument", getattr(model, "call", None)), *more)


def record(function: Callable[..., Any], examples: tuple[Tensor, ...], model: Any) -> fx.GraphModule:
    """The operations that `function`, which runs `model`, does on tensors like `examples`.

    Raises:
        MovingError: something else than tensors changes while it runs.
        Exception: of whatever kind torch's tracing raises where an operation depends on a value.
    """
    before = marks_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = graph_of(function, *examples)
    reason = moved(before, marks_of(model))
    if reason is None and any("mkldnn_rnn_layer" in str(node.target) for node in graph.graph.nodes):
        reason = "torch's LSTM on CPUs keeps a workspace that no recording holds"
    if reason is not None:
        raise MovingError(reason)
    return graph


def is_due(uses: int) -> bool:
    """Whether a recording is held against the program: at the second use, the third, the fifth, the ninth, …"""
    return uses > 1 and (uses - 1) & (uses - 2) == 0


def agree(found: Tensor, expected: Tensor, size: float) -> bool:
    """Whether numbers are the same up to rounding; what is not finite is left to those who refuse that."""
    if not bool(torch.isfinite(found).all()):
        return True
    return float((found.detach() - expected.detach()).abs().max()) <= TOLERANCE * max(size, 1e-6)


class Replayed:
    """A recording that is held against the program now and then, and gives way to it where they differ.

    Args:
        graph: the recording, whose first result is compared.
        program: what was recorded.
    """

    def __init__(self, graph: Callable[..., tuple[Tensor, ...]], program: Callable[..., tuple[Tensor, ...]]) -> None:
        self.graph: Callable[..., tuple[Tensor, ...]] | None = graph
        self.program, self._uses = program, 0

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        if self.graph is None:
            return self.program(*arguments)
        self._uses += 1
        if not is_due(self._uses):
            return self.graph(*arguments)
        with torch.random.fork_rng(devices=[]):
            expected = self.program(*arguments)
        found = self.graph(*arguments)
        if agree(found[0], expected[0], float(expected[0].detach().abs().max())):
            return found
        warn_differing()
        self.graph = None
        return expected


def warn_differing() -> None:
    """Say that the program runs from now on."""
    warn(
        "a recorded step no longer gives what the program gives, which reads something that moves: the program runs "
        "step by step from now on, which is slower"
    )
