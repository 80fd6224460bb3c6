"""Likelihoods, one file each."""

from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.models.likelihoods.bernoulli import Bernoulli
from pyro_compress.models.likelihoods.categorical import Categorical
from pyro_compress.models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_compress.models.likelihoods.cox import Cox
from pyro_compress.models.likelihoods.gaussian import Gaussian
from pyro_compress.models.likelihoods.piecewise_exponential import PiecewiseExponential
from pyro_compress.models.likelihoods.poisson import Poisson
from pyro_compress.models.likelihoods.registry import LIKELIHOODS

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Cox",
    "Gaussian",
    "Likelihood",
    "PiecewiseExponential",
    "Poisson",
]
