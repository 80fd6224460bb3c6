"""The predictive of networks that were drawn elsewhere, such as from the posterior that a compressed file keeps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyro_compress.data.splits import EXAMPLES_PER_PASS
from pyro_compress.data.untouched import Untouched
from pyro_compress.inference.results.predictive import PosteriorPredictive, RunningMoments
from pyro_compress.models.likelihoods import Likelihood


def networks_predictive(
    networks: Iterable[nn.Module],
    likelihood: Likelihood,
    x: Tensor,
    y: Tensor | None = None,
    *,
    chunk: int = EXAMPLES_PER_PASS,
) -> PosteriorPredictive:
    """Mean, variances and entropies of y, each network of equal weight; the likelihood has no latent site.

    Args:
        networks: in evaluation mode; each is run once, then the next one is asked for.
        likelihood: p(y | output).
        x, y, chunk: as for `posterior_predictive`.
    """
    running = RunningMoments(likelihood)
    with torch.no_grad():
        for network in networks:
            untouched = Untouched()
            running.add(1.0, torch.cat([untouched(network, part) for part in x.split(chunk)]).double(), None, y)
    return running.summary(y)
