"""Inference methods by the names that zoo entries and the command line use."""

from pyro_compress.config.registry import Registry
from pyro_compress.errors import InferenceError
from pyro_compress.inference.contract import Method
from pyro_compress.inference.independent.importance import ImportanceSampling
from pyro_compress.inference.independent.rejection import RejectionSampling
from pyro_compress.inference.mcmc.approximate_metropolis import ApproximateMetropolis
from pyro_compress.inference.mcmc.hmc import HMC
from pyro_compress.inference.mcmc.metropolis import Metropolis
from pyro_compress.inference.mcmc.nuts import NUTS
from pyro_compress.inference.point.dropout import Dropout, MCDropout
from pyro_compress.inference.point.dynamic_network_surgery import DynamicNetworkSurgery
from pyro_compress.inference.point.group_lasso import GroupLasso
from pyro_compress.inference.point.learning_compression import LearningCompression
from pyro_compress.inference.point.magnitude_pruning import MagnitudePruning
from pyro_compress.inference.point.map import MAP
from pyro_compress.inference.stochastic_gradient.cyclical import CyclicalSGHMC, CyclicalSGLD
from pyro_compress.inference.stochastic_gradient.psgld import PreconditionedSGLD
from pyro_compress.inference.stochastic_gradient.sghmc import SGHMC
from pyro_compress.inference.stochastic_gradient.sgld import SGLD
from pyro_compress.inference.variational.bayes_by_backprop import BayesByBackprop
from pyro_compress.inference.variational.svi import SVI

METHODS: Registry[Method] = Registry(
    "inference method",
    InferenceError,
    "pyro_compress.methods",
    {
        "svi": SVI,
        "bbb": BayesByBackprop,
        "map": MAP,
        "dropout": Dropout,
        "mc-dropout": MCDropout,
        "magnitude-pruning": MagnitudePruning,
        "dynamic-network-surgery": DynamicNetworkSurgery,
        "group-lasso": GroupLasso,
        "learning-compression": LearningCompression,
        "sgld": SGLD,
        "psgld": PreconditionedSGLD,
        "sghmc": SGHMC,
        "csgld": CyclicalSGLD,
        "csghmc": CyclicalSGHMC,
        "metropolis": Metropolis,
        "approximate-metropolis": ApproximateMetropolis,
        "hmc": HMC,
        "nuts": NUTS,
        "importance": ImportanceSampling,
        "rejection": RejectionSampling,
    },
)
