"""What the search for a decision compares: validation errors of the numbers that would be stored."""

import copy
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import torch
from torch import nn

from pyro_compress.analysis.decisions.decision import FLOAT_BITS, Decision, SiteDecision
from pyro_compress.analysis.decisions.norms import with_norms_on_grids
from pyro_compress.data.dataset import DataSet
from pyro_compress.errors import DecisionError
from pyro_compress.inference.finetuning.batch_norm import reestimate_batch_norm
from pyro_compress.inference.loop.processes import Ranks
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.layouts import AnyLayout, lay_filters_last
from pyro_compress.models.likelihoods import LIKELIHOODS, Categorical, Likelihood
from pyro_compress.network.architecture import Architecture
from pyro_compress.network.unlayered import Unlayered
from pyro_compress.pipeline.acceptance import CONFIDENCE, changed, rise_of, upper_points, within
from pyro_compress.pipeline.kinds import AUTOMATIC, description_of
from pyro_compress.posterior.error_unit import ErrorUnit
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report.measure import mean_answer, predict


def network_and_likelihood(given: nn.Module, likelihood: Likelihood | str | None) -> tuple[nn.Module, Likelihood]:
    """The plain network; and the likelihood that is given or named, else a Bayesian network's own, else categorical.

    Raises:
        DecisionError: what is given is no module, such as a Pyro model that is a function.
    """
    if not isinstance(given, nn.Module):
        name = getattr(given, "__name__", type(given).__name__)
        raise DecisionError(f"a network is needed here, a torch module or a BayesianNetwork, found {name}")
    own = given.likelihood if isinstance(given, BayesianNetwork) else Categorical()
    network = given.network if isinstance(given, BayesianNetwork) else given
    named = LIKELIHOODS.build(likelihood) if isinstance(likelihood, str) else likelihood
    return network, named or own


