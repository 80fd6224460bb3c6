"""Whether noise that is another at every place of an image, of local reparameterization, stands for that of weights."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_compress.data.generators import noise_of
from pyro_compress.errors import InferenceError
from pyro_compress.inference.guides.lazy_values import LazyNormal
from pyro_compress.models.bayesian import BayesianNetwork
from pyro_compress.models.likelihoods.fitted import fitted
from pyro_compress.posterior.posterior import Flag, Posterior

EXAMPLES, SEED = 300, 20150612
# draws of all weights, and as many numbers as these may hold together
LEAST_DRAWS, MOST_DRAWS, NUMBERS = 16, 256, 2**21
# nats per example by which the data term may be better under noise per place, and as a share of what it is
LEAST, SHARE = 0.01, 0.2


def flags_of_places(
    posterior: Posterior, trained: BayesianNetwork, x: Tensor, y: Tensor, found: dict[str, Any]
) -> Iterator[Flag]:
    """A flag where ln p(y | x) is far better with noise per output than with draws of the weights.

    Both have the same mean and variance of every output; where places are put together, by pooling or by a mean, noise
    per place averages out and that of a weight does not.

    Args:
        posterior: of SVI with the estimator 'local'.
        trained: the network as it runs after training, `at_draws.with_buffers`.
        x, y: training examples, of which the first are looked at.
        found: takes the numbers.
    """
    noisy = {
        name: (torch.from_numpy(site.mean).to(x.device), torch.from_numpy(site.variance).sqrt().to(x.device))
        for name, site in posterior.parameters.items()
        if name in posterior.latents and posterior.latents[name].family == "normal" and not site.is_point
    }
    if not any(mean.ndim > 1 for mean, _ in noisy.values()) or not trained.likelihood.factorises:
        return
    x, y, likelihood = x[:EXAMPLES], y[:EXAMPLES], fitted(trained.likelihood, posterior)
    known = {name: value.to(x.device) for name, value in trained.values_at(posterior).items()}

    draws = max(LEAST_DRAWS, min(MOST_DRAWS, NUMBERS // sum(mean.numel() for mean, _ in noisy.values())))

    def nats(values: Mapping[str, Any]) -> float:
        return float(likelihood.log_prob(trained.call_network(known | dict(values), x), y).mean())

    with torch.no_grad(), noise_of(SEED, x.device):
        try:
            by_output = [nats({n: LazyNormal(m, sd) for n, (m, sd) in noisy.items()}) for _ in range(draws)]
        except InferenceError:
            # a weight that is read twice is drawn once, and may well stand behind others
            return
        by_weight = [nats({n: m + sd * torch.randn_like(m) for n, (m, sd) in noisy.items()}) for _ in range(draws)]
    outputs, weights = torch.tensor(by_output), torch.tensor(by_weight)
    better = float(outputs.mean() - weights.mean())
    error = math.sqrt(float(outputs.var() + weights.var()) / draws)
    found["noise_per_place_nats"] = better
    if better > max(LEAST, SHARE * abs(float(weights.mean())), 4 * error):
        yield Flag(
            "noise_per_place",
            f"the data term of the ELBO, {float(outputs.mean()):.3g} nats per example under noise that is another at "
            f"every place, is {float(weights.mean()):.3g} ± {error:.1g} at draws of the weights: the ELBO is too high "
            "and the weights' variances too wide, as where places are pooled; fit with SVI(estimator='flipout')",
        )
