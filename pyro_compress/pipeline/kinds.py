"""Which kind of file a network ends in, and what that file says of it: layers in order, or tensors alone."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.artifact.runtimes.state_dicts import given_of, whole_state
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.artifact.writing.decided_weights import stored_weights
from pyro_compress.data.untouched import Untouched
from pyro_compress.errors import DecisionError, NetworkError, UnstorableError, unknown_name
from pyro_compress.models.probing import evaluating, examples
from pyro_compress.models.tracing.tracer import trace
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.network.stored_weights import StoredWeights
from pyro_compress.network.unlayered import Unlayered

AUTOMATIC, RUNNABLE, WEIGHTS = KINDS = ("automatic", "runnable", "weights")
"""Runnable where the network can be traced, else weights; or the one that is asked for."""


def check_kind(kind: str) -> None:
    """Refuse another word.

    Raises:
        DecisionError: says which there are.
    """
    if kind not in KINDS:
        raise DecisionError(unknown_name("kind of file", kind, KINDS))


def description_of(network: nn.Module, input_shape: tuple[int, ...], kind: str = AUTOMATIC) -> Architecture | Unlayered:
    """What the file of a network says of it.

    Args:
        network: a plain module; not touched.
        input_shape: of one example.
        kind: one of `KINDS`.

    Raises:
        UnstorableError: a runnable file is asked for, and the network cannot be traced.
        NetworkError: it cannot be fitted either.
    """
    if kind == WEIGHTS:
        return _unlayered(network, input_shape, "weights were asked for")
    try:
        return trace(network, input_shape)
    except UnstorableError as error:
        if kind == RUNNABLE:
            raise UnstorableError(f"no runnable file can hold the network: {error}; take the kind 'weights'") from error
        return _unlayered(network, input_shape, str(error))


def _unlayered(network: nn.Module, input_shape: tuple[int, ...], reason: str) -> Unlayered:
    with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        output = Untouched()(network, examples(network, input_shape))
    if not isinstance(output, torch.Tensor):
        raise NetworkError(
            f"{type(network).__name__} returns a {type(output).__name__}, expected one tensor: give a module that "
            "returns what of it is to be fitted"
        )
    listed = network.state_dict()
    # whole numbers beside it are masks and places, nearly always the same in a module built again, and cost many bytes
    state = {name: held for name, held in whole_state(network).items() if name in listed or held.is_floating_point()}
    return Unlayered(given_of(state), tuple(output.shape[1:]), reason)


def with_what_is_lost(found: Unlayered, decision: Decision, network: nn.Module, rebuilt: nn.Module) -> Unlayered:
    """The same with those buffers beside the state dict that `rebuilt`, the module made again, has not by itself.

    A table of sines or a mask comes back; a projection or a permutation that was drawn does not, nor what training has
    moved.

    Args:
        found: of `network`.
        decision: holds real buffers as they are after training.
        network: with the run's own random numbers.
        rebuilt: from others.
    """
    listed, state, there = rebuilt.state_dict(), given_of(whole_state(network)), given_of(whole_state(rebuilt))

    def comes_back(name: str) -> bool:
        numbers = decision.buffers.get(name, state[name].numbers)
        return name not in listed and name in there and np.array_equal(there[name].numbers, numbers)

    return replace(found, state={name: held for name, held in state.items() if not comes_back(name)})


def announced(found: Architecture | Unlayered) -> str | None:
    """What is said before a fit of the file that it ends in; nothing of a runnable one."""
    if isinstance(found, Architecture):
        return None
    return (
        f"the file will hold weights, to be put into the network's own module, because {found.reason}; weights are "
        "pruned and rounded, and no unit is removed"
    )


def kind_of(decision: Decision) -> str:
    """The kind that a decision was made for."""
    return str(decision.made_by.get("kind", AUTOMATIC))


def stored(
    found: Architecture | Unlayered, decision: Decision, *, keep_deviations: bool = False
) -> StoredNetwork | StoredWeights:
    """What a file holds of a decision.

    Raises:
        DecisionError: a file of weights is to keep deviations.
    """
    if isinstance(found, Architecture):
        return stored_network(found, decision, keep_deviations=keep_deviations)
    if keep_deviations:
        raise DecisionError("a file of weights keeps no deviations: leave out keep_deviations")
    return stored_weights(found, decision)


def decoded(artifact: Artifact, network: nn.Module) -> nn.Module:
    """The network that a file holds: of its own layers, or a copy of `network` with its weights."""
    return artifact.to_torch() if artifact.kind == RUNNABLE else artifact.to_torch(network)
