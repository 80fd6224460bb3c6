"""Likelihoods by the names that zoo entries and the command line use."""

from pyro_compress.config.registry import Registry
from pyro_compress.errors import RunError
from pyro_compress.models.likelihoods.base import Likelihood
from pyro_compress.models.likelihoods.bernoulli import Bernoulli
from pyro_compress.models.likelihoods.categorical import Categorical
from pyro_compress.models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_compress.models.likelihoods.cox import Cox
from pyro_compress.models.likelihoods.gaussian import Gaussian
from pyro_compress.models.likelihoods.piecewise_exponential import PiecewiseExponential
from pyro_compress.models.likelihoods.poisson import Poisson

LIKELIHOODS: Registry[Likelihood] = Registry(
    "likelihood",
    RunError,
    "pyro_compress.likelihoods",
    {
        "categorical": Categorical,
        "gaussian": Gaussian,
        "bernoulli": Bernoulli,
        "continuous-bernoulli": ContinuousBernoulli,
        "poisson": Poisson,
        "cox": Cox,
        "piecewise-exponential": PiecewiseExponential,
    },
)
