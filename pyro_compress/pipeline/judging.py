"""What the search for a decision compares: validation errors of the numbers that would be stored."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decision import Decision
from pyro_compress.analysis.norms import with_norms_on_grids
from pyro_compress.analysis.pruning import prune
from pyro_compress.data import DataSet
from pyro_compress.inference.batch_norm import reestimate_batch_norm
from pyro_compress.inference.ranks import Ranks
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.tracing import trace
from pyro_compress.posterior import Posterior
from pyro_compress.report.measure import predict


class Judge:
    """Errors of a decision on the validation split, paired with those of the posterior mean; ranks share the work."""

    def __init__(self, network: nn.Module, data: DataSet, likelihood: Likelihood) -> None:
        self.network, self.data, self.likelihood = copy.deepcopy(network), data, likelihood

    def errors(self, decision: Decision) -> np.ndarray:
        """Per-example validation errors of what the decision stores, (examples,)."""
        place(self.network, decision)
        x, y = self.data.part("validation")
        return Ranks.here().rows(len(x), lambda rows: predict(self.network, x[rows], y[rows], self.likelihood).errors)

    def error_percent(self, decision: Decision) -> float:
        """100 × the mean of `errors`."""
        return 100 * float(self.errors(decision).mean())

    def rise(self, decision: Decision, reference: np.ndarray) -> tuple[float, float]:
        """(mean rise of the error over `reference`, its paired standard error), in percentage points."""
        difference = (self.errors(decision) - reference) * 100.0
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))

    def accepts(self, decision: Decision, reference: np.ndarray, tolerance_points: float) -> bool:
        """Whether the rise is within the tolerance, or within its own standard error where that is larger."""
        rise, standard_error = self.rise(decision, reference)
        return rise <= max(tolerance_points, standard_error)


def place(network: nn.Module, decision: Decision) -> None:
    """Write what a decision stores into a network of the original shape."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(decision.sites[name].stored()))
        for name, buffer in network.named_buffers():
            if name in decision.buffers:
                buffer.copy_(torch.from_numpy(np.asarray(decision.buffers[name])))


def nothing_pruned(posterior: Posterior) -> Decision:
    """The posterior mean as it is: the 'before' of every comparison."""
    return prune(posterior, group_threshold=np.inf, log_alpha=np.inf)


def with_batch_norm(network: nn.Module, decision: Decision, data: DataSet) -> Decision:
    """The decision with batch-norm statistics re-estimated under what it stores, and on the grids that a file has."""
    if not decision.buffers:
        return decision
    place(network, decision)
    reestimate_batch_norm(network, data)
    buffers = {name: b.cpu().numpy().copy() for name, b in network.named_buffers() if b.is_floating_point()}
    return with_norms_on_grids(trace(network, data.input_shape), replace(decision, buffers=buffers))
