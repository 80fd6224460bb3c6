"""Recurrent modules of torch: for each layer and direction a convolution of one pixel, and the states behind it.

The product with the input is the same at every place, so it is a layer of its own; `Recurrent` goes through the places.
Layers and directions follow one another as torch's do, and both directions of a layer stand side by side.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyro_compress.models.tracing.axes import cut
from pyro_compress.models.tracing.constants import Constant
from pyro_compress.models.tracing.layouts import Layout
from pyro_compress.models.tracing.positions import BATCH_AXIS, at_channels, layout_of, result_of, swapped
from pyro_compress.models.tracing.rules import RefusedError
from pyro_compress.models.tracing.sequences import LayerSequence, Result
from pyro_compress.network.further_layers import Concatenate
from pyro_compress.network.layers import Conv2d
from pyro_compress.network.sequence_layers import GATES, Recurrent


@dataclass(frozen=True)
class States:
    """h of every layer and direction at its last step, (layers · directions, batch, hidden).

    Attributes:
        results: of each layer and direction its states at all places, (batch, places, hidden).
        places: which of these is the last step.
        together: for each, the states of all directions of that layer side by side, and the first that is its own.
    """

    results: tuple[Result, ...]
    places: tuple[int, ...]
    together: tuple[tuple[Result, int], ...]

    def one(self, sequence: LayerSequence, number: int) -> Result:
        """That of one layer and direction, (batch, hidden)."""
        if not -len(self.results) <= number < len(self.results):
            raise RefusedError(f"takes state {number} of {len(self.results)}")
        if not sequence.keeps_directions:
            return cut(sequence, self.results[number], (slice(None), self.places[number]))
        whole, first = self.together[number]
        own = slice(first, first + self.results[number].shape[2])
        return cut(sequence, whole, (slice(None), self.places[number], own))


@dataclass(frozen=True)
class Recurrence:
    """What a recurrent module returns: outputs at all places, and last states, of an LSTM with those of its cells."""

    outputs: Result
    states: States
    has_cells: bool


@dataclass(frozen=True)
class StatesAndCells:
    """The pair (h, c) of an LSTM."""

    states: States


Several = Recurrence | States | StatesAndCells


def recurrence(sequence: LayerSequence, module: Any, name: str, x: Result, hx: Any = None) -> Recurrence:
    """A module as the network calls it.

    Raises:
        RefusedError: it starts from states that are given, projects them, or goes over the batch axis.
    """
    if not _is_zero(hx):
        raise RefusedError("starts from a state that it is given, supported is zero")
    if module.proj_size:
        raise RefusedError("projects its states, supported is proj_size=0")
    if len(x.shape) != 3:
        raise RefusedError(
            f"takes the shape {x.shape}, supported are (batch, places, features) and its first two turned"
        )
    turned = not module.batch_first
    x = swapped(sequence, x) if turned else x
    layout = layout_of(sequence, x)
    if not layout.batch_first:
        raise RefusedError(BATCH_AXIS)
    number, layout = at_channels(sequence, x, layout.axes[2], [[], layout.axes[1]])
    places, features = x.shape[1], module.input_size
    results, together = list[Result](), list[tuple[Result, int]]()
    for layer in range(module.num_layers):
        found = []
        for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
            found.append(_direction(sequence, module, name, number, features, f"l{layer}{suffix}"))
            results.append(result_of(sequence, found[-1], _of_width(layout, module.hidden_size)))
        number = found[0] if len(found) == 1 else sequence.combined(Concatenate, *found)
        features = sequence.shapes[number][0]
        outputs = result_of(sequence, number, _of_width(layout, features))
        together += [(outputs, place * module.hidden_size) for place in range(len(found))]
    last = (places - 1, 0)[: 1 + module.bidirectional] * module.num_layers
    states = States(tuple(results), last, tuple(together))
    return Recurrence(swapped(sequence, outputs) if turned else outputs, states, module.mode == "LSTM")


def _is_zero(state: Any) -> bool:
    """Whether states are left out, or zeros that are made for a batch of that size."""
    if isinstance(state, tuple | list):
        return all(map(_is_zero, state))
    return state is None or (isinstance(state, Constant) and state.name is None and not state.value.any())


def _direction(sequence: LayerSequence, module: Any, name: str, number: int, features: int, own: str) -> int:
    """One direction of one layer behind an output."""
    kind, one, hidden = module.mode.lower(), (1, 1), module.hidden_size
    into, states = f"{name}.ih_{own}", f"{name}.hh_{own}"
    for tensor in ("weight", "bias")[: 1 + module.bias]:
        for layer, part in ((into, "ih"), (states, "hh")):
            parameter = f"{tensor}_{part}_{own}"
            if parameter not in module._parameters:
                raise RefusedError(f"computes its {parameter}: make it permanent first")
            sequence.aliases[f"{layer}.{tensor}"] = f"{name}.{parameter}"
    convolution = Conv2d(into, features, GATES[kind] * hidden, one, one, (0, 0), one, 1, module.bias)
    reverse = own.endswith("_reverse")
    return sequence.behind(number, convolution, Recurrent(states, kind, hidden, reverse, module.bias))


def _of_width(layout: Layout, width: int) -> Layout:
    return layout.exchanged(2, 1, len(layout.axes[2]), width)


def on_several(sequence: LayerSequence, kind: Any, several: Any, rest: Any, named: Any) -> Result | Several:
    """What is done with outputs and states until one of them is taken.

    Raises:
        RefusedError: anything but taking one.
    """
    if kind is operator.getitem and len(rest) == 1 and not named:
        (index,) = rest
        match several:
            case Recurrence() if index in (0, -2):
                return several.outputs
            case Recurrence() if index in (1, -1):
                return StatesAndCells(several.states) if several.has_cells else several.states
            case StatesAndCells() if index in (0, -2):
                return several.states
            case States():
                first, *others = index if isinstance(index, tuple) else (index,)
                if isinstance(first, int) and all(one in (slice(None), Ellipsis) for one in others):
                    return several.one(sequence, first)
    if kind in SQUEEZES and isinstance(several, States) and len(several.results) == 1 and (rest or named) == (0,):
        return several.one(sequence, 0)
    raise RefusedError(
        "takes the states of a recurrent layer, supported are its outputs and the last state of h of one layer: "
        "out, h[-1]"
    )


SQUEEZES: frozenset[Any] = frozenset((torch.squeeze, "squeeze"))
MODULES: dict[Any, Callable[..., Recurrence]] = dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), recurrence)
