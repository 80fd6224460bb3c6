"""`pc.compress`: from a decision to a file."""

import copy
from collections.abc import Callable
from functools import partial

from torch import nn

from pyro_compress.analysis.decisions.decision import Decision
from pyro_compress.analysis.decisions.kept_deviations import stored_network
from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.data.dataset import DataSet, as_data
from pyro_compress.data.sources import Examples
from pyro_compress.errors import DecisionError
from pyro_compress.models.tracing import trace
from pyro_compress.pipeline.size_targets import to_bytes
from pyro_compress.pipeline.validation import with_batch_norm


def compress(
    network: nn.Module,
    decision: Decision,
    input_shape: tuple[int, ...],
    *,
    target_bytes: int | None = None,
    keep_deviations: bool = False,
    data: DataSet | Examples | None = None,
) -> Artifact:
    """Structured removal, then encoding.

    Args:
        network: module of the original shape; only its structure is read.
        decision: what to store.
        input_shape: of one example.
        target_bytes: the file has at most that many: weights move to integers that cost fewer bits, as far as the
            posterior's variance makes that cheap (`artifact.writing.rate_distortion`).
        keep_deviations: the file also keeps the posterior's standard deviations, so that `Artifact.sample` can draw.
        data: examples whose training part batch-norm statistics are gathered from again under the weights that a target
            has moved; needed for a target where there is batch norm, and not looked at otherwise.

    Raises:
        DecisionError: the target is out of reach (says the smallest size that can be reached), there are no deviations
            to keep, or a target lacks the data that it needs.
    """
    architecture = trace(network, input_shape)
    if target_bytes is not None:
        complete = _complete(network, decision, data)
        decision = to_bytes(architecture, decision, target_bytes, complete=complete, keep_deviations=keep_deviations)
    return Artifact.of(stored_network(architecture, decision, keep_deviations=keep_deviations))


def _complete(
    network: nn.Module, decision: Decision, data: DataSet | Examples | None
) -> Callable[[Decision], Decision]:
    """What a decision with other weights needs: batch-norm statistics of its own."""
    if not decision.buffers:
        return lambda moved: moved
    if data is None:
        raise DecisionError(
            "a target moves the weights, and then this network's batch norm needs its statistics gathered again: give "
            "compress(..., data=...) the examples that it was fitted to"
        )
    return partial(with_batch_norm, copy.deepcopy(network), data=as_data(data))
