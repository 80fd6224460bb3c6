"""All that predicts in a run: the decoded file, the posterior mean, the predictive, samples of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pyro_compress.artifact.writing.artifact import Artifact
from pyro_compress.data.dataset import DataSet
from pyro_compress.data.generators import generator_for
from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.inference.results.drawn_networks import networks_predictive
from pyro_compress.inference.results.predictive import PosteriorPredictive, posterior_predictive
from pyro_compress.models.likelihoods import Likelihood
from pyro_compress.models.likelihoods.fitted import fitted
from pyro_compress.network.stored import StoredNetwork
from pyro_compress.pipeline.kinds import RUNNABLE, decoded
from pyro_compress.pipeline.settings import RunSettings
from pyro_compress.pipeline.starting import fitted_network, rebuilt_network
from pyro_compress.pipeline.steps import RunDirectory
from pyro_compress.pipeline.validation import nothing_pruned, place
from pyro_compress.posterior.posterior import Posterior
from pyro_compress.report.measure import predict

PREDICTIVE = "posterior predictive"
FILE_SAMPLES = "samples of the file"
ENTROPY, INFORMATION = "predictive entropy", "mutual information"


@dataclass(frozen=True, eq=False)
class Predicted:
    """What one predictor says of the test examples; arrays are (examples, ...)."""

    errors: np.ndarray
    nll_nats: np.ndarray
    probabilities: np.ndarray | None
    entropy: np.ndarray | None
    information: np.ndarray | None
    epistemic: np.ndarray | None = None
    aleatoric: np.ndarray | None = None

    @property
    def uncertainty(self) -> np.ndarray | None:
        """What the most uncertain examples are rejected by: the entropy, or for real targets the variance."""
        if self.entropy is not None or self.epistemic is None or self.aleatoric is None:
            return self.entropy
        return (self.epistemic + self.aleatoric).reshape(len(self.errors), -1).sum(1)


class Averaged(Protocol):
    """The predictive mean of draws, of inputs and, if they are given, targets."""

    def __call__(self, x: Tensor, y: Tensor | None = None) -> PosteriorPredictive: ...


@dataclass(frozen=True, eq=False)
class Predictors:
    """All that predicts in a run, by what people call it: single networks, and averages over draws of networks."""

    networks: Mapping[str, nn.Module]
    averaged: Mapping[str, Averaged]
    likelihood: Likelihood

    def of_network(self, network: nn.Module, x: Tensor, y: Tensor) -> Predicted:
        """What one network says of examples; it has no mutual information."""
        found = predict(network, x, y, self.likelihood)
        entropy = None
        if found.probabilities is not None:
            entropy = _array(self.likelihood.entropy(torch.from_numpy(found.probabilities)))
        information = None if entropy is None else np.zeros_like(entropy)
        return Predicted(found.errors, found.nll_nats, found.probabilities, entropy, information)

    def measures(self, x: Tensor) -> dict[str, dict[str, np.ndarray]]:
        """What tells inputs apart, of each predictor, where no targets are known."""
        found = {name: _measures_of_network(network, x, self.likelihood) for name, network in self.networks.items()}
        for name, predictive in self.averaged.items():
            far = predictive(x)
            found[name] = measures_of(far.predictive_entropy, far.mutual_information)
        return found


def predictors_of(run: RunDirectory, settings: RunSettings, data: DataSet, draws: int) -> Predictors:
    """The decoded file, the posterior mean and the predictive; samples of the file where it keeps deviations."""
    posterior, seed = Posterior.load(run.posterior), settings.seed
    likelihood = fitted(settings.build_likelihood(), posterior)
    model = settings.build_model(fitted_network(run, settings, data))
    networks = {"posterior mean": fitted_network(run, settings, data)}
    place(networks["posterior mean"], nothing_pruned(posterior))
    averaged: dict[str, Averaged] = {
        PREDICTIVE: partial(posterior_predictive, model, posterior, draws=draws, seed=seed)
    }
    if run.file.exists():
        artifact = run.artifact()
        module = networks["posterior mean"] if artifact.kind == RUNNABLE else rebuilt_network(run, settings, data)
        networks = {"decoded file": decoded(artifact, module), **networks}
        if isinstance(artifact.held, StoredNetwork) and artifact.held.deviations:
            averaged[FILE_SAMPLES] = partial(_sampled_predictive, artifact, likelihood, draws, seed)
    return Predictors(networks, averaged, likelihood)


def _sampled_predictive(
    artifact: Artifact, likelihood: Likelihood, draws: int, seed: int, x: Tensor, y: Tensor | None = None
) -> PosteriorPredictive:
    """The predictive of networks drawn from the posterior that a file keeps."""
    generator = generator_for(seed, 0)
    return networks_predictive((artifact.sample(generator) for _ in range(draws)), likelihood, x, y)


def of_draws(averaged: PosteriorPredictive, data: DataSet) -> Predicted:
    """What an average over draws says of examples whose targets it was given."""
    assert averaged.errors is not None and averaged.nll_nats is not None
    return Predicted(
        averaged.errors,
        averaged.nll_nats,
        averaged.mean if data.classes is not None and averaged.mean.ndim == 2 else None,
        averaged.predictive_entropy,
        averaged.mutual_information,
        averaged.epistemic_variance,
        averaged.aleatoric_variance,
    )


def _measures_of_network(network: nn.Module, x: Tensor, likelihood: Likelihood) -> dict[str, np.ndarray]:
    network.eval()
    with torch.no_grad():
        untouched = Untouched()
        means = torch.cat([likelihood.mean(untouched(network, part).double()) for part in x.split(EXAMPLES_PER_PASS)])
    return measures_of(_array(likelihood.entropy(means)), None)


def measures_of(entropy: np.ndarray | None, information: np.ndarray | None) -> dict[str, np.ndarray]:
    """What tells inputs apart: a network without weights to draw has no mutual information."""
    named = {ENTROPY: entropy, INFORMATION: information}
    return {name: values for name, values in named.items() if values is not None}


def _array(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else values.numpy()
