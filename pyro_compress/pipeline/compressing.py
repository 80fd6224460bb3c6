"""`pc.compress`: from a decision to a file, at a size or an error that is asked for."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.examples import as_data
from pyro_compress.data.sources import Examples
from pyro_compress.errors import DecisionError
from pyro_compress.models.generative.encoder_decoder import EncoderDecoder
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.decoders import architecture_of, shipped
from pyro_compress.pipeline.kinds import check_kind, kind_of, stored
from pyro_compress.pipeline.size_targets import to_bytes, to_error
from pyro_compress.pipeline.validation import Judge, network_and_likelihood, with_batch_norm


def compress(
    network: nn.Module,
    decision: Decision,
    input_shape: tuple[int, ...] | None = None,
    *,
    data: DataSet | Examples | None = None,
    target_bytes: int | None = None,
    target_error: float | None = None,
    likelihood: Likelihood | str | None = None,
    keep_deviations: bool = False,
    kind: str | None = None,
) -> Artifact:
    """Structured removal where the file is runnable, then encoding: what `pyro-compress compress` does.

    Args:
        network: module of the original shape, or the BayesianNetwork that was fitted; only its structure is read, and
            of an autoencoder the decoder alone is stored.
        decision: what to store.
        input_shape: of one example; that of the data if not given.
        data: what a target needs: validation examples for one of the error, and where there is batch norm the training
            part, from which its statistics are gathered again under the weights that a target has moved.
        target_bytes, target_error, likelihood: see `at_target`.
        keep_deviations: the file also keeps the posterior's standard deviations, so that `Artifact.sample` can draw.
        kind: 'runnable', 'weights' (which `Artifact.load_into` puts into the module, and from which nothing is
            removed), or 'automatic', weights where the network cannot be traced; that of the decision if not given.

    Raises:
        UnstorableError: a runnable file is asked for, and the network cannot be traced.
        DecisionError: the target is out of reach (says what can be reached), both are given, there are no deviations
            to keep, or the data that are needed are not given.
    """
    network, likelihood = network_and_likelihood(network, likelihood)
    if kind is not None:
        check_kind(kind)
    held = None if data is None else as_data(data)
    if isinstance(network, EncoderDecoder):
        if target_error is not None:
            raise DecisionError(
                "a target of an autoencoder's error takes its encoder: give target_bytes, or what "
                "pipeline.decoders.decoder_road makes of network, posterior and data"
            )
        input_shape, held = (), None
    if input_shape is None:
        if held is None:
            raise DecisionError(
                "compress(...) needs the shape of one example: give input_shape=(1, 28, 28), or data=... that has it"
            )
        input_shape = held.input_shape
    architecture = architecture_of(network, input_shape, kind if kind is not None else kind_of(decision))
    decision = at_target(
        shipped(network, input_shape)[0],
        decision,
        architecture,
        held,
        target_bytes=target_bytes,
        target_error=target_error,
        likelihood=likelihood,
        keep_deviations=keep_deviations,
    )
    return Artifact.of(stored(architecture, decision, keep_deviations=keep_deviations))


def at_target(
    network: nn.Module,
    decision: Decision,
    architecture: Architecture | Unlayered,
    data: DataSet | None,
    *,
    target_bytes: int | None,
    target_error: float | None,
    likelihood: Likelihood,
    keep_deviations: bool,
    say: Callable[[str], None] = lambda line: None,
) -> Decision:
    """The decision refined to a target (`pipeline.size_targets`): weights move to integers that cost fewer bits.

    Args:
        network, decision, data, keep_deviations: of `compress`.
        architecture: of the network, as the file says it.
        target_bytes: the file has at most that many.
        target_error: its validation error is at most that many percent, or what else the likelihood counts it in.
        likelihood: p(y | output), which says what an error is.
        say: told one line per file that was tried.

    Returns:
        The same decision where there is no target, or where it is small enough already.
    """
    if target_bytes is not None and target_error is not None:
        raise DecisionError("give a target of bytes or of the error, not both: one decides the other")
    if target_bytes is None and target_error is None:
        return decision
    how: dict[str, Any] = {
        "complete": completing(network, decision, data),
        "say": say,
        "keep_deviations": keep_deviations,
    }
    if target_bytes is not None:
        return to_bytes(architecture, decision, target_bytes, **how)
    if data is None:
        raise DecisionError("a target of the error is held on validation examples: give compress(..., data=...) some")
    assert target_error is not None
    judge = Judge(network, data, likelihood)
    return to_error(architecture, decision, target_error, judge.error_in_unit, unit=judge.unit, **how)


def completing(network: nn.Module, decision: Decision, data: DataSet | None) -> Callable[[Decision], Decision]:
    """What a decision with other weights needs: batch-norm statistics of its own."""
    if not decision.buffers:
        return lambda moved: moved
    if data is None:
        raise DecisionError(
            "a target moves the weights, and then this network's batch norm needs its statistics gathered again: give "
            "compress(..., data=...) the examples that it was fitted to"
        )
    return partial(with_batch_norm, copy.deepcopy(network).to(data.train_x.device), data=data, kind=kind_of(decision))