class Judge:
    """Errors of a decision on the validation split, paired with those of the posterior mean; ranks share the work."""

    def __init__(self, network: nn.Module, data: DataSet, likelihood: Likelihood, kind: str = AUTOMATIC) -> None:
        if not likelihood.factorises:
            raise DecisionError(
                f"{type(likelihood).__name__}'s likelihood is no product over examples, and the road to a file trains "
                "and judges on parts of the data: take the likelihood 'piecewise-exponential'"
            )
        self.network, self.data, self.likelihood = copy.deepcopy(network).to(data.train_x.device), data, likelihood
        self.kind = kind
        # tracing runs the one above, which may ask for views that filters in this layout have none of
        self._quick = copy.deepcopy(self.network)
        lay_filters_last(self._quick)

    def described(self) -> Architecture | Unlayered:
        """What the file says of the network."""
        return description_of(self.network, self.data.input_shape, self.kind)

    def completed(self, decision: Decision) -> Decision:
        """The decision with the batch-norm statistics that go with what it stores, as near as a choice needs them."""
        return with_batch_norm(self.network, decision, self.data, self.kind, roughly=True)

    def finished(self, decision: Decision) -> Decision:
        """The same with statistics as they are shipped."""
        return with_batch_norm(self.network, decision, self.data, self.kind)

    @property
    def unit(self) -> ErrorUnit:
        """What errors are printed in."""
        return self.likelihood.error_unit

    def text(self, errors: np.ndarray) -> str:
        """The mean error as it is printed."""
        return self.unit.text(float(errors.mean()))

    def errors(self, decision: Decision) -> np.ndarray:
        """Per-example validation errors of what the decision stores, (examples,)."""
        place(self._quick, decision)
        return self._errors(self._quick)

    def errors_of(self, network: nn.Module) -> np.ndarray:
        """The same of a network as it is."""
        network = copy.deepcopy(network).to(self.data.train_x.device)
        lay_filters_last(network)
        return self._errors(network)

    def _errors(self, network: nn.Module) -> np.ndarray:
        x, y = self.data.part("validation")
        with AnyLayout():
            return Ranks.here().rows(len(x), lambda rows: predict(network, x[rows], y[rows], self.likelihood).errors)

    def errors_of_one_answer(self, decision: Decision) -> np.ndarray:
        """The same of the mean of all that a decision answers, if every example were answered with it, (examples,)."""
        place(self._quick, decision)
        x, y = self.data.part("validation")
        with AnyLayout():
            mean = mean_answer(self._quick, x, self.likelihood)
        return self.likelihood.error(self.likelihood.link(mean).expand(len(y), *mean.shape), y).cpu().double().numpy()

    def error_in_unit(self, decision: Decision) -> float:
        """The mean of `errors` in its unit, by one division: no rounding decides if it is one asked for."""
        errors = self.errors(decision)
        return self.unit.scale * float(errors.sum()) / len(errors)

    def rise(self, decision: Decision, reference: np.ndarray) -> tuple[float, float]:
        """(rise of the error over `reference`, its paired standard error), in points; see `pipeline.acceptance`."""
        return self.rise_of(self.errors(decision), reference)

    def rise_of(self, errors: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        """The same for errors that are known."""
        scale = self.likelihood.error_scale(self.data.part("validation")[1])
        return rise_of(errors, reference, targets=self.targets, scale=scale)

    def accepts(self, decision: Decision, reference: np.ndarray, tolerance_points: float) -> bool:
        """Whether the rise is within the tolerance."""
        return within(self.rise(decision, reference)[0], tolerance_points)

    @property
    def targets(self) -> int | None:
        """Targets of one example where errors are counted, and all have as many; else None."""
        y = self.data.part("validation")[1]
        return self.likelihood.target_count(y) if self.likelihood.counts_errors else None

    def evidence(self, decision: Decision, reference: np.ndarray) -> dict[str, float]:
        """What validation says of a decision: its rise over the reference, by how much on what, and the 90 % bound."""
        errors = self.errors(decision)
        rise, standard_error = self.rise_of(errors, reference)
        found = {"examples": len(errors), "rise_points": rise}
        if not self.likelihood.counts_errors:
            return {**found, "upper_points_90": rise + NormalDist().inv_cdf(CONFIDENCE) * standard_error}
        if self.targets is not None:
            found["newly_wrong"], found["newly_right"] = changed(errors, reference, self.targets)
        difference = errors - reference
        bound = upper_points(float(difference.sum()), float((difference**2).sum()), len(errors))
        return {**found, "upper_points_90": bound}


def place(network: nn.Module, decision: Decision) -> None:
    """Write what a decision stores into a network of the original shape.

    Raises:
        DecisionError: the network has other parameters.
    """
    for name, parameter in network.named_parameters():
        held = tuple(decision.sites[name].value.shape) if name in decision.sites else None
        if held != tuple(parameter.shape):
            raise DecisionError(
                f"the network has {name} of shape {tuple(parameter.shape)}, and what was fitted has "
                + ("no such parameter" if held is None else f"it of shape {held}")
                + ": give the network as it was when it was fitted"
            )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(decision.sites[name].stored()))
        for name, buffer in network.named_buffers():
            if name in decision.buffers:
                buffer.copy_(torch.from_numpy(np.asarray(decision.buffers[name])))


def nothing_pruned(posterior: Posterior) -> Decision:
    """The posterior mean as it is: the 'before' of every comparison."""
    sites = {
        name: SiteDecision.of(site, np.full(site.mean.shape, FLOAT_BITS, np.uint8))
        for name, site in posterior.parameters.items()
    }
    return Decision(sites, dict(posterior.buffers))


# where many decisions are tried: examples and passes that leave statistics within a hundredth of a standard deviation
ROUGHLY = {"examples": 5_000, "passes": 2}


def with_batch_norm(
    network: nn.Module, decision: Decision, data: DataSet, kind: str = AUTOMATIC, roughly: bool = False
) -> Decision:
    """The decision with batch-norm statistics re-estimated under what it stores, and on the grids that a file has.

    A file of weights has none for them: it holds them as they are.
    """
    if not decision.buffers:
        return decision
    place(network, decision)
    reestimate_batch_norm(network, data, **(ROUGHLY if roughly else {}))
    buffers = {name: b.cpu().numpy().copy() for name, b in network.named_buffers() if b.is_floating_point()}
    decision, found = replace(decision, buffers=buffers), description_of(network, data.input_shape, kind)
    return with_norms_on_grids(found, decision) if isinstance(found, Architecture) else decision
